/** The routes of the server, its key, and its errors in its own words. */

import { extensionOf } from "./images.js";

const KEY = "dalle_jax.key";

/** An answer of the server that is not a success. */
export class ApiError extends Error {
  /**
   * @param {string} message the server's
   * @param {{status: number, param?: string|null, requestId?: string|null}} details
   */
  constructor(message, { status, param = null, requestId = null }) {
    super(message);
    this.status = status;
    this.param = param;
    this.requestId = requestId;
  }
}

/** Return the key that was entered in this tab, or "". */
export const storedKey = () => sessionStorage.getItem(KEY) ?? "";

/**
 * Keep a key until the tab closes.
 * @param {string} key
 */
export const storeKey = (key) => sessionStorage.setItem(KEY, key);

/**
 * Return the error that a body describes, as OpenAI's API writes it, and when to try again.
 * @param {any} body
 * @param {Response} response
 */
export function errorOf(body, { status, headers }) {
  const error = body?.error ?? {};
  const message = error.message ?? `The server answered ${status} without a message.`;
  const seconds = headers.get("retry-after");
  const again = seconds ? ` (try again in ${seconds} s)` : "";
  return new ApiError(message + again, { status, param: error.param, requestId: headers.get("x-request-id") });
}

/**
 * Return a handler that names a failure of the network in words, and leaves a cancellation as it is.
 * @param {string} message
 * @returns {(error: unknown) => never}
 */
export const failed = (message) => (error) => {
  if (error instanceof DOMException && error.name === "AbortError") throw error;
  throw new ApiError(message, { status: 0 });
};

/**
 * Send a request and return its response, if it is a success.
 * @param {string} path
 * @param {RequestInit} options
 */
async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (storedKey()) headers.set("Authorization", `Bearer ${storedKey()}`);
  const response = await fetch(path, { ...options, headers }).catch(failed("The server does not answer. Is it running?"));
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw errorOf(body, response);
}

/** Return the models that the server has loaded. */
export async function listModels() {
  const response = await send("v1/models");
  return (await response.json()).data;
}

/**
 * POST fields as JSON, or as a form if one of them is a file.
 * @param {string} path
 * @param {Record<string, string|number|boolean|Blob>} fields
 * @param {AbortSignal} signal
 */
export function post(path, fields, signal) {
  if (!Object.values(fields).some((value) => value instanceof Blob)) {
    const headers = { "Content-Type": "application/json" };
    return send(path, { method: "POST", headers, body: JSON.stringify(fields), signal });
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) form.append(name, value, `${name}.${extensionOf(value)}`);
    else form.append(name, String(value));
  }
  return send(path, { method: "POST", body: form, signal });
}
