// What every page has: keys, the help, and parts that follow the run while it grows.

const actions = new Map();

/** Have a key do something, unless a person types. Returns nothing. */
export function onKey(key, action) {
  actions.set(key, action);
}

const typing = (target) => target.closest("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]");

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof Element && typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.querySelector("dialog[open]") && event.key !== "?") return;
  const action = actions.get(event.key);
  if (action) {
    event.preventDefault();
    action(event);
  }
});

const help = document.getElementById("help");
const toggleHelp = () => (help.open ? help.close() : help.showModal());
onKey("?", toggleHelp);
document.getElementById("help-button")?.addEventListener("click", toggleHelp);
onKey("/", () => document.querySelector("[data-search]")?.focus());

// Follow the run: when its revision changes, the page is fetched again and its live parts are exchanged.
const PAUSE = 2000;
const FAILED_PAUSE = 10000;

async function follow(address) {
  let pause = PAUSE;
  try {
    if (!document.hidden) {
      const answer = await fetch(address, { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const { revision } = await answer.json();
      if (revision !== document.body.dataset.revision && !document.activeElement?.closest("[data-live] input, [data-live] select")) await exchange();
    }
  } catch {
    pause = FAILED_PAUSE; // the viewer was stopped, or the run is gone
  }
  setTimeout(follow, pause, address);
}

async function exchange() {
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll("[data-live][id]")) {
    const now = fresh.getElementById(old.id);
    if (now) old.replaceWith(now);
  }
  document.body.dataset.revision = fresh.body.dataset.revision;
  document.dispatchEvent(new CustomEvent("exchanged", { detail: fresh }));
}

if (document.body.dataset.poll) setTimeout(follow, PAUSE, document.body.dataset.poll);

// A thumbnail that cannot be made looks like one that was not kept.
const broken = (image) => {
  image.classList.add("none");
  image.alt = `${image.alt}: cannot be shown`;
  image.src = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
};
const isBroken = (image) => image.matches?.("img.thumb:not(.none)");
document.addEventListener("error", (event) => isBroken(event.target) && broken(event.target), true);
for (const image of document.querySelectorAll("img.thumb")) if (image.complete && !image.naturalWidth && isBroken(image)) broken(image);
