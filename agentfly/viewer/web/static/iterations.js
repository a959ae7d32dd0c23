// Rounds side by side: the arrow keys go from one to the next, and a click or Enter shows an image in full size.

import { onKey } from "./page.js";

let here = "";

const rounds = () => [...document.querySelectorAll("[data-round]")];
const images = () => [...document.querySelectorAll("#rounds [data-image]")];

function mark(round) {
  for (const one of rounds()) one.classList.toggle("here", one === round);
  here = round?.id ?? "";
}

function go(step) {
  const all = rounds();
  const place = all.findIndex((round) => round.id === here);
  const next = all[place < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, place + step))];
  if (!next) return;
  mark(next);
  next.scrollIntoView({ block: "nearest", inline: "center" });
}

onKey("ArrowRight", () => go(1));
onKey("ArrowLeft", () => go(-1));
onKey("b", () => {
  const round = document.querySelector("[data-best]")?.closest("[data-round]");
  if (!round) return;
  mark(round);
  round.scrollIntoView({ block: "nearest", inline: "center" });
});
onKey("Enter", () => {
  const focused = document.activeElement?.closest("a, button, summary");
  if (focused) focused.click();
  else show(document.querySelector(`[id="${here}"] [data-image]`) ?? images()[0]);
});

const dialog = document.getElementById("whole");
let shown = null;

function show(link) {
  if (!link) return;
  shown = link.href;
  dialog.querySelector("img").src = link.href; // the full image is loaded here, and not before
  dialog.querySelector("img").alt = dialog.querySelector("p").textContent = link.dataset.caption;
  if (!dialog.open) dialog.showModal();
}

document.addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("[data-image]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link);
});
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = images();
  show(all[all.findIndex((link) => link.href === shown) + step]);
});
document.addEventListener("exchanged", () => mark(document.getElementById(here) ?? undefined));
