/** Show an image, its hole and its margins on a canvas of the page. */

const CHECK = 8; // pixels of the screen
const MARGIN = "#e0457b";

/**
 * @param {HTMLCanvasElement} canvas
 * @param {{
 *   image: ImageBitmap, hole: import("./hole.js").Hole, margins: import("./margins.js").Margins,
 *   scale: number, brush: {x: number, y: number, radius: number}|null,
 * }} scene
 */
export function render(canvas, { image, hole, margins, scale, brush }) {
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const place = [margins.left * scale, margins.top * scale, image.width * scale, image.height * scale];
  const [x, y, width, height] = place;
  pen.imageSmoothingEnabled = scale < 1;
  pen.fillStyle = checks(pen);
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.globalAlpha = 0.3;
  pen.fillStyle = MARGIN;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.globalAlpha = 1;
  pen.fillStyle = checks(pen);
  pen.fillRect(x, y, width, height);
  pen.drawImage(image, x, y, width, height);
  pen.globalAlpha = 0.6;
  pen.drawImage(hole.canvas, x, y, width, height);
  pen.globalAlpha = 1;
  if (brush) ring(pen, x + brush.x * scale, y + brush.y * scale, brush.radius * scale);
}

/**
 * Return a pattern of grey checks, which shows what is transparent.
 * @param {CanvasRenderingContext2D} pen
 */
function checks(pen) {
  const tile = new OffscreenCanvas(2 * CHECK, 2 * CHECK);
  const tilePen = /** @type {OffscreenCanvasRenderingContext2D} */ (tile.getContext("2d"));
  tilePen.fillStyle = "#c9cbcd";
  tilePen.fillRect(0, 0, 2 * CHECK, 2 * CHECK);
  tilePen.fillStyle = "#b4b7ba";
  tilePen.fillRect(0, 0, CHECK, CHECK);
  tilePen.fillRect(CHECK, CHECK, CHECK, CHECK);
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
