/** The two files of an edit: the image, and a mask whose alpha is 0 where the server is to draw. */

/**
 * Return image and mask, of one size. Without margins the image is the file that was opened, to the last byte.
 * @param {{blob: Blob, image: ImageBitmap, hole: import("./hole.js").Hole}} opened
 * @param {import("./margins.js").Margins} margins
 * @returns {Promise<{image: Blob, mask: Blob}>}
 */
export async function editFiles({ blob, image, hole }, { left, top, right, bottom }) {
  const size = [left + image.width + right, top + image.height + bottom];
  const mask = await png(size, (pen) => {
    pen.fillRect(left, top, image.width, image.height);
    pen.globalCompositeOperation = "destination-out";
    pen.drawImage(hole.canvas, left, top);
  });
  if (left + top + right + bottom === 0) return { image: blob, mask };
  return { image: await png(size, (pen) => pen.drawImage(image, left, top)), mask };
}

/**
 * Draw on a transparent canvas and return it as a PNG.
 * @param {number[]} size width and height
 * @param {(pen: OffscreenCanvasRenderingContext2D) => void} draw
 */
function png([width, height], draw) {
  const canvas = new OffscreenCanvas(width, height);
  draw(/** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")));
  return canvas.convertToBlob({ type: "image/png" });
}
