/** Images that arrive from elsewhere: dropped on the page, or pasted. */

/** @param {(file: File) => void} open */
export function connectArrivals(open) {
  const page = document.documentElement;
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    page.dataset.dropping = "true";
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) delete page.dataset.dropping;
  });
  document.addEventListener("drop", (event) => {
    delete page.dataset.dropping;
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    event.preventDefault();
    open(file);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file || (isText(event.target) && event.clipboardData?.types.includes("text/plain"))) return;
    event.preventDefault();
    open(file);
  });
}

/** @param {EventTarget|null} target */
function isText(target) {
  return target instanceof HTMLTextAreaElement || target instanceof HTMLInputElement;
}
