/** Show an image, its hole and its margins on a canvas of the page. What is to be drawn anew is striped. */

const STRIPE = 5; // pixels of the screen
const COLOURS = ["#e0457b", "#ffffff"]; // two, so that stripes show on every image
const OPACITY = 0.6;
const GROUND = "#b4b7ba";

/**
 * @param {HTMLCanvasElement} canvas
 * @param {{
 *   image: ImageBitmap, hole: import("./hole.js").Hole, margins: import("./margins.js").Margins,
 *   scale: number, brush: {x: number, y: number, radius: number}|null,
 * }} scene
 */
export function render(canvas, { image, hole, margins, scale, brush }) {
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const [x, y] = [margins.left * scale, margins.top * scale];
  const [width, height] = [image.width * scale, image.height * scale];
  pen.imageSmoothingEnabled = scale < 2;
  pen.fillStyle = GROUND;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(image, x, y, width, height);
  pen.globalAlpha = OPACITY;
  pen.drawImage(striped(canvas, hole, [x, y, width, height]), 0, 0);
  pen.globalAlpha = 1;
  if (brush) ring(pen, x + brush.x * scale, y + brush.y * scale, brush.radius * scale);
}

/**
 * Return stripes over the hole and the margins.
 * @param {HTMLCanvasElement} canvas
 * @param {import("./hole.js").Hole} hole
 * @param {[number, number, number, number]} place of the image on the canvas
 */
function striped(canvas, hole, place) {
  const stripes = new OffscreenCanvas(canvas.width, canvas.height);
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (stripes.getContext("2d"));
  pen.imageSmoothingEnabled = false;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.clearRect(...place);
  pen.drawImage(hole.canvas, ...place);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = pattern(pen);
  pen.fillRect(0, 0, canvas.width, canvas.height);
  return stripes;
}

/**
 * Return a pattern of slanted stripes.
 * @param {OffscreenCanvasRenderingContext2D} pen
 */
function pattern(pen) {
  const side = 2 * STRIPE;
  const tile = new OffscreenCanvas(side, side);
  const tilePen = /** @type {OffscreenCanvasRenderingContext2D} */ (tile.getContext("2d"));
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      tilePen.fillStyle = COLOURS[Math.floor((x + y) / STRIPE) % 2];
      tilePen.fillRect(x, y, 1, 1);
    }
  }
  return /** @type {CanvasPattern} */ (pen.createPattern(tile, "repeat"));
}

/**
 * Outline the brush in black and white, so that it shows on every image.
 * @param {CanvasRenderingContext2D} pen
 * @param {number} x
 * @param {number} y
 * @param {number} radius
 */
function ring(pen, x, y, radius) {
  for (const [colour, width] of /** @type {[string, number][]} */ ([["#000", 3], ["#fff", 1.5]])) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    pen.arc(x, y, Math.max(radius, 2), 0, 2 * Math.PI);
    pen.stroke();
  }
}
