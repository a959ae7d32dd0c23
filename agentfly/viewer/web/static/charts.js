// The values under the pointer in charts: a line across all of them, read off the drawn places.

const LEFT = 40;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;
const SVG = "http://www.w3.org/2000/svg";

const text = (value, unit) => {
  const shown = unit === "%" ? value * 100 : value;
  const size = Math.abs(shown);
  const digits = shown === 0 || (size >= 0.01 && size < 10000) ? (size < 100 ? String(Number(shown.toPrecision(3))) : shown.toFixed(0)) : shown.toExponential(1);
  return unit ? `${digits} ${unit}` : digits;
};

const pointsOf = (line) => line.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number));

function nearest(points, x) {
  return points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function clear(figure) {
  figure.querySelector(".cross")?.remove();
  for (const value of figure.querySelectorAll("b[data-last]")) value.textContent = value.dataset.last;
  const at = figure.querySelector("[data-at]");
  if (at) at.textContent = "";
}

function show(svg, clientX) {
  const figure = svg.closest(".chart");
  const box = svg.getBoundingClientRect();
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const wanted = ((clientX - box.left) / box.width) * width;
  const lines = [...svg.querySelectorAll("[data-line]")].map(pointsOf);
  const x = nearest(lines.flat(), Math.min(Math.max(wanted, LEFT), width - RIGHT))[0];
  const [xLow, xHigh] = svg.dataset.x.split(" ").map(Number);
  const [yLow, yHigh] = svg.dataset.y.split(" ").map(Number);
  clear(figure);
  const cross = element("g", { class: "cross" });
  cross.append(element("line", { x1: x, x2: x, y1: TOP, y2: height - BOTTOM }));
  const values = figure.querySelectorAll("b[data-last]");
  lines.forEach((points, number) => {
    const found = nearest(points, x);
    // A line that has no point near here, such as a validation now and then, says nothing about this step. Of long
    // lines some points were left out, at other places in each.
    const here = Math.abs(found[0] - x) < (points.length > 100 ? 4.5 : 0.6);
    const value = yLow + ((height - BOTTOM - found[1]) / (height - TOP - BOTTOM)) * (yHigh - yLow);
    if (values[number]) values[number].textContent = here ? text(value, svg.dataset.unit) : "–";
    if (here) cross.append(element("circle", { cx: found[0], cy: found[1], r: 3, class: `c${number % 6}` }));
  });
  svg.append(cross);
  const step = xLow + ((x - LEFT) / (width - LEFT - RIGHT)) * (xHigh - xLow);
  const whole = Math.round(step);
  figure.querySelector("[data-at]").textContent = `${svg.dataset.xLabel} ${xHigh - xLow > 500 || Math.abs(step - whole) < 0.2 ? whole : step.toFixed(1)}`;
}

let shown = null;
const chartOf = (target) => (target instanceof Element ? target.closest(".chart svg") : null);

function follow(event) {
  const svg = chartOf(event.target);
  if (shown && shown !== svg) clear(shown.closest(".chart"));
  shown = svg;
  if (svg) show(svg, event.clientX);
}

document.addEventListener("pointermove", follow, { passive: true });
document.addEventListener("pointerdown", follow, { passive: true });
document.addEventListener("exchanged", () => {
  shown = null;
});
