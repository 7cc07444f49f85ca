/** Errors of the server in its own words: at the field that it names, else above the images. */

import { ApiError } from "./api.js";
import { byId } from "./dom.js";

/** Remove all messages. */
export function clearProblems() {
  byId("problem", HTMLElement).replaceChildren();
  for (const message of document.querySelectorAll(".field .wrong")) {
    message.textContent = "";
    /** @type {HTMLElement} */ (message).hidden = true;
  }
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

/**
 * Show an error. Errors that are not the server's are shown by their message as well.
 * @param {unknown} error
 * @param {string|null} [field] id of the field that it is about; the server names one in `param`
 */
export function showProblem(error, field = error instanceof ApiError ? error.param : null) {
  const text = error instanceof Error ? error.message : String(error);
  if (field && showAtField(field, text)) return;
  const requestId = error instanceof ApiError ? error.requestId : null;
  byId("problem", HTMLElement).textContent = requestId ? `${text} (request ${requestId})` : text;
}

/**
 * @param {string} id
 * @param {string} text
 * @returns {boolean} false if the page does not show such a field
 */
function showAtField(id, text) {
  const field = document.getElementById(id);
  const message = document.getElementById(`${id}-error`);
  if (!field || !message || field.closest("[hidden]")) return false;
  message.textContent = text;
  message.hidden = false;
  field.setAttribute("aria-invalid", "true");
  const folded = field.closest("details");
  if (folded) folded.open = true;
  field.focus();
  return true;
}
