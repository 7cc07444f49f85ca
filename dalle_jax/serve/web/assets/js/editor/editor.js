/** The editor: an image on a canvas, a hole painted into it, and margins around it. */

import { byId } from "../dom.js";
import { pngOf } from "../images.js";
import { Hole } from "./hole.js";
import { MarginHandles } from "./margins.js";
import { editFiles } from "./files.js";
import { render } from "./render.js";

/** @typedef {import("./hole.js").Point} Point */

const MOST_HEIGHT = 480; // pixels of the screen
const HANDLES = 44; // pixels of the screen that the handles take, left and right together
const SENT = ["image/png", "image/jpeg", "image/webp"]; // other files that the browser reads are sent as PNG
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Editor {
  /** @param {(text: string) => void} announce tells a screen reader */
  constructor(announce) {
    this.announce = announce;
    this.section = byId("editor", HTMLElement);
    this.frame = byId("frame", HTMLElement);
    this.canvas = byId("mask", HTMLCanvasElement);
    this.undoButton = byId("undo", HTMLButtonElement);
    this.clearButton = byId("clear-mask", HTMLButtonElement);
    /** @type {{blob: Blob, image: ImageBitmap, hole: Hole}|null} */
    this.opened = null;
    /** @type {Point} */
    this.at = { x: 0, y: 0 };
    this.showsBrush = false;
    this.scale = 1; // pixels of the canvas per pixel of the image
    this.handles = new MarginHandles(this.frame, { onChange: () => this.draw(), scale: () => this.onScreen });
    this.connect();
  }

  /** Whether an image is open. */
  get isOpen() {
    return this.opened !== null;
  }

  /** Whether anything is to be drawn: a hole or a margin. */
  get hasHole() {
    return this.opened !== null && (this.handles.any || (this.opened.hole.share ?? 0) > 0);
  }

  /**
   * Open an image, with its transparent pixels as the hole.
   * @param {Blob} blob
   */
  async open(blob) {
    const image = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    this.opened?.image.close();
    this.opened = { blob: SENT.includes(blob.type) ? blob : await pngOf(blob), image, hole: new Hole(image) };
    this.at = { x: image.width / 2, y: image.height / 2 };
    this.section.hidden = false;
    this.handles.reset(image);
    byId("editor-title", HTMLElement).focus();
    this.section.scrollIntoView({ block: "nearest" });
  }

  close() {
    this.opened?.image.close();
    this.opened = null;
    this.section.hidden = true;
  }

  /** Return the image and the mask that the server is sent. */
  files() {
    if (!this.opened) throw new Error("no image is open");
    return editFiles(this.opened, this.handles.margins);
  }

  /** Pixels of the screen per pixel of the image. */
  get onScreen() {
    return (this.scale * this.canvas.clientWidth) / this.canvas.width;
  }

  get brush() {
    const image = /** @type {ImageBitmap} */ (this.opened?.image);
    const share = byId("brush-size", HTMLInputElement).valueAsNumber / 100;
    const radius = Math.max(0.75, (share * Math.min(image.width, image.height)) / 2);
    return { radius, erase: byId("brush-erase", HTMLInputElement).checked };
  }

  draw() {
    if (!this.opened) return;
    const { image, hole } = this.opened;
    const { left, top, right, bottom } = this.handles.margins;
    const width = left + image.width + right;
    const height = top + image.height + bottom;
    const room = Math.max(80, (this.section.clientWidth || 320) - HANDLES);
    const fitting = Math.min(room / width, MOST_HEIGHT / height);
    this.scale = fitting > 2 ? Math.floor(fitting) : fitting;
    this.canvas.width = Math.round(width * this.scale);
    this.canvas.height = Math.round(height * this.scale);
    const brush = this.showsBrush ? { ...this.at, radius: this.brush.radius } : null;
    render(this.canvas, { image, hole, margins: this.handles.margins, scale: this.scale, brush });
    this.undoButton.disabled = hole.before.length === 0;
    this.clearButton.disabled = !(hole.share ?? 0);
    const share = Math.round(100 * (hole.share ?? 0));
    this.canvas.setAttribute("aria-label", `Mask of an image of ${width} by ${height} pixels, ${share} % painted`);
  }

  connect() {
    const redraw = () => this.draw();
    new ResizeObserver(redraw).observe(this.section);
    byId("brush-size", HTMLInputElement).addEventListener("input", redraw);
    this.undoButton.addEventListener("click", () => this.change((hole) => hole.undo()));
    this.clearButton.addEventListener("click", () => this.change((hole) => hole.clear()));
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerleave", () => this.hover(false));
    this.canvas.addEventListener("focus", () => this.hover(this.canvas.matches(":focus-visible")));
    this.canvas.addEventListener("blur", () => this.hover(false));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.section.addEventListener("keydown", (event) => this.shortcut(event));
  }

  /** @param {boolean} shows */
  hover(shows) {
    this.showsBrush = shows;
    this.draw();
  }

  /**
   * Change the hole, then say and show it.
   * @param {(hole: Hole) => void} change
   */
  change(change) {
    if (!this.opened) return;
    change(this.opened.hole);
    this.draw();
    this.announce(`${Math.round(100 * (this.opened.hole.share ?? 0))} % of the image is painted.`);
  }

  /**
   * Return the place of a pointer in pixels of the image.
   * @param {PointerEvent} event
   * @returns {Point}
   */
  pointOf(event) {
    const { left, top } = this.handles.margins;
    return { x: event.offsetX / this.onScreen - left, y: event.offsetY / this.onScreen - top };
  }

  /** @param {PointerEvent} event */
  press(event) {
    if (!this.opened || event.button !== 0) return;
    const { hole } = this.opened;
    this.canvas.setPointerCapture(event.pointerId);
    this.at = this.pointOf(event);
    hole.remember();
    hole.stroke(this.at, this.at, this.brush);
    this.draw();
    this.canvas.addEventListener("lostpointercapture", () => this.change(() => hole.harden()), { once: true });
  }

  /** @param {PointerEvent} event */
  move(event) {
    const before = this.at;
    this.at = this.pointOf(event);
    if (this.canvas.hasPointerCapture(event.pointerId)) this.opened?.hole.stroke(before, this.at, this.brush);
    this.hover(true);
  }

  /**
   * Undo, or change the brush's size, by keys that do not belong to the text that is written.
   * @param {KeyboardEvent} event
   */
  shortcut(event) {
    if (event.target instanceof HTMLTextAreaElement) return;
    const size = byId("brush-size", HTMLInputElement);
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undoButton.click();
    else if (event.key === "[" || event.key === "]") {
      size.valueAsNumber += event.key === "[" ? -5 : 5;
      this.hover(true);
      this.announce(`Brush size ${size.value}.`);
    } else return;
    event.preventDefault();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (!this.opened) return;
    const { image } = this.opened;
    const direction = MOVES[/** @type {keyof typeof MOVES} */ (event.key)];
    if (direction) {
      const step = Math.max(1, Math.round(Math.min(image.width, image.height) / 32)) * (event.shiftKey ? 4 : 1);
      this.at = {
        x: Math.min(image.width, Math.max(0, this.at.x + step * direction[0])),
        y: Math.min(image.height, Math.max(0, this.at.y + step * direction[1])),
      };
      this.announce(`Brush at ${Math.round(this.at.x)}, ${Math.round(this.at.y)}.`);
      this.hover(true);
    } else if (event.key === " " || event.key === "Enter") {
      this.change((hole) => {
        hole.remember();
        hole.stroke(this.at, this.at, this.brush);
        hole.harden();
      });
    } else return;
    event.preventDefault();
  }
}
