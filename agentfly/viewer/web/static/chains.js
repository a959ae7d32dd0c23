// The table of chains: filters act at once, keys move a cursor, and new chains wait until they disturb nobody.
import { makeCursor } from "./cursor.js";
import { onKey } from "./page.js";

const DELAY = 250; // milliseconds after the last key of a word
const $ = (id) => document.getElementById(id);
const cursor = makeCursor("#rows tr");
const rows = () => [...document.querySelectorAll("#rows tr")];

document.documentElement.classList.add("scripted");
const wide = matchMedia("(min-width: 961px)");
const openRail = () => ($("rail").open = wide.matches);
wide.addEventListener("change", openRail);
openRail();

// Filters: the page of another URL is fetched, and its parts are put in.
let latest = 0;
let waiting = null; // a page with new chains, which is not shown yet

async function show(address, { push = true } = {}) {
  const mine = ++latest;
  let fresh;
  try {
    const answer = await fetch(address, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    location.assign(address); // the error is shown as a page
    return;
  }
  if (mine !== latest) return; // another one was asked for meanwhile
  history[push ? "pushState" : "replaceState"](null, "", address);
  waiting = null;
  put(fresh);
}

function put(fresh) {
  const at = cursor.entry()?.dataset.n;
  for (const id of ["summary", "progress", "facets", "found"]) {
    const now = fresh.getElementById(id);
    if (now) $(id).replaceWith(document.adoptNode(now));
  }
  document.body.dataset.revision = fresh.body.dataset.revision;
  if (at) cursor.find("n", at);
  fillIn(fresh);
}

function fillIn(fresh) {
  for (const field of $("filters").elements) {
    if (!field.name || field === document.activeElement) continue;
    const other = fresh.querySelector(`#filters [name="${field.name}"]`);
    if (field.type !== "hidden") field.value = other?.value ?? "";
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swap]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    show(link.href);
    return;
  }
  const row = event.target.closest("#rows tr");
  if (row && !event.target.closest("a, button") && !String(getSelection())) row.querySelector(".open").click();
});
addEventListener("popstate", () => show(location.href, { push: false }));

const form = $("filters");
let timer;
form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(apply, DELAY);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  apply();
});

function apply() {
  const query = new URLSearchParams(location.search);
  query.delete("page");
  for (const field of form.elements) {
    if (!field.name || field.type === "hidden") continue;
    if (field.value.trim() && field.value !== field.dataset.usual && field.checkValidity()) query.set(field.name, field.value.trim());
    else query.delete(field.name);
  }
  // A word in progress makes no history of its own.
  show(`${location.pathname}?${query}`, { push: false });
}

// Keys.
onKey("g", () => {
  const row = cursor.entry() ?? rows()[0];
  if (row) location.assign(row.dataset.group);
});
onKey("[", () => document.querySelector('.pager [rel="prev"]')?.click());
onKey("]", () => document.querySelector('.pager [rel="next"]')?.click());

// New chains. The newest of a long run come last, once all of it is read. They are put in at once only for somebody who looks at the beginning of the table and at no row of it.
let reading = Boolean($("reading"));
document.addEventListener("exchanged", (event) => {
  const fresh = event.detail;
  const ended = reading && !$("reading");
  reading = Boolean($("reading"));
  const now = fresh.getElementById("rows");
  if (!now || !$("rows")) {
    if (fresh.getElementById("found")) put(fresh); // the first chains
    return;
  }
  const before = new Set(rows().map((row) => row.dataset.n));
  const added = [...now.rows].filter((row) => !before.has(row.dataset.n));
  if (!added.length && now.rows.length === before.size) return;
  waiting = { fresh, numbers: added.map((row) => row.dataset.n) };
  if (!cursor.entry() && scrollY < 40 && !document.querySelector("#found:hover")) arrive();
  else {
    $("news").hidden = false;
    $("news").textContent = ended ? "The whole run is read · show" : added.length ? `${added.length}${added.length === now.rows.length ? "+" : ""} new · show` : "The table has changed · show";
  }
});

function arrive() {
  if (!waiting) return;
  const { fresh, numbers } = waiting;
  waiting = null;
  put(fresh);
  for (const row of rows()) row.classList.toggle("new", numbers.includes(row.dataset.n));
}

function look() {
  if (!waiting) return;
  arrive();
  scrollTo(0, 0);
}
onKey("n", look);
document.addEventListener("click", (event) => {
  if (event.target.id === "news") look();
});
