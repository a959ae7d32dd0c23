// The table of chains in an export: a cursor, without the filters of a server.
import { makeCursor } from "./cursor.js";
import { onKey } from "./page.js";

const cursor = makeCursor("#rows tr");
onKey("g", () => {
  const group = (cursor.entry() ?? document.querySelector("#rows tr"))?.dataset.group;
  if (group) location.assign(group);
});
