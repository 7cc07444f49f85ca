/** Images as blobs: from base64, on screen, and saved. */

const CRISP = 96; // pixels of the longer side, below which an image is enlarged in squares; a larger one smoothly
const EVEN = 48; // pixels, up to which all squares are made equally wide

/**
 * Return the bytes of a base64 text, unchanged, with the type that their first bytes show.
 * @param {string} base64
 * @returns {Blob}
 */
export function blobOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: typeOf(bytes) });
}

/**
 * Return the media type of an image's first bytes.
 * @param {Uint8Array} bytes
 */
function typeOf(bytes) {
  const start = String.fromCharCode(...bytes.subarray(0, 12));
  if (start.startsWith("\x89PNG")) return "image/png";
  if (start.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (start.startsWith("GIF8")) return "image/gif";
  if (start.startsWith("RIFF") && start.endsWith("WEBP")) return "image/webp";
  return /^\s*<(\?xml|svg)/.test(start) ? "image/svg+xml" : "application/octet-stream";
}

/**
 * Return the extension of a file name for an image.
 * @param {Blob} blob
 */
export function extensionOf(blob) {
  return { "image/jpeg": "jpg", "image/svg+xml": "svg" }[blob.type] ?? blob.type.split("/")[1];
}

/**
 * Show a blob in an image element, and release the one that it showed before.
 * @param {HTMLImageElement} image
 * @param {Blob} blob
 */
export function show(image, blob) {
  const before = image.src;
  image.addEventListener("load", () => sharpen(image), { once: true });
  image.src = URL.createObjectURL(blob);
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
}

/**
 * Let a small image show its pixels as squares.
 * @param {HTMLImageElement} image
 */
function sharpen(image) {
  const side = Math.max(image.naturalWidth, image.naturalHeight);
  image.classList.toggle("small", side < CRISP);
  image.style.setProperty("--step", side <= EVEN ? `${side}px` : "1px");
}

/**
 * Return an image as a PNG, which every clipboard takes.
 * @param {Blob} blob
 */
export async function pngOf(blob) {
  if (blob.type === "image/png") return blob;
  const image = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d")?.drawImage(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/**
 * Release the blobs that the images inside an element show, and remove all that it holds.
 * @param {HTMLElement} holder
 */
export function emptyOf(holder) {
  for (const image of holder.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  holder.replaceChildren();
}

/**
 * Save the bytes of a blob as a file.
 * @param {Blob} blob
 * @param {string} name without extension
 */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${name}.${extensionOf(blob)}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Return a file name for an image of a prompt.
 * @param {string} prompt
 * @param {number|null} seed
 * @param {number} number from 1
 */
export function fileName(prompt, seed, number) {
  const words = prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  return [words || "image", ...(seed === null ? [] : [`seed${seed}`]), number].join("-");
}
