// The list of groups and the chains of a task: a cursor, and keys for the pages beside this one.
import { makeCursor } from "./cursor.js";
import { onKey } from "./page.js";

makeCursor(".entry");
document.documentElement.classList.add("scripted");
const go = (selector) => () => {
  const link = document.querySelector(selector);
  if (link) location.assign(link.href);
};
onKey("ArrowLeft", go('a[hidden][rel="prev"]'));
onKey("ArrowRight", go('a[hidden][rel="next"]'));
onKey("[", go('.pager [rel="prev"]'));
onKey("]", go('.pager [rel="next"]'));
if (document.getElementById("grid")) onKey("g", go('nav a[aria-current="page"]'));
document.querySelector("form[data-auto]")?.addEventListener("change", (event) => event.currentTarget.requestSubmit());
