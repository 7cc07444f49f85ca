/** Short forms for building and finding elements. */

/**
 * Return the element of the page that has an id.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`#${id}: expected a ${kind.name}, got ${found}`);
  return found;
}

/**
 * Create an element with properties and children. A property with a dash is set as an attribute.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} properties
 * @param {...(Node|string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, String(value));
    else Reflect.set(made, name, value);
  }
  made.append(...children);
  return made;
}

/**
 * Create a button that calls a function.
 * @param {string} text what is read on it
 * @param {string} label its accessible name, which begins with the text
 * @param {() => void} press
 */
export function quietButton(text, label, press) {
  const made = element("button", { type: "button", className: "quiet", "aria-label": label }, text);
  made.addEventListener("click", press);
  return made;
}

/**
 * Open a dialog and return the value of the button that closed it, or "" after Escape.
 * @param {HTMLDialogElement} dialog
 * @returns {Promise<string>}
 */
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}
