/** The switch between the system's theme, light and dark. Its stored choice is applied before the first paint. */

import { byId } from "./dom.js";

const STORED = "dalle_jax.theme";

/** @param {string} theme */
function apply(theme) {
  document.documentElement.dataset.theme = theme;
}

/** Follow the switch. */
export function connectTheme() {
  const choice = byId("theme", HTMLSelectElement);
  choice.value = document.documentElement.dataset.theme ?? "system";
  choice.addEventListener("change", () => {
    apply(choice.value);
    localStorage.setItem(STORED, choice.value);
  });
}

apply(localStorage.getItem(STORED) ?? "system");
