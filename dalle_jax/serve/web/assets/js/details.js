/** The dialog that shows one image with all that is known of it. */

import { byId, element } from "./dom.js";
import { extensionOf, fileName, save, show } from "./images.js";
import { KNOBS } from "./knob_list.js";

/** @typedef {import("./drawing.js").Run} Run */

const SHOWN = ["seed", "size", "output_format"]; // settings that the image itself shows

/** @param {(seed: number) => void} useSeed */
export function connectDetails(useSeed) {
  const dialog = byId("details", HTMLDialogElement);
  const image = byId("details-image", HTMLImageElement);
  byId("close-details", HTMLButtonElement).addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => URL.revokeObjectURL(image.src));

  /**
   * Open the dialog.
   * @param {Run} run
   * @param {number} number of the image, from 1
   */
  return async (run, number) => {
    const drawn = run.images[number - 1];
    show(image, drawn.blob);
    image.alt = run.title;
    await image.decode();
    byId("details-title", HTMLElement).textContent = `Image ${number} of ${run.images.length}`;
    const rows = facts(run, number, image).map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
    byId("details-facts", HTMLElement).replaceChildren(...rows.flat());
    byId("details-actions", HTMLElement).replaceChildren(...actions(run, number, useSeed, dialog));
    dialog.showModal();
  };
}

/**
 * @param {Run} run
 * @param {number} number
 * @param {HTMLImageElement} image
 * @returns {[string, string][]}
 */
function facts(run, number, image) {
  const { blob, seed, score, candidate } = run.images[number - 1];
  /** @type {[string, string|number|null][]} */
  const all = [
    ["Prompt", run.prompt],
    ["Model", run.model],
    ["Seed", seed],
    ["Candidate", candidate],
    ["CLIP score", score?.toFixed(4) ?? null],
    ["Size", `${image.naturalWidth} × ${image.naturalHeight} pixels`],
    ["File", `${extensionOf(blob).toUpperCase()}, ${blob.size.toLocaleString()} bytes`],
    ["Drawn", `${new Date(run.time).toLocaleString()}, in ${run.seconds.toFixed(1)} s`],
    ...KNOBS.filter(({ name }) => !SHOWN.includes(name)).map(({ name, label }) => settingOf(run, name, label)),
  ];
  return all.flatMap(([name, value]) => (value === null || value === "" ? [] : [[name, String(value)]]));
}

/**
 * @param {Run} run
 * @param {string} name
 * @param {string} label
 * @returns {[string, string|number|null]}
 */
const settingOf = (run, name, label) => [label, run.settings[name] ?? null];

/**
 * @param {Run} run
 * @param {number} number
 * @param {(seed: number) => void} useSeed
 * @param {HTMLDialogElement} dialog
 */
function actions(run, number, useSeed, dialog) {
  const { blob, seed } = run.images[number - 1];
  const download = element("button", { type: "button", className: "primary" }, "Download");
  download.addEventListener("click", () => save(blob, fileName(run.title, seed, number)));
  if (seed === null) return [download];
  const again = element("button", { type: "button" }, "Use this seed");
  again.addEventListener("click", () => {
    dialog.close();
    useSeed(seed);
  });
  return [download, again];
}
