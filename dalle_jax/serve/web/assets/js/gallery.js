/** The images of a run: places for those that are drawn, partial images, and the finished ones. */

import { byId, element, quietButton } from "./dom.js";
import { emptyOf, fileName, save, show } from "./images.js";

/**
 * @typedef {import("./drawing.js").Run} Run
 * @typedef {import("./drawing.js").Drawn} Drawn
 * @typedef {{open: (run: Run, number: number) => void, edit: (image: Drawn, prompt: string) => void, vary: (image: Drawn, prompt: string) => void}} Actions
 */

export class Gallery {
  /**
   * @param {Actions} actions
   * @param {() => {edit: boolean, vary: boolean}} abilities
   */
  constructor(actions, abilities) {
    this.actions = actions;
    this.abilities = abilities;
    this.section = byId("images-section", HTMLElement);
    this.list = byId("images", HTMLUListElement);
    this.saveAll = byId("download-all", HTMLButtonElement);
    this.saveAll.addEventListener("click", () => this.download());
    /** @type {{run: Run, title: string}|null} the finished run that was shown last */
    this.last = null;
  }

  /**
   * Make places for images that will come.
   * @param {string} title
   * @param {number} count
   */
  begin(title, count) {
    this.clear(title);
    for (let slot = 0; slot < count; slot++) this.list.append(waiting(slot));
  }

  /**
   * @param {number} slot
   * @param {Blob} blob an image as far as it is drawn
   * @param {string} alt
   * @param {string} state
   */
  place(slot, blob, alt, state) {
    while (this.list.children.length <= slot) this.list.append(waiting(this.list.children.length));
    const card = this.list.children[slot];
    const image = card.querySelector("img") ?? element("img");
    image.alt = alt;
    show(image, blob);
    card.querySelector(".blank")?.replaceWith(image);
    const caption = card.querySelector(".caption");
    if (caption) caption.textContent = `Image ${slot + 1}, ${state}`;
  }

  /**
   * Show a finished run with its actions.
   * @param {Run} run
   * @param {string} title
   */
  finish(run, title) {
    this.clear(title);
    this.list.append(...run.images.map((image, i) => this.card(run, image, i)));
    byId("warnings", HTMLElement).textContent = run.warnings.join(" ");
    this.saveAll.hidden = run.images.length === 1;
    this.last = { run, title };
  }

  /** Remove the places of a run that was not finished, and show the one before it again. */
  abandon() {
    if (this.last) return this.finish(this.last.run, this.last.title);
    this.clear("");
    this.section.hidden = true;
  }

  /** Save all images of the run. */
  download() {
    const run = this.last?.run;
    run?.images.forEach(({ blob, seed }, index) => save(blob, fileName(run.title, seed, index + 1)));
  }

  /** @param {string} title */
  clear(title) {
    if (this.list.contains(document.activeElement)) byId("images-title", HTMLElement).focus();
    emptyOf(this.list);
    this.section.hidden = false;
    this.saveAll.hidden = true;
    byId("images-prompt", HTMLElement).textContent = title;
    byId("warnings", HTMLElement).textContent = "";
  }

  /**
   * @param {Run} run
   * @param {Drawn} image
   * @param {number} index
   */
  card(run, image, index) {
    const number = index + 1;
    const shown = element("img", { alt: `Image ${number} of ${run.images.length}: ${run.title}` });
    show(shown, image.blob);
    const view = element("button", { type: "button", className: "view", "aria-label": `Details of image ${number}` }, shown);
    view.addEventListener("click", () => this.actions.open(run, number));
    const name = fileName(run.title, image.seed, number);
    const abilities = this.abilities();
    const actions = [
      ...(abilities.edit ? [quietButton("Edit", `Edit image ${number}`, () => this.actions.edit(image, run.title))] : []),
      ...(abilities.vary ? [quietButton("Vary", `Vary image ${number}`, () => this.actions.vary(image, run.title))] : []),
      quietButton("Download", `Download image ${number}`, () => save(image.blob, name)),
    ];
    const caption = image.score === null ? `Image ${number}` : `Image ${number}, score ${image.score.toFixed(3)}`;
    return element(
      "li",
      { className: "card" },
      view,
      element("div", { className: "caption" }, caption),
      element("div", { className: "actions" }, ...actions),
    );
  }
}

/** @param {number} slot */
function waiting(slot) {
  return element(
    "li",
    { className: "card waiting" },
    element("div", { className: "blank" }),
    element("div", { className: "caption" }, `Image ${slot + 1}, waiting`),
  );
}
