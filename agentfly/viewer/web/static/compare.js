// Two runs side by side: a choice acts at once, and keys go through the tasks.
import { makeCursor } from "./cursor.js";
import { onKey } from "./page.js";

const cursor = makeCursor(".entry");
document.documentElement.classList.add("scripted");

document.querySelector("form[data-auto]").addEventListener("change", (event) => {
  const form = event.currentTarget;
  const run = event.target.name;
  // Parts and steps are those of the run before.
  if (run === "a" || run === "b") for (const name of [`part_${run}`, `step_${run}`]) form.elements[name]?.removeAttribute("name");
  if (run.startsWith("part_")) form.elements[run.replace("part", "step")]?.removeAttribute("name");
  if (form.elements.a.value && form.elements.b.value) form.requestSubmit();
});

for (const side of ["a", "b"])
  onKey(side, () => {
    const address = cursor.entry()?.dataset[side];
    if (address) location.assign(address);
  });
onKey("[", () => document.querySelector('.pager [rel="prev"]')?.click());
onKey("]", () => document.querySelector('.pager [rel="next"]')?.click());
