// Verdicts by key and button. The next thing to rate comes with the same page, fetched anew.
import { onKey } from "./page.js";
import { post } from "./send.js";

const form = document.getElementById("rate-form");
const fault = document.getElementById("rate-fault");
const zoom = document.getElementById("zoom");
const address = location.pathname.replace(/\/$/, "");
const stage = () => document.getElementById("stage");
const results = () => JSON.parse(stage().dataset.results || "[]");
const rater = () => form.elements.rater.value.trim() || "me";
let shownAt = performance.now();
let typed = { text: "", at: 0 };

// The name is remembered, and is part of the address, so that a reload keeps it.
const NAME = "agentfly-rater";
const url = new URL(location.href);
if (!url.searchParams.has("rater")) {
  const known = localStorage.getItem(NAME);
  if (known && known !== rater()) {
    url.searchParams.set("rater", known);
    location.replace(url);
  }
} else {
  localStorage.setItem(NAME, rater());
}
form.addEventListener("change", () => form.requestSubmit());

function showFull() {
  shownAt = performance.now();
  // A verdict on thumbnails would be worth nothing: here the images are what was asked for.
  for (const view of stage().querySelectorAll("img[data-full]")) {
    const full = new Image();
    full.onload = () => { view.src = full.src; };
    full.onerror = () => say(`The image “${view.alt}” cannot be shown in full.`);
    full.src = view.dataset.full;
  }
}

function say(words) {
  fault.textContent = words;
  fault.hidden = !words;
}

async function next() {
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) throw new Error("The next one cannot be shown: reload the page.");
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["stage", "rate-kept"]) document.getElementById(id).replaceWith(fresh.getElementById(id));
  showFull();
}

async function send(path, value) {
  if (stage().dataset.busy) return;
  stage().dataset.busy = "1";
  try {
    const answer = await post(address + path, { ...value, rater: rater() });
    say("");
    await next();
    const words = document.getElementById("rate-words");
    if (words && answer.words) words.value = answer.words;
  } catch (error) {
    say(error.message); // what was chosen and written stays
  } finally {
    delete stage().dataset.busy;
  }
}

function give(verdict, score = null) {
  if (!results().length || (verdict && verdict !== "skip" && stage().dataset.mode !== "pair")) return;
  const words = document.getElementById("rate-words").value;
  send("", { results: results(), verdict, score, words, seconds: (performance.now() - shownAt) / 1000 });
}

// Scores.
const slider = () => document.getElementById("score");

function setScore(value) {
  if (!slider()) return;
  slider().value = Math.min(100, Math.max(0, value));
  document.getElementById("score-value").textContent = slider().value;
  document.getElementById("score-send").disabled = false;
}

function keepScore() {
  if (slider() && !document.getElementById("score-send").disabled) give(null, Number(slider().value));
}

function typeDigit(digit) {
  const now = performance.now();
  const before = now - typed.at < 1500 ? typed.text : "";
  const text = Number(before + digit) <= 100 ? before + digit : digit;
  typed = { text, at: now };
  setScore(Number(text));
}

for (const digit of "0123456789") onKey(digit, () => slider() && typeDigit(digit));
const left = () => (slider() ? setScore(Number(slider().value) - 1) : give("left"));
const right = () => (slider() ? setScore(Number(slider().value) + 1) : give("right"));
onKey("ArrowLeft", left);
onKey("ArrowRight", right);
onKey("ArrowDown", () => (slider() ? setScore(Number(slider().value) - 10) : give("tie")));
onKey("ArrowUp", () => slider() && setScore(Number(slider().value) + 10));
onKey("t", () => give("tie"));
onKey("s", () => give("skip"));
onKey("u", () => send("/undo", {}));
onKey("w", () => document.getElementById("rate-words")?.focus());
onKey("z", () => enlarge("left"));
onKey("Enter", (event) => {
  // A button that has the focus is pressed by Enter, too.
  if (event.target.closest?.("button, a")) event.target.click();
  else keepScore();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.verdict) give(button.dataset.verdict);
  else if (button.hasAttribute("data-undo")) send("/undo", {});
  else if (button.id === "score-send") keepScore();
  else if (button.dataset.zoom) enlarge(button.dataset.zoom);
});
document.addEventListener("input", (event) => {
  if (event.target.id === "score") setScore(Number(event.target.value));
});
document.addEventListener("keydown", (event) => {
  if (event.target.id !== "rate-words" || event.key !== "Enter") return;
  event.preventDefault();
  event.target.blur();
});

// Enlarged, the images change in place: what differs jumps to the eye.
let enlarged = [];
let place = 0;

function enlarge(name) {
  enlarged = [...stage().querySelectorAll("[data-zoom]")];
  place = enlarged.findIndex((button) => button.dataset.zoom === name);
  if (place < 0) return;
  zoom.showModal();
  showEnlarged();
}

function showEnlarged() {
  const view = enlarged[place].querySelector("img");
  const image = zoom.querySelector("img");
  image.onload = () => {
    const room = Math.min(0.9 * innerWidth / image.naturalWidth, 0.78 * innerHeight / image.naturalHeight);
    const scale = room >= 2 ? Math.floor(room) : Math.min(1, Math.max(room, 1));
    image.style.width = `${scale * image.naturalWidth}px`;
    image.classList.toggle("pixels", scale > 1);
  };
  image.src = view.dataset.full;
  image.alt = view.alt;
  document.getElementById("zoom-name").textContent = view.alt;
}

zoom.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "z") zoom.close();
  if (!step) return;
  event.preventDefault();
  place = (place + step + enlarged.length) % enlarged.length;
  showEnlarged();
});
zoom.addEventListener("click", (event) => { if (event.target === zoom) zoom.close(); });

if (stage().dataset.results !== "[]") showFull();
