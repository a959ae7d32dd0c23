// The table of chains in an export: filters and orders without a server. The hash of the address keeps them.
import { makeCursor } from "./cursor.js";
import { onKey } from "./page.js";

const cursor = makeCursor("#rows tr:not([hidden])");
onKey("g", () => {
  const group = (cursor.entry() ?? document.querySelector("#rows tr:not([hidden])"))?.dataset.group;
  if (group) location.assign(group);
});

const form = document.getElementById("sift");
const body = document.getElementById("rows");
const entries = [...(body?.rows ?? [])].map((row) => ({ row, text: row.textContent.toLowerCase() }));
const heads = [...document.querySelectorAll("[data-sort]")];
const FILTERS = ["type", "stop"];
const USUAL = { sort: "n", down: "1" };
let order = { ...USUAL };

/** Add the values that rows have to the choices of a filter, each with its number of rows. */
function fillChoices(name) {
  const counts = new Map();
  for (const { row } of entries) counts.set(row.dataset[name], (counts.get(row.dataset[name]) ?? 0) + 1);
  for (const [value, count] of [...counts].sort()) form.elements[name].add(new Option(`${value.replaceAll("_", " ")} (${count})`, value));
}

function sift() {
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { row, text } of entries) {
    row.hidden = !words.every((word) => text.includes(word)) || FILTERS.some((name) => form.elements[name].value && form.elements[name].value !== row.dataset[name]);
    count += row.hidden ? 0 : 1;
  }
  document.getElementById("sifted").textContent = `${count} of ${entries.length} chains`;
}

function sort() {
  const way = order.down === "1" ? -1 : 1;
  const value = ({ row }) => (row.dataset[order.sort] === "" ? null : Number(row.dataset[order.sort]));
  const sorted = [...entries].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null); // rows without a value come last
    return way * (a - b) || way * (one.row.dataset.n - other.row.dataset.n);
  });
  body.append(...sorted.map(({ row }) => row));
  for (const head of heads) {
    const chosen = head.dataset.sort === order.sort;
    head.closest("th").setAttribute("aria-sort", !chosen ? "none" : order.down === "1" ? "descending" : "ascending");
    head.querySelector(".arrow").textContent = !chosen ? "" : order.down === "1" ? "↓" : "↑";
  }
}

function keep() {
  const found = new URLSearchParams();
  for (const name of ["text", ...FILTERS]) if (form.elements[name].value) found.set(name, form.elements[name].value);
  for (const name of Object.keys(USUAL)) if (order[name] !== USUAL[name]) found.set(name, order[name]);
  history.replaceState(null, "", String(found) ? `#${found}` : location.pathname + location.search);
}

function read() {
  const found = new URLSearchParams(location.hash.slice(1));
  for (const name of ["text", ...FILTERS]) form.elements[name].value = found.get(name) ?? "";
  for (const name of FILTERS) if (form.elements[name].selectedIndex < 0) form.elements[name].value = ""; // no row has it
  const sorts = heads.some((head) => head.dataset.sort === found.get("sort"));
  order = { sort: sorts ? found.get("sort") : USUAL.sort, down: found.get("down") === "0" ? "0" : "1" };
  sift();
  sort();
}

if (form && body) {
  FILTERS.forEach(fillChoices);
  form.hidden = false;
  form.addEventListener("input", () => {
    sift();
    keep();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const head of heads)
    head.addEventListener("click", () => {
      const again = order.sort === head.dataset.sort;
      order = { sort: head.dataset.sort, down: again && order.down === "1" ? "0" : "1" };
      sort();
      keep();
    });
  addEventListener("hashchange", read);
  read();
}
