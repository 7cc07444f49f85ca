/** Four handles at the sides of an image: dragged outwards, or moved by arrow keys, they extend it. */

import { element } from "../dom.js";

/** @typedef {{left: number, top: number, right: number, bottom: number}} Margins in pixels of the image */

const SIDES = /** @type {const} */ (["left", "top", "right", "bottom"]);
const STEPS = 32; // a side grows in steps of this part of its length

/** Keys that move a side outwards and inwards. */
const KEYS = {
  left: { more: ["ArrowLeft", "ArrowUp"], less: ["ArrowRight", "ArrowDown"] },
  right: { more: ["ArrowRight", "ArrowUp"], less: ["ArrowLeft", "ArrowDown"] },
  top: { more: ["ArrowUp", "ArrowRight"], less: ["ArrowDown", "ArrowLeft"] },
  bottom: { more: ["ArrowDown", "ArrowRight"], less: ["ArrowUp", "ArrowLeft"] },
};

export class MarginHandles {
  /**
   * @param {HTMLElement} frame the element that the handles are placed around
   * @param {{onChange: () => void, scale: () => number}} listener `scale` returns pixels of the screen per pixel
   */
  constructor(frame, { onChange, scale }) {
    this.onChange = onChange;
    this.scale = scale;
    /** @type {Margins} */
    this.margins = { left: 0, top: 0, right: 0, bottom: 0 };
    this.limit = { width: 0, height: 0 };
    this.handles = SIDES.map((side) => this.handle(side));
    frame.append(...this.handles);
  }

  /** Whether any side is extended. */
  get any() {
    return SIDES.some((side) => this.margins[side] > 0);
  }

  /**
   * Start anew around an image. A side may grow by the image's own length.
   * @param {{width: number, height: number}} image
   */
  reset({ width, height }) {
    this.limit = { width, height };
    for (const side of SIDES) this.set(side, 0);
  }

  /** @param {typeof SIDES[number]} side */
  length(side) {
    return side === "left" || side === "right" ? this.limit.width : this.limit.height;
  }

  /**
   * Set one margin, in whole steps and within its limit.
   * @param {typeof SIDES[number]} side
   * @param {number} pixels
   */
  set(side, pixels) {
    const most = this.length(side);
    const step = Math.max(1, Math.round(most / STEPS));
    const value = Math.min(most, Math.max(0, Math.round(pixels / step) * step));
    this.margins[side] = value;
    const handle = this.handles[SIDES.indexOf(side)];
    handle.setAttribute("aria-valuemax", String(most));
    handle.setAttribute("aria-valuenow", String(value));
    handle.setAttribute("aria-valuetext", `${value} pixels`);
    this.onChange();
  }

  /** @param {typeof SIDES[number]} side */
  handle(side) {
    const made = element("button", {
      type: "button",
      className: "handle",
      role: "slider",
      title: `Extend ${side}`,
      "data-side": side,
      "aria-label": `Extend ${side}`,
      "aria-orientation": side === "left" || side === "right" ? "horizontal" : "vertical",
      "aria-valuemin": 0,
      "aria-valuemax": 0,
      "aria-valuenow": 0,
    });
    made.addEventListener("keydown", (event) => this.key(event, side));
    made.addEventListener("pointerdown", (event) => this.drag(event, side));
    return made;
  }

  /**
   * @param {KeyboardEvent} event
   * @param {typeof SIDES[number]} side
   */
  key(event, side) {
    const step = Math.max(1, Math.round(this.length(side) / STEPS)) * (event.shiftKey ? 4 : 1);
    const value = this.margins[side];
    if (KEYS[side].more.includes(event.key)) this.set(side, value + step);
    else if (KEYS[side].less.includes(event.key)) this.set(side, value - step);
    else if (event.key === "Home") this.set(side, 0);
    else if (event.key === "End") this.set(side, this.length(side));
    else return;
    event.preventDefault();
  }

  /**
   * Follow the pointer until it is released, at the scale that the image had when it was pressed.
   * @param {PointerEvent} event
   * @param {typeof SIDES[number]} side
   */
  drag(event, side) {
    const handle = /** @type {HTMLElement} */ (event.currentTarget);
    const start = { x: event.clientX, y: event.clientY, margin: this.margins[side], scale: this.scale() };
    handle.setPointerCapture(event.pointerId);
    const outwards = side === "left" || side === "top" ? -1 : 1;
    const across = side === "left" || side === "right";
    /** @param {PointerEvent} now */
    const follow = (now) => {
      const moved = across ? now.clientX - start.x : now.clientY - start.y;
      this.set(side, start.margin + (outwards * moved) / start.scale);
    };
    handle.addEventListener("pointermove", follow);
    handle.addEventListener("lostpointercapture", () => handle.removeEventListener("pointermove", follow), {
      once: true,
    });
  }
}
