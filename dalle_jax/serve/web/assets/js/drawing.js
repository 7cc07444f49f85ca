/** One request for images: what is sent, and the images as they come. */

import { errorOf, post } from "./api.js";
import { readEvents } from "./event_stream.js";
import { blobOf } from "./images.js";

const MOST_PARTIALS = 3;
const PATHS = { generations: "generations", edits: "edits", changes: "edits", variations: "variations" };

/**
 * @typedef {import("./knob_list.js").Route} Route
 *
 * @typedef {object} Order
 * @property {Route} route
 * @property {import("./models.js").Model} model
 * @property {string} prompt as it is sent; empty if it is not
 * @property {string} title a text that describes the images to people
 * @property {Record<string, string|number>} settings fields of the request beside prompt and model
 * @property {Record<string, Blob>|Promise<Record<string, Blob>>} [files] image and mask
 *
 * @typedef {{blob: Blob, score: number|null, seed: number|null, candidate: number|null}} Drawn
 *
 * @typedef {object} Run a finished order, as the history keeps it
 * @property {string} id
 * @property {number} time in milliseconds
 * @property {number} seconds that it took
 * @property {Route} route
 * @property {string} model
 * @property {string} prompt
 * @property {string} title
 * @property {Record<string, string|number>} settings
 * @property {Drawn[]} images
 * @property {string[]} warnings
 *
 * @typedef {object} Listener
 * @property {(slot: number, blob: Blob, number: number) => void} onPartial
 * @property {(slot: number, image: Drawn) => void} onImage
 * @property {AbortSignal} signal
 */

/**
 * Send an order, hand over its images as they come, and return the finished run.
 * @param {Order} order
 * @param {Listener} listener
 * @returns {Promise<Run>}
 */
export async function draw(order, listener) {
  const begin = Date.now();
  const fields = { ...fieldsOf(order), ...(await order.files) };
  const response = await post(`v1/images/${PATHS[order.route]}`, fields, listener.signal);
  const streamed = response.headers.get("content-type")?.startsWith("text/event-stream");
  const answer = streamed ? await fromStream(response, listener) : fromList(await response.json(), listener);
  return {
    id: crypto.randomUUID?.() ?? `${begin}-${Math.random()}`,
    time: begin,
    seconds: (Date.now() - begin) / 1000,
    route: order.route,
    model: order.model.id,
    prompt: order.prompt,
    title: order.title,
    settings: order.settings,
    ...answer,
  };
}

/**
 * Return the fields of a request without its files. Variations and GIFs have no stream.
 * @param {Order} order
 */
function fieldsOf({ route, model, prompt, settings }) {
  const streams = route !== "variations" && settings.output_format !== "gif";
  const partial = streams && model.abilities.partials;
  return {
    model: model.id,
    ...(prompt || route !== "variations" ? { prompt } : {}),
    ...settings,
    response_format: "b64_json",
    ...(streams ? { stream: true } : {}),
    ...(partial ? { partial_images: MOST_PARTIALS } : {}),
  };
}

/**
 * Read the events of a stream.
 * @param {Response} response
 * @param {Listener} listener
 */
async function fromStream(response, { onPartial, onImage }) {
  /** @type {Drawn[]} */
  const images = [];
  /** @type {string[]} */
  let warnings = [];
  for await (const event of readEvents(/** @type {ReadableStream<Uint8Array>} */ (response.body))) {
    if (event.error) throw errorOf(event, response);
    if (event.type?.endsWith(".partial_image")) {
      onPartial(event.image_index ?? 0, blobOf(event.b64_json), event.partial_image_index);
    } else if (event.type?.endsWith(".completed")) {
      const slot = event.image_index ?? images.length;
      images[slot] = drawnOf(event);
      warnings = event.warnings ?? [];
      onImage(slot, images[slot]);
    }
  }
  if (!images.length) throw errorOf({ error: { message: "The stream ended without an image." } }, response);
  return { images, warnings };
}

/**
 * Read the images of a whole answer.
 * @param {{data: Record<string, any>[], warnings?: string[]}} answer
 * @param {Listener} listener
 */
function fromList(answer, { onImage }) {
  const images = answer.data.map(drawnOf);
  images.forEach((image, slot) => onImage(slot, image));
  return { images, warnings: answer.warnings ?? [] };
}

/**
 * @param {Record<string, any>} item an image of an answer, or the event that completes one
 * @returns {Drawn}
 */
function drawnOf({ b64_json: base64, score = null, seed = null, candidate = null }) {
  return { blob: blobOf(base64), score, seed, candidate };
}
