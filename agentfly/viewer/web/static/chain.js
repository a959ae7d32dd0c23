// One chain: keys, comparison of images, shading of tokens, long texts, turns that come later, and calls run again.
import { onKey } from "./page.js";
import { HEADERS, reach, read } from "./send.js";
import { imagesOf, Stage } from "./stage.js";
import { openZoom } from "./zoom.js";

const conversation = document.querySelector(".conversation");

// Keys.
const follow = (selector) => () => document.querySelector(selector)?.click();
onKey("j", follow("a[rel=next]"));
onKey("k", follow("a[rel=prev]"));
onKey("g", follow("a[data-group]"));
onKey("r", openRaw);
onKey("s", nextShade);
onKey("ArrowRight", () => step(1));
onKey("ArrowLeft", () => step(-1));

let current = -1;

function step(by) {
  const turns = [...document.querySelectorAll("[data-turn]")];
  const focused = turns.findIndex((turn) => turn.contains(document.activeElement));
  current = Math.min(turns.length - 1, Math.max(0, (focused >= 0 ? focused : current) + by));
  const turn = turns[current];
  if (!turn) return;
  turn.focus({ preventScroll: true });
  turn.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

// Shading: chosen once for all chains of this tab.
const shades = [...document.querySelectorAll("input[name=shade]")];

function shade(name) {
  const box = shades.find((one) => one.value === name);
  if (!box) return;
  box.checked = true;
  conversation.dataset.shade = name;
  document.querySelector(".shading").dataset.shade = name;
  try {
    sessionStorage.setItem("shade", name);
  } catch {} // a page from disk may keep nothing
}

function nextShade() {
  const place = shades.findIndex((box) => box.checked);
  if (shades.length) shade(shades[(place + 1) % shades.length].value);
}

for (const box of shades) {
  box.addEventListener("change", () => shade(box.value));
  box.addEventListener("keydown", (event) => event.key.startsWith("Arrow") && event.stopPropagation());
}
let remembered = conversation?.dataset.shade;
try {
  remembered = sessionStorage.getItem("shade") ?? remembered;
} catch {} // see above
shade(shades.some((box) => box.value === remembered) ? remembered : "logprob");

// Clicks: the page is built of links that work without this.
document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  const target = event.target instanceof Element ? event.target : null;
  const handler = [
    ["[data-whole]", showWhole],
    ["[data-rerun]", runAgain],
    ["[data-open-raw]", openRaw],
    ["[data-compare] [data-mode]", compare],
    ["a[data-zoom]", zoomIn],
  ].find(([selector]) => target?.closest(selector));
  if (!handler) return;
  event.preventDefault();
  handler[1](target.closest(handler[0]));
});

async function showWhole(button) {
  button.disabled = true;
  const box = button.closest(".text");
  try {
    const answer = await reach(button.dataset.whole);
    if (!answer.ok) throw new Error(`The viewer answered ${answer.status}.`);
    box.textContent = await answer.text();
    box.classList.add("whole");
    box.tabIndex = 0; // long texts scroll in a box of their own
    box.focus();
  } catch (fault) {
    button.disabled = false;
    button.textContent = fault.message;
  }
}

function zoomIn(anchor) {
  const box = anchor.closest("[data-compare]");
  const known = box && [box.dataset.before, box.dataset.after].includes(anchor.getAttribute("href"));
  if (!known) {
    const { label } = anchor.dataset;
    openZoom({ ...imagesOf(anchor), before: anchor.href, labels: [label, ""] }, "before", label);
    return;
  }
  openZoom(imagesOf(box), anchor.getAttribute("href") === box.dataset.before ? "before" : "after", titleOf(box));
}

const titleOf = (box) => box.closest("section")?.getAttribute("aria-label") ?? "Image";

function compare(control) {
  const box = control.closest("[data-compare]");
  const { mode } = control.dataset;
  if (mode === "mask") return openZoom(imagesOf(box), "mask", titleOf(box));
  if (mode === "zoom") return openZoom(imagesOf(box), box.dataset.inline ?? "slider", titleOf(box));
  const place = box.querySelector(".inline-stage");
  const again = box.dataset.inline === mode;
  for (const button of box.querySelectorAll(".modes button")) button.setAttribute("aria-pressed", String(!again && button === control));
  place.hidden = again;
  if (again) {
    delete box.dataset.inline;
    return undefined;
  }
  box.dataset.inline = mode;
  place.stage ??= new Stage(imagesOf(box));
  if (!place.contains(place.stage.element)) place.replaceChildren(place.stage.element);
  return place.stage.show(mode);
}

// An image whose file is damaged says so.
const isPreview = (node) => node instanceof HTMLImageElement && node.matches(".preview, .inline-image img");

function cannotBeShown(image) {
  const box = document.createElement("span");
  box.className = `preview none${image.matches(".preview") ? "" : " tiny"}`;
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", `${image.alt}: cannot be shown`);
  if (image.matches(".preview")) box.textContent = "cannot be shown";
  image.replaceWith(box);
}

document.addEventListener("error", (event) => isPreview(event.target) && cannotBeShown(event.target), true);
for (const image of document.images) if (isPreview(image) && image.complete && !image.naturalWidth) cannotBeShown(image);

// Run calls again.
let running = false;

async function runAgain(button) {
  if (running) return;
  running = true;
  const place = document.getElementById(button.dataset.target ?? "") ?? button.closest(".call").querySelector(".rerun-result");
  const words = button.textContent;
  Object.assign(button, { disabled: true, textContent: "Running…" });
  place.hidden = false;
  tell(place, "", "Running…");
  try {
    const found = await read(await reach(button.dataset.rerun, { method: "POST", headers: HEADERS }));
    if ("skipped" in found) showChain(place, found);
    else showCall(place, button.closest(".call"), found);
  } catch (fault) {
    tell(place, "bad", fault.message);
  } finally {
    running = false;
    Object.assign(button, { disabled: false, textContent: words });
  }
}

function tell(place, kind, words) {
  const line = document.createElement("p");
  line.className = `notice ${kind}`.trim();
  line.textContent = words;
  place.replaceChildren(line);
}

const measured = ({ mean, max, share }) =>
  mean === null || mean === undefined ? "" : ` — mean ${mean.toFixed(2)}, largest ${max} of 255, ${(100 * share).toFixed(2)} % of the pixels`;

function showCall(place, call, found) {
  const by = [found.engine && `by ${found.engine}`, found.seconds && `in ${found.seconds.toFixed(2)} s`].filter(Boolean).join(" ");
  tell(place, found.equal ? "good" : "bad", `${found.words}${by ? ` (${by})` : ""}`);
  const recorded = call.querySelector("[data-compare]")?.dataset.after;
  for (const image of found.images.filter((one) => !one.equal)) {
    const line = document.createElement("p");
    line.className = "small";
    line.textContent = `${image.what}${measured(image)} `;
    if (image.image) {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: recorded ? "Compare with the recorded one" : "Show" });
      button.addEventListener("click", () =>
        openZoom({ before: recorded ?? image.image, after: image.image, labels: ["Recorded", "Now"] }, "difference", "Run again"),
      );
      line.append(button);
    }
    place.append(line);
  }
}

function showChain(place, found) {
  tell(place, found.same ? "good" : "bad", found.words);
  const list = document.createElement("ul");
  list.className = "small";
  for (const one of found.differences) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    Object.assign(link, { href: `#turn-${one.turn}`, textContent: `turn ${one.turn}, ${one.tool}` });
    item.append(link, ` ${one.image ? `${one.image}: ` : ""}${one.what}${measured(one)}`);
    list.append(item);
  }
  for (const reason of found.skipped) {
    const item = document.createElement("li");
    item.textContent = `Not run: ${reason}`;
    list.append(item);
  }
  if (list.children.length) place.append(list);
}

// Turns of long chains come when somebody comes near.
const later = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) load(target);
}, { rootMargin: "600px" });
for (const turn of document.querySelectorAll("[data-fetch]")) later.observe(turn);

async function load(turn) {
  later.unobserve(turn);
  const address = turn.dataset.fetch;
  if (!address) return;
  delete turn.dataset.fetch;
  try {
    const answer = await reach(address);
    if (!answer.ok) throw new Error(`The viewer answered ${answer.status}.`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-turn]");
    const focused = turn.contains(document.activeElement);
    turn.replaceWith(fresh);
    if (focused) fresh.focus({ preventScroll: true });
  } catch (fault) {
    const line = document.createElement("p");
    line.textContent = fault.message;
    turn.append(line);
  }
}

// The raw line, with its indentation where it is JSON.
const raw = document.getElementById("raw");
raw?.addEventListener("toggle", loadRaw);

function openRaw() {
  if (!raw) return;
  raw.open = !raw.open;
  if (raw.open) raw.scrollIntoView({ block: "start" });
}

async function loadRaw() {
  const place = raw.querySelector("pre");
  if (!raw.open || place.textContent) return;
  place.textContent = "Loading…";
  try {
    const text = await (await reach(raw.dataset.raw)).text();
    place.textContent = text.length > 400000 ? `${text.slice(0, 400000)}… (the rest by the link above)` : indented(text);
  } catch (fault) {
    place.textContent = fault.message;
  }
}

function indented(text) {
  try {
    // Lists of numbers stay on one line: token ids would be thousands of lines.
    return JSON.stringify(JSON.parse(text), null, 2).replace(/\[\s+(-?[\d.eE+-]+(?:,\s+-?[\d.eE+-]+)*)\s+\]/g, (list) => list.replace(/\s+/g, " "));
  } catch {
    return text; // NaN is no JSON
  }
}
