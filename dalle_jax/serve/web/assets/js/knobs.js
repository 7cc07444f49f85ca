/** The fields of the settings, and their values. */

import { element } from "./dom.js";
import { KNOBS } from "./knob_list.js";

/**
 * @typedef {import("./models.js").Model} Model
 * @typedef {import("./knob_list.js").Knob} Knob
 * @typedef {import("./knob_list.js").Route} Route
 */
export class Knobs {
  /** @param {HTMLElement} holder */
  constructor(holder) {
    this.holder = holder;
    holder.addEventListener("change", () => this.hideUnused());
  }

  /**
   * Show the knobs that a model has. Those that stay keep their values.
   * @param {Model} model
   */
  offer(model) {
    const before = this.values();
    const offered = KNOBS.filter((knob) => knob.fits?.(model) ?? true);
    this.holder.replaceChildren(...offered.map((knob) => fieldOf(knob, model)));
    this.fill(before);
  }

  /** @returns {Record<string, string>} the values of all fields, as they were entered */
  values() {
    /** @type {NodeListOf<HTMLInputElement|HTMLSelectElement>} */
    const fields = this.holder.querySelectorAll("input, select");
    return Object.fromEntries([...fields].map(({ name, value }) => [name, value.trim()]));
  }

  /**
   * Enter values, such as those of an earlier run.
   * @param {Record<string, string|number>} values
   */
  fill(values) {
    for (const [name, value] of Object.entries(values)) {
      const field = this.holder.querySelector(`[name="${name}"]`);
      if (field instanceof HTMLInputElement) field.value = String(value);
      if (field instanceof HTMLSelectElement && [...field.options].some((one) => one.value === String(value))) {
        field.value = String(value);
      }
    }
    this.hideUnused();
  }

  /**
   * Enter the settings of an earlier run, and the defaults of all others.
   * @param {Record<string, string|number>} settings
   */
  restore(settings) {
    for (const choice of this.holder.querySelectorAll("select")) choice.selectedIndex = 0;
    const entered = KNOBS.filter((knob) => knob.kind !== "choice").map(({ name, value = "" }) => [name, value]);
    this.fill({ ...Object.fromEntries(entered), ...settings });
  }

  /** Show the quality of a file only for formats that have one. */
  hideUnused() {
    const lossy = ["webp", "jpeg"].includes(this.values().output_format);
    const field = this.holder.querySelector('[data-field="output_compression"]');
    if (field instanceof HTMLElement) field.hidden = !lossy;
  }

  /** Return the name of a number field that holds something else, if any: the browser gives no value of it. */
  unreadable() {
    const fields = [...this.holder.querySelectorAll("input")];
    return fields.find((field) => field.validity.badInput)?.name ?? null;
  }

  /**
   * Return the fields of a request that were entered and that a route reads.
   * @param {Route} route
   * @param {Model} model
   * @returns {Record<string, string|number>}
   */
  request(route, model) {
    const values = this.values();
    /** @type {Record<string, string|number>} */
    const fields = {};
    for (const knob of KNOBS) {
      const value = values[knob.name];
      const shown = !this.holder.querySelector(`[data-field="${knob.name}"]`)?.hasAttribute("hidden");
      if (!value || !shown || !knob.routes.includes(route) || !(knob.fits?.(model) ?? true)) continue;
      fields[knob.name] = knob.kind === "number" || knob.name === "steps" ? Number(value) : value;
    }
    return fields;
  }
}

/**
 * Build the field of a knob: label, input, help, and a place for the server's error.
 * @param {Knob} knob
 * @param {Model} model
 */
function fieldOf(knob, model) {
  const shared = { id: knob.name, name: knob.name, "aria-describedby": `${knob.name}-help ${knob.name}-error` };
  return element(
    "div",
    { className: knob.kind === "text" ? "field" : "field beside", "data-field": knob.name },
    element("label", { htmlFor: knob.name }, knob.label),
    knob.kind === "choice" ? choiceOf(knob, model, shared) : inputOf(knob, model, shared),
    element("p", { className: "help", id: `${knob.name}-help` }, knob.help),
    element("p", { className: "wrong", id: `${knob.name}-error`, hidden: true }),
  );
}

/**
 * @param {Knob} knob
 * @param {Model} model
 * @param {Record<string, string>} shared
 */
function inputOf(knob, model, shared) {
  const value = knob.value ?? "";
  const placeholder = String(model.defaults[knob.name] ?? knob.placeholder ?? "");
  const range = Object.fromEntries(Object.entries(knob.range ?? {}).map(([name, bound]) => [name, String(bound)]));
  return element("input", { ...shared, ...range, type: knob.kind, autocomplete: "off", value, placeholder });
}

/**
 * @param {Knob} knob
 * @param {Model} model
 * @param {Record<string, string>} shared
 */
function choiceOf(knob, model, shared) {
  const own = knob.name === "size" ? `${model.abilities.side}x${model.abilities.side}` : "model's own";
  const options = (knob.choices?.(model) ?? []).map((value) => element("option", { value }, value || own));
  return element("select", shared, ...options);
}
