// A cursor over the entries of a page, moved by j and k. Enter opens an entry, since its link has the focus.
import { onKey } from "./page.js";

/**
 * Return the cursor over the elements that a selector finds; each has a link of the class "open".
 * `entry()` is the marked element or null, `find(key, value)` marks the one with such a data attribute.
 */
export function makeCursor(selector) {
  let marked = null;
  const all = () => [...document.querySelectorAll(selector)];

  function mark(element, { focus = true } = {}) {
    marked?.classList.remove("at");
    marked = element ?? null;
    if (!element) return;
    element.classList.add("at");
    if (focus) {
      element.querySelector(".open").focus({ preventScroll: true });
      element.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  function move(by) {
    const entries = all();
    const place = entries.indexOf(marked);
    const next = place < 0 ? (by > 0 ? 0 : entries.length - 1) : place + by;
    if (entries.length) mark(entries[Math.min(Math.max(next, 0), entries.length - 1)]);
  }

  onKey("j", () => move(1));
  onKey("k", () => move(-1));
  document.addEventListener("focusin", (event) => {
    const element = event.target.closest?.(selector);
    if (element && element !== marked) mark(element, { focus: false });
  });
  return {
    entry: () => (marked?.isConnected ? marked : null),
    find: (key, value) => mark(all().find((element) => element.dataset[key] === value), { focus: false }),
  };
}
