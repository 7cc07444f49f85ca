/** The settings that a request may have beside its prompt. A model offers those that it reads. */

/** @typedef {import("./models.js").Model} Model */
/** @typedef {"generations"|"edits"|"changes"|"variations"} Route what is asked: `changes` are edits of whole images */

/**
 * @typedef {object} Knob
 * @property {string} name the field of the request
 * @property {string} label
 * @property {string} help
 * @property {Route[]} routes the routes that read it
 * @property {(model: Model) => boolean} [fits] false if the model does not have it
 * @property {"number"|"text"|"choice"} kind
 * @property {{min?: number, max?: number, step?: number|"any"}} [range]
 * @property {(model: Model) => string[]} [choices] the first is the default
 * @property {string} [value] value at the start; empty leaves the choice to the server
 * @property {string} [placeholder] meaning of an empty field, if the model has no default to show
 */

const SIDES = [256, 512, 1024];
const ALL = /** @type {Route[]} */ (["generations", "edits", "changes", "variations"]);
const DRAWN = /** @type {Route[]} */ (["generations", "edits", "changes"]);
const SAMPLED = /** @type {Route[]} */ (["generations", "edits"]);

/**
 * Return a test for a sampling field among those that a model reads.
 * @param {string} name
 * @returns {(model: Model) => boolean}
 */
const reads = (name) => ({ abilities }) => abilities.options.includes(name);

/** @type {Knob[]} */
export const KNOBS = [
  {
    name: "n", label: "Images", kind: "number", range: { min: 1, max: 10, step: 1 }, value: "4", routes: ALL,
    help: "How many images are returned, best first.",
  },
  {
    name: "candidates", label: "Candidates", kind: "number", range: { min: 1, max: 64, step: 1 }, routes: ALL,
    fits: ({ abilities }) => abilities.ranks, placeholder: "as images",
    help: "How many are drawn. CLIP scores them, and the best are returned.",
  },
  {
    name: "seed", label: "Seed", kind: "number", range: { min: 0, max: 2 ** 32 - 1, step: 1 }, routes: ALL,
    placeholder: "new each time",
    help: "The same seed and settings draw the same images.",
  },
  {
    name: "guidance", label: "Guidance", kind: "number", range: { min: 0, max: 1000, step: "any" }, routes: ALL,
    fits: reads("guidance"),
    help: "How closely images follow the prompt. 1 turns it off, which is faster.",
  },
  {
    name: "guidance_end", label: "Last guidance", kind: "number", range: { min: 0, max: 1000, step: "any" },
    routes: SAMPLED, fits: reads("guidance_end"), placeholder: "as guidance",
    help: "From code to code, guidance changes up to this value.",
  },
  {
    name: "negative_prompt", label: "Negative prompt", kind: "text", routes: ["generations"], fits: reads("negative_prompt"),
    help: "Images move away from this text. Needs a guidance other than 1.",
  },
  {
    name: "temperature", label: "Temperature", kind: "number", range: { min: 0, max: 1000, step: "any" }, routes: SAMPLED,
    fits: reads("temperature"),
    help: "Below 1 images are safer and more alike, above 1 more varied.",
  },
  {
    name: "top_k", label: "Top-k", kind: "number", range: { min: 0, max: 2 ** 20, step: 1 }, routes: SAMPLED,
    fits: reads("top_k"),
    help: "Draw each code from the k most likely ones. 0 is off.",
  },
  {
    name: "top_p", label: "Top-p", kind: "number", range: { min: 0, max: 1, step: "any" }, routes: SAMPLED,
    fits: reads("top_p"),
    help: "Draw each code from the most likely ones that reach this probability together. 1 is off.",
  },
  {
    name: "steps", label: "Steps", kind: "choice", routes: DRAWN, fits: ({ abilities }) => abilities.steps.length > 0,
    choices: ({ abilities }) => ["", ...abilities.steps.map(String)],
    help: "Denoising steps. More take longer.",
  },
  {
    name: "strength", label: "Strength", kind: "number", range: { min: 0, max: 1, step: "any" }, routes: ["changes"],
    fits: ({ abilities }) => abilities.mix, placeholder: "model's own",
    help: "How far a change of the whole image goes toward the prompt, 0 to 1.",
  },
  {
    name: "size", label: "Size", kind: "choice", routes: ["generations", "changes", "variations"],
    choices: ({ abilities }) => ["", ...SIDES.filter((side) => side !== abilities.side).map((side) => `${side}x${side}`)],
    help: "Another size than the model's own is made by enlarging.",
  },
  {
    name: "output_format", label: "Format", kind: "choice", routes: DRAWN,
    choices: ({ abilities }) => ["png", "webp", "jpeg", ...(abilities.partials ? ["gif"] : [])],
    help: "PNG is lossless. A GIF, where the model offers it, shows how an image was drawn.",
  },
  {
    name: "output_compression", label: "File quality", kind: "number", range: { min: 0, max: 100, step: 1 },
    routes: DRAWN, placeholder: "100",
    help: "Of WebP and JPEG files: less is smaller.",
  },
];
