/** The list of earlier runs. */

import { ask, byId, element, quietButton } from "./dom.js";
import { emptyOf, show } from "./images.js";

/** @typedef {import("./drawing.js").Run} Run */

const MOST_THUMBS = 3;
const KINDS = { generations: "", edits: "Edit: ", changes: "Change: ", variations: "Variations: " };

export class HistoryList {
  /**
   * @param {import("./history.js").History} history
   * @param {(run: Run) => void} open
   */
  constructor(history, open) {
    this.history = history;
    this.open = open;
    this.list = byId("history", HTMLUListElement);
    byId("clear-history", HTMLButtonElement).addEventListener("click", () => this.clear());
  }

  /** Show all runs that are kept. */
  async refresh() {
    const runs = await this.history.all();
    emptyOf(this.list);
    this.list.append(...runs.map((run) => this.entry(run)));
    byId("history-section", HTMLElement).hidden = runs.length === 0;
  }

  /**
   * Keep a run and show it.
   * @param {Run} run
   */
  async add(run) {
    await this.history.add(run);
    await this.refresh();
  }

  /** @param {Run} run */
  entry(run) {
    const title = titleOf(run);
    const time = new Date(run.time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const count = run.images.length === 1 ? "1 image" : `${run.images.length} images`;
    const thumbs = run.images.slice(0, MOST_THUMBS).map(({ blob }) => {
      const image = element("img", { alt: "" });
      show(image, blob);
      return image;
    });
    const button = element(
      "button",
      { type: "button", className: "run" },
      element("span", { className: "thumbs" }, ...thumbs),
      element(
        "span",
        { className: "words" },
        element("span", { className: "title" }, title),
        element("span", { className: "help" }, `${count}, ${run.model}, ${time}`),
      ),
    );
    button.addEventListener("click", () => this.open(run));
    const remove = quietButton("Remove", `Remove ${title} from the history`, () => this.remove(run));
    return element("li", {}, button, remove);
  }

  /** @param {Run} run */
  async remove(run) {
    await this.history.remove(run.id);
    await this.refresh();
    const next = this.list.querySelector("button") ?? byId("prompt", HTMLTextAreaElement);
    next.focus();
  }

  async clear() {
    if ((await ask(byId("clear-dialog", HTMLDialogElement))) !== "clear") return;
    await this.history.clear();
    await this.refresh();
    byId("prompt", HTMLTextAreaElement).focus();
  }
}

/**
 * Return a run's name: its title, and how it came to be.
 * @param {Pick<Run, "route"|"title">} run
 */
export function titleOf(run) {
  return `${KINDS[run.route]}${run.title || "an image"}`;
}
