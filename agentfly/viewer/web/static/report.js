// The script of an export in one file: it shows the page that the address names, and runs what the page runs on the server.

const block = (kind, name) => document.querySelector(`script[data-${kind}="${CSS.escape(name)}"]`)?.textContent;

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/** Replace the marks of images ("image:7") by the images. */
function fill(root) {
  for (const element of root.querySelectorAll("*")) {
    for (const attribute of element.attributes) {
      const mark = /^image:(\d+)$/.exec(attribute.value);
      if (!mark) continue;
      const data = block("image", mark[1]);
      if (data) attribute.value = `data:image/webp;base64,${data}`;
      else element.removeAttribute(attribute.name);
    }
  }
}

async function show() {
  const name = decodeURIComponent(location.search.slice(1).split("&")[0]) || "index";
  const packed = block("page", name);
  if (!packed) {
    document.title = "Not in this report · agentfly";
    document.body.textContent = "This page is not in the report: only some of the run's chains are.";
    return;
  }
  const page = await unpack(packed);
  const fresh = new DOMParser().parseFromString(page.body, "text/html");
  fill(fresh);
  for (const sheet of document.querySelectorAll("style[data-sheet]")) sheet.media = page.styles.includes(sheet.dataset.sheet) ? "all" : "not all";
  document.title = new DOMParser().parseFromString(page.title, "text/html").documentElement.textContent;
  document.body.replaceChildren(...fresh.body.childNodes);
  for (const script of page.scripts) agentfly.need(script);
  // A place in the page is there only now.
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

show().catch((fault) => {
  document.body.textContent = `The report cannot be shown: ${fault.message}. It needs a browser of 2023 or later.`;
});
