/** The dialog for the server's API key. */

import { storedKey, storeKey } from "./api.js";
import { ask, byId } from "./dom.js";

/**
 * Ask for a key.
 * @param {string} [reason] the server's words, if it refused the present key
 * @returns {Promise<boolean>} true if one was entered
 */
export async function askKey(reason = "") {
  const field = byId("key", HTMLInputElement);
  const message = byId("key-reason", HTMLElement);
  field.value = storedKey();
  message.textContent = reason;
  message.hidden = !reason;
  if ((await ask(byId("key-dialog", HTMLDialogElement))) !== "save") return false;
  storeKey(field.value.trim());
  return true;
}
