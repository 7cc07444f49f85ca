// Faults of the visible text: contrast below WCAG 2.2 AA (1.4.3), and of names and structure.
() => {
  const faults = [];
  const channels = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, below) => {
    const a = top[3];
    return [0, 1, 2].map((i) => a * top[i] + (1 - a) * below[i]).concat(1);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(channels(getComputedStyle(at).backgroundColor));
    return layers.reduceRight((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const check = (element, colour, what) => {
    const style = getComputedStyle(element);
    const below = ground(element);
    const ratio = contrast(over(channels(colour), below), below);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    if (ratio < least) faults.push(`${what}: contrast ${ratio.toFixed(2)}, expected ${least}`);
  };
  const shown = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (text && shown(element) && !element.closest("option, noscript, script, :disabled")) {
      check(element, getComputedStyle(element).color, `"${text.slice(0, 30)}"`);
    }
  }
  for (const field of document.querySelectorAll("input, select, textarea")) {
    if (!shown(field) || field.closest(".unseen")) continue;
    if (["range", "radio"].includes(field.type)) continue;
    check(field, getComputedStyle(field).color, `#${field.id}`);
    if (field.placeholder) check(field, getComputedStyle(field, "::placeholder").color, `#${field.id} placeholder`);
    const edge = contrast(channels(getComputedStyle(field).borderColor), ground(field.parentElement));
    if (edge < 3) faults.push(`#${field.id}: contrast of the edge ${edge.toFixed(2)}, expected 3`);
  }
  const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => faults.push(`#${id}: twice`));
  for (const name of ["aria-labelledby", "aria-describedby", "for"]) {
    for (const element of document.querySelectorAll(`[${name}]`)) {
      for (const id of element.getAttribute(name).split(" ")) {
        if (!document.getElementById(id)) faults.push(`${name}="${id}": names nothing`);
      }
    }
  }
  for (const element of document.querySelectorAll("button, input, select, textarea, canvas, summary, .button")) {
    const { width, height } = element.getBoundingClientRect();
    const small = Math.min(width, height) < (element.matches("input[type=radio]") ? 18 : 20);
    if (shown(element) && !element.matches(".unseen") && small) {
      faults.push(`${element.id || element.textContent || element.className}: ${width} x ${height} px to press`);
    }
  }
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth) faults.push(`scrolls sideways: ${width} px in ${innerWidth}`);
  return faults;
}
