// Images in full size: move, zoom, read off pixels, compare.
import { modesOf, Stage } from "./stage.js";

const dialog = document.getElementById("zoom");
const view = dialog?.querySelector(".zoom-view");
const inner = dialog?.querySelector(".zoom-inner");
const read = dialog?.querySelector(".zoom-read");
const [modeButtons] = dialog?.querySelectorAll(".modes") ?? [];
const seenBox = document.getElementById("zoom-seen");
const STEP = 1.25;
let stage = null;
let size = [1, 1];
let place = { x: 0, y: 0, scale: 1 };
let pixels = {};

/** Open the dialog with images as `imagesOf` gives them. */
export async function openZoom(images, mode, title) {
  if (!dialog) return;
  stage = new Stage(images);
  pixels = {};
  inner.replaceChildren(stage.element);
  dialog.querySelector("h2").textContent = title;
  const seen = dialog.querySelector(".seen");
  seen.hidden = !images.seen;
  seenBox.checked = false;
  if (images.seen) seen.querySelector("span").textContent = `(${images.seen.join("×")})`;
  const modes = modesOf(images);
  modeButtons.hidden = modes.length < 2;
  modeButtons.replaceChildren(
    ...modes.map(([name, label]) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: label });
      button.dataset.show = name;
      return button;
    }),
  );
  read.textContent = "Loading…";
  if (!dialog.open) dialog.showModal();
  await show(modes.some(([name]) => name === mode) ? mode : modes[0][0]);
  const first = await (stage.layers.before ?? stage.layers.after).loaded;
  size = first ? [first.naturalWidth, first.naturalHeight] : images.size ?? [1, 1];
  stage.element.style.width = `${size[0]}px`;
  read.textContent = first ? `${size[0]}×${size[1]} pixels` : "The image cannot be shown: its file is damaged or gone.";
  fit();
  view.focus();
}

async function show(mode) {
  for (const button of modeButtons.children) button.setAttribute("aria-pressed", String(button.dataset.show === mode));
  await stage.show(mode);
}

function draw() {
  inner.style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.scale})`;
  inner.classList.toggle("large", place.scale >= 2);
  // The slider stays as thick as it is.
  stage?.element.style.setProperty("--unscale", String(1 / place.scale));
}

function fit() {
  const { clientWidth: width, clientHeight: height } = view;
  const scale = Math.min(width / size[0], height / size[1], 16);
  place = { scale, x: (width - size[0] * scale) / 2, y: (height - size[1] * scale) / 2 };
  draw();
}

function zoom(factor, x = view.clientWidth / 2, y = view.clientHeight / 2) {
  const scale = Math.min(64, Math.max(0.02, place.scale * factor));
  const ratio = scale / place.scale;
  place = { scale, x: x - (x - place.x) * ratio, y: y - (y - place.y) * ratio };
  draw();
}

/** Return the colours of a pixel, by layer; none where the page was opened from disk. */
async function colours(x, y) {
  const found = [];
  for (const name of ["before", "after"]) {
    const layer = stage.layers[name];
    if (!layer || layer.hidden) continue;
    pixels[name] ??= await contextOf(layer);
    try {
      const [red, green, blue] = pixels[name].getImageData(x, y, 1, 1).data;
      const hex = [red, green, blue].map((value) => value.toString(16).padStart(2, "0")).join("");
      found.push(`${stage.images.labels[name === "before" ? 0 : 1]} ${red} ${green} ${blue} #${hex}`);
    } catch {
      return ["colours are read where a server shows the page"];
    }
  }
  return found;
}

async function contextOf(layer) {
  const image = await layer.loaded;
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context;
}

async function tell(event) {
  const box = view.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left - place.x) / place.scale);
  const y = Math.floor((event.clientY - box.top - place.y) / place.scale);
  if (x < 0 || y < 0 || x >= size[0] || y >= size[1]) {
    read.textContent = `${size[0]}×${size[1]} pixels`;
    return;
  }
  const found = await colours(x, y).catch(() => []);
  read.textContent = [`x ${x}  y ${y}`, ...found].join("   ");
}

if (dialog) {
  modeButtons.addEventListener("click", (event) => {
    const name = event.target.closest("button")?.dataset.show;
    if (name) show(name);
  });
  seenBox.addEventListener("change", () => stage.reduce(seenBox.checked ? stage.images.seen : null));
  dialog.addEventListener("click", (event) => {
    const by = event.target.closest("[data-zoom-by]")?.dataset.zoomBy;
    if (by === "in") zoom(STEP);
    else if (by === "out") zoom(1 / STEP);
    else if (by === "fit") fit();
    else if (by === "one") zoom(1 / place.scale);
    else if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const keys = { "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), 0: fit, 1: () => zoom(1 / place.scale) };
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (moves[event.key] && event.target === view) {
      place = { ...place, x: place.x + moves[event.key][0], y: place.y + moves[event.key][1] };
      draw();
    } else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = view.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  view.addEventListener("pointerdown", (event) => {
    if (event.target.closest("input")) return;
    const from = { x: event.clientX - place.x, y: event.clientY - place.y };
    const drag = (moved) => {
      place = { ...place, x: moved.clientX - from.x, y: moved.clientY - from.y };
      draw();
    };
    view.setPointerCapture(event.pointerId);
    view.addEventListener("pointermove", drag);
    for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, () => view.removeEventListener("pointermove", drag), { once: true });
  });
  view.addEventListener("pointermove", tell);
  dialog.addEventListener("close", () => inner.replaceChildren());
}
