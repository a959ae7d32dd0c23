// Two images on top of each other: before, after, mask over before, slider, difference. No server takes part.

const SVG = "http://www.w3.org/2000/svg";
let masks = 0;

/** The modes that the given images allow, with their labels. */
export function modesOf({ before, after, mask, labels }) {
  const found = [];
  if (before) found.push(["before", labels[0]]);
  if (before && mask) found.push(["mask", "Mask"]);
  if (after) found.push(["after", labels[1]]);
  if (before && after && before !== after) found.push(["slider", "Slider"], ["difference", "Difference"]);
  return found;
}

/** The images of an element with data-before, data-after and data-mask. */
export function imagesOf(element) {
  const { before, after, mask, labels, size, seen } = element.dataset;
  const sides = (words) => words?.split("x").map(Number);
  return { before, after, mask, labels: labels?.split("|") ?? ["Before", "After"], size: sides(size), seen: sides(seen) };
}

export class Stage {
  /** Make the layers of images; nothing is loaded before a mode needs it. */
  constructor(images) {
    this.images = images;
    this.element = document.createElement("div");
    this.element.className = "stage";
    this.layers = {};
    this.seen = null;
    if (images.size) this.element.style.aspectRatio = `${images.size[0]} / ${images.size[1]}`;
  }

  /** Show a mode. */
  async show(mode) {
    this.mode = mode;
    this.element.dataset.mode = mode;
    const wanted = { before: ["before"], after: ["after"], mask: ["before", "mask"] }[mode] ?? ["before", "after"];
    for (const name of ["before", "after", "mask"]) {
      if (wanted.includes(name)) this.layer(name).hidden = false;
      else if (this.layers[name]) this.layers[name].hidden = true;
    }
    if (mode === "slider") this.slider().hidden = false;
    else if (this.split) this.split.hidden = true;
    await this.ready(wanted);
  }

  /** Show the images at the resolution of the policy, or in full where it is null. */
  async reduce(seen) {
    this.seen = seen;
    for (const name of ["before", "after"]) {
      this.layers[name]?.remove();
      delete this.layers[name];
    }
    if (this.mode) await this.show(this.mode);
  }

  /** Resolves with the image elements once they are loaded. */
  ready(names) {
    return Promise.all(names.map((name) => this.layers[name]?.loaded));
  }

  layer(name) {
    this.layers[name] ??= name === "mask" ? this.veil() : this.picture(name);
    return this.layers[name];
  }

  picture(name) {
    const image = new Image();
    const canvas = this.seen && document.createElement("canvas");
    const layer = canvas ?? image;
    layer.className = `layer ${name}`;
    image.alt = this.images.labels[name === "before" ? 0 : 1] ?? name;
    image.draggable = false;
    layer.loaded = new Promise((resolve) => {
      image.addEventListener("load", () => {
        if (!this.element.style.aspectRatio) this.element.style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`;
        if (canvas) reduced(canvas, image, this.seen);
        resolve(image);
      });
      image.addEventListener("error", () => {
        this.element.dataset.lost = "";
        resolve(null);
      });
    });
    image.src = this.images[name];
    // The image after lies over the one before, and the mask over both.
    const above = name === "before" ? this.layers.after ?? this.layers.mask : this.layers.mask;
    this.element.insertBefore(layer, above ?? this.split ?? null);
    return layer;
  }

  veil() {
    const [width, height] = this.images.size ?? [100, 100];
    const id = `stage-mask-${++masks}`;
    const make = (name, attributes) => {
      const node = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      return node;
    };
    const whole = { width, height };
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "layer mask", "aria-hidden": "true" });
    const mask = make("mask", { id, maskUnits: "userSpaceOnUse", x: 0, y: 0, ...whole });
    mask.append(make("image", { href: this.images.mask, preserveAspectRatio: "none", ...whole }));
    svg.append(mask, make("rect", { class: "veil", mask: `url(#${id})`, ...whole }));
    this.element.insertBefore(svg, this.split ?? null);
    return svg;
  }

  slider() {
    if (this.split) return this.split;
    this.split = document.createElement("input");
    Object.assign(this.split, { type: "range", min: 0, max: 100, step: 0.5, value: 50, className: "split" });
    this.split.setAttribute("aria-label", `${this.images.labels[0]} on the left, ${this.images.labels[1]} on the right`);
    const move = () => this.element.style.setProperty("--split", `${this.split.value}%`);
    this.split.addEventListener("input", move);
    // Arrows move the slider, and not the page.
    this.split.addEventListener("keydown", (event) => event.key.startsWith("Arrow") && event.stopPropagation());
    move();
    this.element.append(this.split);
    return this.split;
  }
}

function reduced(canvas, image, [width, height]) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
}
