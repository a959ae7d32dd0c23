// Choose an image, start an attempt, and show its messages. The attempt ends with the request that listens to it.
import { onKey } from "./page.js";
import { HEADERS, post, reach, read } from "./send.js";
import { modesOf, Stage } from "./stage.js";

const $ = (id) => document.getElementById(id);
const form = $("try-form");
const imageAddress = (handle) => `/try/images/${handle}.png`;
let chosen = null;
let running = null; // { abort, id } of the attempt in progress
let result = null;
let stage = null;

function say(words) {
  $("try-fault").textContent = words;
  $("try-fault").hidden = !words;
}

const status = (words) => { $("status").textContent = words; };

function ready() {
  $("start").disabled = Boolean(running) || !chosen || !$("instruction").value.trim();
  $("start").hidden = Boolean(running);
  $("cancel").hidden = !running;
}

// Images.
function choose(kept) {
  chosen = kept.image;
  $("chosen").src = imageAddress(kept.image);
  $("chosen").alt = "The image to edit";
  $("chosen").hidden = false;
  $("drop-hint").hidden = true;
  $("chosen-size").textContent = `${kept.width} × ${kept.height} pixels. Click the image to choose another one.`;
  $("chosen-size").hidden = false;
  if (kept.instruction && !$("instruction").dataset.own) $("instruction").value = kept.instruction;
  say("");
  ready();
}

async function upload(file) {
  const most = Number(form.dataset.mostBytes);
  if (file.size > most) return say(`This file has ${(file.size / 1048576).toFixed(1)} MB, ${Math.round(most / 1048576)} are allowed: resize or compress it.`);
  status("The image is sent …");
  try {
    const headers = { ...HEADERS, "Content-Type": "application/octet-stream" };
    choose(await read(await reach("/try/images", { method: "POST", headers, body: file })));
    press(null);
    status("Write an instruction.");
  } catch (fault) {
    say(fault.message);
    status("");
  }
}

function press(button) {
  for (const other of document.querySelectorAll("[data-sample]")) other.setAttribute("aria-pressed", String(other === button));
}

$("file").addEventListener("change", () => {
  if ($("file").files[0]) upload($("file").files[0]);
  $("file").value = "";
});
for (const name of ["dragenter", "dragover"]) $("drop").addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
for (const name of ["dragleave", "drop"]) $("drop").addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.remove("over"); });
$("drop").addEventListener("drop", (event) => { if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((item) => item.type.startsWith("image/"));
  if (file) upload(file);
});
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-sample]");
  if (!button) return;
  try {
    choose(await post("/try/samples", { key: button.dataset.sample }));
    press(button);
  } catch (fault) {
    say(fault.message);
  }
});

// Steps.
let steps = new Map();

function step(turn) {
  if (!steps.has(turn)) {
    const item = $("step").content.firstElementChild.cloneNode(true);
    item.querySelector("h3").textContent = `Turn ${turn + 1}`;
    $("steps").append(item);
    steps.set(turn, { item, calls: new Map() });
  }
  return steps.get(turn);
}

function call(told) {
  const { item, calls } = step(told.turn);
  if (!calls.has(told.call)) {
    const part = $("call").content.firstElementChild.cloneNode(true);
    item.querySelector(".calls").append(part);
    calls.set(told.call, part);
  }
  return calls.get(told.call);
}

const show = {
  accepted: (told) => { running.id = told.id; },
  queued: (told) => status(told.place === 1 ? "You are next: waiting for another attempt to end …" : `${told.place - 1} attempts are before yours …`),
  begin: () => status("The policy is asked; its first words can take a while if it is still loading …"),
  turn: (told) => { step(told.turn).item.classList.add("open"); status(`Turn ${told.turn + 1}`); },
  delta: (told) => { step(told.turn).item.querySelector(".said").textContent += told.text; },
  said: (told) => {
    const { item } = step(told.turn);
    item.classList.remove("open");
    item.querySelector(".said").textContent = told.text;
    const seconds = document.createElement("span");
    seconds.textContent = `${told.seconds.toFixed(1)} s`;
    item.querySelector("h3").append(seconds);
  },
  call: (told) => {
    const part = call(told);
    part.querySelector("b").textContent = told.name;
    part.querySelector("pre").textContent = told.arguments;
    status(`${told.name} works …`);
  },
  called: (told) => {
    const part = call(told);
    part.querySelector("[data-seconds]").textContent = `${told.seconds.toFixed(2)} s`;
    part.querySelector(".notice").textContent = told.error ?? "";
    part.querySelector(".notice").hidden = !told.error;
  },
  seen: (told) => {
    const part = call(told);
    const seen = part.querySelector("[data-seen]");
    seen.hidden = !told.text;
    seen.querySelector("pre").textContent = told.text;
    for (const handle of told.images) {
      if ([...$("steps").querySelectorAll(".made img")].at(-1)?.src.endsWith(imageAddress(handle))) continue; // given as the answer
      const image = document.createElement("img");
      image.src = imageAddress(handle);
      image.alt = `Image of ${part.querySelector("b").textContent}`;
      part.querySelector(".made").append(image);
    }
  },
  end: (told) => showEnd(told),
};

async function showEnd(told) {
  for (const { item } of steps.values()) item.classList.remove("open");
  for (const tag of document.querySelectorAll("[data-seconds]")) if (tag.textContent === "running") tag.textContent = "stopped";
  say(told.error ?? "");
  status(told.turns === undefined ? "" : `${told.stopped.replaceAll("_", " ")} after ${told.turns} ${told.turns === 1 ? "turn" : "turns"}, ${told.seconds.toFixed(1)} s`);
  if (told.after) {
    result = told.after;
    $("download").href = imageAddress(told.after);
    $("answer").textContent = told.answer ?? "";
    for (const id of ["open-chain", "open-rate"]) $(id).hidden = true;
    $("result").hidden = false;
    await compare(told.before && imageAddress(told.before), imageAddress(told.after));
  }
  if (told.chain && told.kept) {
    try {
      const found = await read(await reach(`/try/chains/${encodeURIComponent(told.chain)}`));
      for (const [id, address] of [["open-chain", found.chain], ["open-rate", found.rate]]) {
        $(id).href = address;
        $(id).hidden = false;
      }
    } catch { /* the result stays, without links */ }
  } else if (told.chain) {
    say(`${told.error ? `${told.error} ` : ""}The attempt could not be kept: see the log of the viewer.`);
  }
}

async function start() {
  if ($("start").disabled || running) return;
  const attempt = { abort: new AbortController(), id: null };
  running = attempt;
  let ended = false;
  steps = new Map();
  $("steps").replaceChildren();
  $("result").hidden = true;
  say("");
  status("Starting …");
  ready();
  try {
    const headers = { ...HEADERS, "Content-Type": "application/json" };
    const body = JSON.stringify({ image: chosen, instruction: $("instruction").value });
    const answer = await reach("/try/runs", { method: "POST", headers, body, signal: attempt.abort.signal });
    if (!answer.ok) await read(answer);
    for await (const told of lines(answer.body)) {
      ended ||= told.event === "end";
      await show[told.event]?.(told);
    }
    if (!ended) throw new Error("The connection to the viewer was lost, and the attempt was ended.");
  } catch (fault) {
    const words = fault.name === "AbortError" ? "Cancelled." : fault.name === "TypeError" ? "The connection to the viewer was lost, and the attempt was ended." : fault.message;
    if (!ended) await showEnd({ error: words });
  } finally {
    running = null;
    ready();
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

async function cancel() {
  const attempt = running;
  if (!attempt) return;
  status("Cancelling …");
  // The server says when it has stopped; where it does not, leaving ends the attempt as well.
  const late = setTimeout(() => attempt.abort.abort(), 5000);
  try {
    if (!attempt.id) throw new Error("not accepted yet");
    await post(`/try/runs/${encodeURIComponent(attempt.id)}/cancel`, {});
  } catch {
    clearTimeout(late);
    attempt.abort.abort();
  }
}

form.addEventListener("submit", (event) => { event.preventDefault(); start(); });
$("instruction").addEventListener("input", () => {
  $("instruction").dataset.own = $("instruction").value.trim() ? "1" : "";
  ready();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    start();
  }
});
$("cancel").addEventListener("click", cancel);
onKey("Escape", cancel);
onKey("o", () => $("file").click());
onKey("g", goOn);
$("go-on").addEventListener("click", goOn);

async function goOn() {
  if (!result || running) return;
  const image = await stage.layer("after").loaded;
  choose({ image: result, width: image?.naturalWidth, height: image?.naturalHeight });
  press(null);
  $("instruction").value = "";
  $("instruction").dataset.own = "";
  ready();
  $("instruction").focus();
}

// Before and after in one place, as on the page of a chain.
async function compare(before, after) {
  stage = new Stage({ before, after, labels: ["Before", "After"] });
  $("compared").replaceChildren(stage.element);
  const modes = modesOf(stage.images);
  $("modes").replaceChildren(
    ...modes.map(([name, label]) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: label });
      button.addEventListener("click", () => showMode(button, name));
      return button;
    }),
  );
  const first = modes.findIndex(([name]) => name === "slider");
  await showMode($("modes").children[first < 0 ? modes.length - 1 : first], modes.at(first)[0]);
}

async function showMode(button, name) {
  for (const other of $("modes").children) other.setAttribute("aria-pressed", String(other === button));
  await stage.show(name);
}

ready();
