// The overview: search in long lists, times in words, and the choice of a run to compare with.
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

function agos() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const at = new Date(time.dateTime);
    const seconds = Math.max(0, (Date.now() - at) / 1000);
    time.title = at.toLocaleString();
    const [size, name] = seconds < 90 ? [1, "second"] : seconds < 5400 ? [60, "minute"] : seconds < 129600 ? [3600, "hour"] : [86400, "day"];
    time.textContent = new Intl.RelativeTimeFormat("en").format(-Math.round(seconds / size), name);
  }
}

search?.addEventListener("input", filter);
document.querySelector("#against select")?.addEventListener("change", (event) => event.target.form.requestSubmit());
document.addEventListener("exchanged", () => {
  filter();
  agos();
});
agos();
setInterval(agos, 15000);

const go = (where) => () => document.querySelector(where)?.scrollIntoView({ block: "start" });
onKey("m", go("#all-metrics"));
onKey("w", go(".wrong"));
onKey("c", () => document.querySelector('nav[aria-label="Pages"] a[href$="chains"]')?.click());
