/** Connects the parts of the page. */

import { ApiError, listModels } from "./api.js";
import { connectArrivals } from "./arrivals.js";
import { connectDetails } from "./details.js";
import { byId, element } from "./dom.js";
import { Editor } from "./editor/editor.js";
import { Gallery } from "./gallery.js";
import { History } from "./history.js";
import { HistoryList, titleOf } from "./history_list.js";
import { askKey } from "./key.js";
import { Knobs } from "./knobs.js";
import { Models } from "./models.js";
import { clearProblems, showProblem } from "./problems.js";
import { Studio } from "./studio.js";
import { connectTheme } from "./theme.js";

/**
 * @typedef {import("./drawing.js").Drawn} Drawn
 * @typedef {import("./drawing.js").Run} Run
 */

const prompt = byId("prompt", HTMLTextAreaElement);
const editPrompt = byId("edit-prompt", HTMLTextAreaElement);
const modelChoice = byId("model", HTMLSelectElement);
const announcement = byId("announcement", HTMLElement);

connectTheme();
const models = new Models();
const knobs = new Knobs(byId("knobs", HTMLElement));
const editor = new Editor((text) => (announcement.textContent = text));
const openDetails = connectDetails((seed) => {
  byId("knobs-section", HTMLDetailsElement).open = true;
  knobs.fill({ seed });
  byId("seed", HTMLInputElement).focus();
});
const gallery = new Gallery({ open: openDetails, edit: (image, title) => openEditor(image.blob, title), vary }, () => ({
  edit: (models.able("inpaint") ?? models.able("mix")) !== undefined,
  vary: models.able("vary") !== undefined,
}));
const historyList = await openHistory();
const studio = new Studio(gallery, { onRun: keep, askKey });

/**
 * Keep a run in the history. Its images stay on the page where the browser refuses them, such as for lack of space.
 * @param {Run} run
 */
async function keep(run) {
  await historyList?.add(run).catch((error) => showProblem(`The history does not keep these images: ${error}`));
}

/** Open the history, or say why the browser does not keep one. */
async function openHistory() {
  try {
    const list = new HistoryList(await History.open(), openRun);
    await list.refresh();
    return list;
  } catch (error) {
    showProblem(`This browser keeps no history: ${error}`);
    return null;
  }
}

/** Load the models; ask for a key as long as the server wants one. */
async function loadModels() {
  try {
    models.replace(await listModels());
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      if (await askKey(error.message)) await loadModels();
      else showProblem(error);
    } else showProblem(error);
    return;
  }
  clearProblems();
  modelChoice.replaceChildren(...models.all.map(({ id }) => element("option", { value: id }, id)));
  byId("model-field", HTMLElement).hidden = models.all.length === 0;
  for (const id of ["open-image", "arrivals-help"]) byId(id, HTMLElement).hidden = !changesImages();
  offer();
}

/** Whether any model takes an image. */
function changesImages() {
  return Boolean(models.able("inpaint") ?? models.able("mix") ?? models.able("vary"));
}

/** Show what the chosen model can do. */
function offer() {
  const { chosen } = models;
  if (!chosen) return;
  knobs.offer(chosen);
  byId("start", HTMLButtonElement).disabled = false;
  const { kind, side } = chosen.abilities;
  byId("model-help", HTMLElement).textContent = `${kind}, ${side} × ${side} pixels`;
}

/**
 * Send an order with the settings that its route reads.
 * @param {Omit<import("./drawing.js").Order, "settings">} order
 */
function start(order) {
  const unreadable = knobs.unreadable();
  if (unreadable) return showProblem("Write a number.", unreadable);
  return studio.start({ ...order, settings: knobs.request(order.route, order.model) });
}

function generate() {
  clearProblems();
  const model = models.able("generate");
  if (!model) return showProblem("No model of this server draws prompts.");
  const text = prompt.value.trim();
  if (!text) return showProblem("Write what to draw.", "prompt");
  return start({ route: "generations", model, prompt: text, title: text });
}

function edit() {
  clearProblems();
  const model = models.able("inpaint");
  if (!model) return showProblem("No model of this server fills parts of images.");
  if (!editor.hasHole) return showProblem("Nothing is painted, and no side is extended.");
  const text = editPrompt.value.trim();
  return start({ route: "edits", model, prompt: text, title: text, files: editor.files() });
}

/** Turn the whole opened image toward the prompt. */
function change() {
  clearProblems();
  const model = models.able("mix");
  if (!model || !editor.opened) return showProblem("No model of this server changes whole images.");
  const files = { image: editor.opened.blob };
  const text = editPrompt.value.trim();
  return start({ route: "changes", model, prompt: text, title: text, files });
}

/**
 * @param {{blob: Blob}} image
 * @param {string} title describes the image; only a model that needs it is sent it
 */
function vary({ blob }, title) {
  clearProblems();
  const model = models.able("vary");
  if (!model) return showProblem("No model of this server draws variations.");
  const text = model.abilities.mix ? "" : title;
  return start({ route: "variations", model, prompt: text, title, files: { image: blob } });
}

/**
 * @param {Blob} blob
 * @param {string} title what is proposed to be drawn
 */
async function openEditor(blob, title) {
  clearProblems();
  try {
    await editor.open(blob);
  } catch {
    return showProblem("The browser cannot read this file as an image.");
  }
  editPrompt.value = title;
  byId("start-edit", HTMLElement).hidden = models.able("inpaint") === undefined;
  byId("start-change", HTMLElement).hidden = models.able("mix") === undefined;
  byId("vary-opened", HTMLElement).hidden = models.able("vary") === undefined;
}

/** @param {Run} run of the history */
function openRun(run) {
  gallery.finish(run, titleOf(run));
  byId("empty", HTMLElement).hidden = true;
  const written = ["edits", "changes"].includes(run.route) ? editPrompt : prompt;
  if (run.prompt) written.value = run.prompt;
  if (models.choose(run.model)) {
    modelChoice.value = run.model;
    offer();
  }
  knobs.restore(run.settings);
  gallery.section.scrollIntoView({ block: "nearest" });
  announcement.textContent = `Showing ${titleOf(run)}.`;
}

/**
 * Submit a form by its button, or by Ctrl+Enter in its text.
 * @param {string} id
 * @param {() => unknown} submit
 */
function connectForm(id, submit) {
  const form = byId(id, HTMLFormElement);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

connectForm("settings", generate);
connectForm("edit-form", edit);
modelChoice.addEventListener("change", () => {
  models.choose(modelChoice.value);
  offer();
});
byId("open-key", HTMLButtonElement).addEventListener("click", async () => {
  if (await askKey()) await loadModels();
});
byId("image-file", HTMLInputElement).addEventListener("change", async (event) => {
  const field = /** @type {HTMLInputElement} */ (event.target);
  const file = field.files?.[0];
  if (file) await openEditor(file, prompt.value);
  field.value = "";
});
connectArrivals((file) => {
  if (changesImages()) openEditor(file, prompt.value);
  else showProblem("No model of this server changes images.");
});
byId("reset-knobs", HTMLButtonElement).addEventListener("click", () => {
  knobs.restore({});
  announcement.textContent = "All settings are the server's own.";
});
byId("start-change", HTMLButtonElement).addEventListener("click", change);
byId("vary-opened", HTMLButtonElement).addEventListener("click", () => {
  if (editor.opened) vary(editor.opened, editPrompt.value.trim());
});
byId("close-editor", HTMLButtonElement).addEventListener("click", () => {
  editor.close();
  prompt.focus();
});
byId("knobs-section", HTMLDetailsElement).open = matchMedia("(min-width: 761px)").matches;
await loadModels();
document.documentElement.dataset.ready = "true";
