/** Runs orders, one at a time: shows their images as they come, their time, and their end. */

import { ApiError } from "./api.js";
import { byId } from "./dom.js";
import { draw } from "./drawing.js";
import { titleOf } from "./history_list.js";
import { clearProblems, showProblem } from "./problems.js";

/**
 * @typedef {import("./drawing.js").Order} Order
 * @typedef {import("./drawing.js").Run} Run
 */

const STARTERS = ["start", "start-edit", "start-change", "vary-opened"];
const PROMPTS = { generations: "prompt", edits: "edit-prompt", changes: "edit-prompt", variations: null };
const TICK = 1000; // milliseconds

export class Studio {
  /**
   * @param {import("./gallery.js").Gallery} gallery
   * @param {{onRun: (run: Run) => Promise<void>, askKey: (reason: string) => Promise<boolean>}} listener
   */
  constructor(gallery, { onRun, askKey }) {
    this.gallery = gallery;
    this.onRun = onRun;
    this.askKey = askKey;
    this.status = byId("status", HTMLElement);
    this.cancelButton = byId("cancel", HTMLButtonElement);
    this.cancelButton.addEventListener("click", () => this.controller?.abort());
    /** @type {AbortController|null} */
    this.controller = null;
  }

  /**
   * Draw an order, unless another is being drawn. The next may start as soon as the images are shown.
   * @param {Order} order
   */
  async start(order) {
    if (this.controller) {
      this.status.textContent = "Still drawing. Wait for it, or cancel it.";
      return;
    }
    const { signal } = (this.controller = new AbortController());
    const stopTimer = this.begin(order);
    const before = document.title;
    document.title = `Drawing – ${before}`;
    /** @type {Run|null} */
    let run = null;
    /** @type {unknown} */
    let failure = null;
    try {
      run = await draw(order, { ...this.listener(), signal });
    } catch (error) {
      failure = error;
    }
    document.title = before;
    stopTimer();
    this.end();
    if (run) {
      this.gallery.finish(run, titleOf(run));
      this.status.textContent = `${countOf(run.images.length)} in ${run.seconds.toFixed(1)} s.`;
      await this.onRun(run);
    } else {
      this.gallery.abandon();
      this.status.textContent = signal.aborted ? "Cancelled." : "";
      if (!signal.aborted) await this.fail(failure, order);
    }
  }

  /** @param {Order} order */
  begin(order) {
    clearProblems();
    const count = Number(order.settings.n ?? 1);
    this.gallery.begin(titleOf(order), count);
    byId("empty", HTMLElement).hidden = true;
    this.status.textContent = `Drawing ${countOf(count)}.`;
    this.cancelButton.hidden = false;
    for (const id of STARTERS) byId(id, HTMLElement).setAttribute("aria-disabled", "true");
    this.gallery.section.scrollIntoView({ block: "nearest" });
    const timer = byId("timer", HTMLElement);
    const begin = Date.now();
    const ticking = setInterval(() => {
      timer.textContent = `${Math.round((Date.now() - begin) / 1000)} s`;
    }, TICK);
    return () => {
      clearInterval(ticking);
      timer.textContent = "";
    };
  }

  end() {
    this.controller = null;
    if (document.activeElement === this.cancelButton) byId("start", HTMLElement).focus();
    this.cancelButton.hidden = true;
    for (const id of STARTERS) byId(id, HTMLElement).removeAttribute("aria-disabled");
  }

  /** @returns {Omit<import("./drawing.js").Listener, "signal">} */
  listener() {
    return {
      onPartial: (slot, blob, number) => {
        this.gallery.place(slot, blob, `Image ${slot + 1}, being drawn`, `partial image ${number + 1}`);
      },
      onImage: (slot, { blob }) => this.gallery.place(slot, blob, `Image ${slot + 1}`, "finished"),
    };
  }

  /**
   * Show an error. If the server wants a key, ask for one and draw again.
   * @param {unknown} error
   * @param {Order} order
   */
  async fail(error, order) {
    if (error instanceof ApiError && error.status === 401) {
      if (await this.askKey(error.message)) await this.start(order);
      return;
    }
    const aboutPrompt = error instanceof ApiError && error.param === "prompt";
    showProblem(error, aboutPrompt ? PROMPTS[order.route] : undefined);
  }
}

/** @param {number} count */
function countOf(count) {
  return count === 1 ? "1 image" : `${count} images`;
}
