// The overview: search in long lists, and the choice of a run to compare with.
import "./ago.js";
import { onKey } from "./page.js";

const search = document.getElementById("metric-search");

function filter() {
  const words = search?.value.toLowerCase().split(/\s+/).filter(Boolean) ?? [];
  const rows = [...document.querySelectorAll("#metric-rows [data-name]")];
  let count = 0;
  for (const row of rows) {
    const name = row.dataset.name.toLowerCase();
    row.hidden = !words.every((word) => name.includes(word));
    count += row.hidden ? 0 : 1;
  }
  for (const group of document.querySelectorAll("#metric-rows [data-group]")) {
    group.hidden = !group.querySelector("[data-name]:not([hidden])");
  }
  const said = document.getElementById("metric-count");
  if (said) said.textContent = words.length ? `${count} of ${rows.length}` : "";
}

search?.addEventListener("input", filter);
document.querySelector("#against select")?.addEventListener("change", (event) => event.target.form.requestSubmit());
document.addEventListener("exchanged", filter);

const go = (where) => () => document.querySelector(where)?.scrollIntoView({ block: "start" });
onKey("m", go("#all-metrics"));
onKey("w", go(".wrong"));
onKey("c", () => document.querySelector('nav[aria-label="Pages"] a[href$="chains"]')?.click());
