/** The part of an image that is to be drawn anew: a canvas in the image's pixels, opaque where the hole is. */

const HALF = 128; // alpha from which a pixel belongs to the hole
const MOST_UNDONE = 20;
const MOST_UNDONE_BYTES = 100e6; // one stroke can always be undone

/**
 * @typedef {{x: number, y: number}} Point in pixels of the image
 * @typedef {{radius: number, erase: boolean}} Brush
 */

export class Hole {
  /**
   * Start with the transparent pixels of an image.
   * @param {ImageBitmap} image
   */
  constructor(image) {
    this.canvas = new OffscreenCanvas(image.width, image.height);
    this.pen = /** @type {OffscreenCanvasRenderingContext2D} */ (
      this.canvas.getContext("2d", { willReadFrequently: true })
    );
    this.pen.lineCap = "round";
    this.fill();
    this.pen.globalCompositeOperation = "destination-out";
    this.pen.drawImage(image, 0, 0);
    this.pen.globalCompositeOperation = "source-over";
    this.harden();
    /** @type {ImageData[]} */
    this.before = [];
  }

  /** Keep the present hole for `undo`. Call it before each stroke. */
  remember() {
    this.before.push(this.read());
    const fitting = Math.floor(MOST_UNDONE_BYTES / (4 * this.canvas.width * this.canvas.height));
    if (this.before.length > Math.max(1, Math.min(MOST_UNDONE, fitting))) this.before.shift();
  }

  /** Return to the hole before the last stroke. */
  undo() {
    const last = this.before.pop();
    if (last) this.write(last);
  }

  /** Let all of the image be kept. */
  clear() {
    this.remember();
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.share = 0;
  }

  /**
   * Paint a line with a round brush, or erase along it.
   * @param {Point} from
   * @param {Point} to
   * @param {Brush} brush
   */
  stroke(from, to, brush) {
    this.pen.globalCompositeOperation = brush.erase ? "destination-out" : "source-over";
    this.pen.lineWidth = 2 * brush.radius;
    this.pen.beginPath();
    this.pen.moveTo(from.x, from.y);
    this.pen.lineTo(to.x, to.y);
    this.pen.stroke();
    this.pen.beginPath();
    this.pen.arc(to.x, to.y, brush.radius, 0, 2 * Math.PI);
    this.pen.fill();
    this.pen.globalCompositeOperation = "source-over";
  }

  /** Make each pixel opaque or transparent, and count the opaque ones. Call it after each stroke. */
  harden() {
    const pixels = this.read();
    for (let i = 3; i < pixels.data.length; i += 4) {
      const inside = pixels.data[i] >= HALF;
      pixels.data[i] = inside ? 255 : 0;
    }
    this.write(pixels);
  }

  fill() {
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  read() {
    return this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  /** @param {ImageData} pixels */
  write(pixels) {
    this.pen.putImageData(pixels, 0, 0);
    let inside = 0;
    for (let i = 3; i < pixels.data.length; i += 4) inside += pixels.data[i] === 255 ? 1 : 0;
    /** The share of the image that is to be drawn anew, 0 to 1. */
    this.share = inside / (this.canvas.width * this.canvas.height);
  }
}
