/** The dialog that shows one image with all that is known of it. */

import { byId, element } from "./dom.js";
import { extensionOf, fileName, pngOf, save, show } from "./images.js";
import { KNOBS } from "./knob_list.js";

/** @typedef {import("./drawing.js").Run} Run */

const SHOWN = ["seed", "size", "output_format"]; // settings that the image itself shows

/** @param {(seed: number) => void} useSeed */
export function connectDetails(useSeed) {
  const dialog = byId("details", HTMLDialogElement);
  const image = byId("details-image", HTMLImageElement);
  const turns = { ArrowLeft: byId("details-before", HTMLButtonElement), ArrowRight: byId("details-after", HTMLButtonElement) };
  /** @type {{run: Run, number: number}|null} */
  let shown = null;
  byId("close-details", HTMLButtonElement).addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => URL.revokeObjectURL(image.src));
  dialog.addEventListener("keydown", ({ key }) => turns[/** @type {keyof typeof turns} */ (key)]?.click());
  turns.ArrowLeft.addEventListener("click", () => turn(-1));
  turns.ArrowRight.addEventListener("click", () => turn(1));

  /** @param {number} by */
  function turn(by) {
    if (!shown) return;
    const count = shown.run.images.length;
    open(shown.run, ((shown.number - 1 + by + count) % count) + 1);
  }

  /**
   * Open the dialog, or show another image in it.
   * @param {Run} run
   * @param {number} number of the image, from 1
   */
  async function open(run, number) {
    shown = { run, number };
    const drawn = run.images[number - 1];
    show(image, drawn.blob);
    image.alt = run.title;
    await image.decode().catch(() => {}); // another image may have taken its place
    if (shown.run !== run || shown.number !== number) return;
    byId("details-title", HTMLElement).textContent = `Image ${number} of ${run.images.length}`;
    const rows = facts(run, number, image).map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
    byId("details-facts", HTMLElement).replaceChildren(...rows.flat());
    byId("details-actions", HTMLElement).replaceChildren(...actions(run, number, useSeed, dialog));
    for (const button of Object.values(turns)) button.hidden = run.images.length === 1;
    if (!dialog.open) dialog.showModal();
  }
  return open;
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
  const shared = [download, ...copyButton(blob)];
  if (seed === null) return shared;
  const again = element("button", { type: "button" }, "Use this seed");
  again.addEventListener("click", () => {
    dialog.close();
    useSeed(seed);
  });
  return [...shared, again];
}

/**
 * Return a button that copies an image, if the browser lets this page write to the clipboard.
 * @param {Blob} blob
 */
function copyButton(blob) {
  if (!navigator.clipboard?.write) return [];
  const copy = element("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": pngOf(blob) })]);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "The browser refused";
    }
  });
  return [copy];
}
