// Curves as SVG: several lines, log scale, smoothing, values under the pointer, and the same numbers as a table.
//
//   const chart = lineChart({ title, lines: [{ name, color: 0, x: [...], y: [...] }], smoothing: 0.6, log: false });
//   parent.append(chart.node); chart.update({ lines, smoothing, log });

import { fill, h, svg } from "./dom.js";
import { compact, number, t } from "./i18n.js";

export const NUM_COLORS = 6;
const WIDTH = 400;
const HEIGHT = 200;
const MARGIN = { top: 10, right: 12, bottom: 26, left: 52 };

/** A number as short as it can be read: 0.0123, 1.5, 2.4M. */
export function short(value) {
  if (!Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size >= 10000) return compact(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return number(value, { maximumSignificantDigits: 4, useGrouping: false });
}

/** About `count` round numbers between two values. */
export function ticks(low, high, count = 4) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => span / s <= count + 0.5) || power * 10;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

/** Exponential moving average without the pull of the first value (as TensorBoard's). */
export function smooth(values, weight) {
  if (!weight) return values;
  let last = 0;
  let norm = 0;
  return values.map((value) => {
    last = last * weight + value * (1 - weight);
    norm = norm * weight + (1 - weight);
    return last / norm;
  });
}

export function lineChart(options) {
  const node = h("figure", { class: "chart" });
  const state = { lines: [], smoothing: 0, log: false, xName: "step", formatX: short, markers: [], levels: [], ...options };
  const update = (changes = {}) => {
    Object.assign(state, changes);
    draw(node, state);
  };
  update();
  return { node, update };
}

function draw(node, state) {
  const lines = state.lines.filter((line) => line.x.length);
  const title = h("figcaption", { class: "chart-title" }, h("span", { class: "wrap" }, state.title), state.hint ? h("small", { class: "muted" }, state.hint) : null);
  if (!lines.length) return void fill(node, title, h("p", { class: "chart-empty muted" }, t("common.nothing_here")));
  const drawn = lines.map((line) => ({ ...line, shown: smooth(line.y, state.smoothing) }));
  const positive = drawn.every((line) => line.shown.every((value) => value > 0));
  const log = state.log && positive;
  const xs = drawn.flatMap((line) => [line.x[0], line.x[line.x.length - 1]]);
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  if (x0 === x1) [x0, x1] = [x0 - 1, x1 + 1];
  let [y0, y1] = extent(drawn);
  const levels = state.levels.filter((level) => level.y > 0 || !log);
  for (const { y } of levels) [y0, y1] = [Math.min(y0, y), Math.max(y1, y)]; // a target that is far away is seen too
  if (log) [y0, y1] = [Math.log10(y0), Math.log10(y1)];
  const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
  [y0, y1] = [y0 - pad, y1 + pad];
  const px = (x) => MARGIN.left + ((x - x0) / (x1 - x0)) * (WIDTH - MARGIN.left - MARGIN.right);
  const py = (y) => HEIGHT - MARGIN.bottom - (((log ? Math.log10(y) : y) - y0) / (y1 - y0)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const yTicks = ticks(y0, y1).map((value) => [log ? 10 ** value : value, HEIGHT - MARGIN.bottom - ((value - y0) / (y1 - y0)) * (HEIGHT - MARGIN.top - MARGIN.bottom)]);
  const cursor = svg("g", { class: "chart-cursor", visibility: "hidden" });
  const readout = h("div", { class: "chart-readout", "aria-hidden": "true" });
  const picture = svg("svg", { class: "chart-svg", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": describe(state, drawn) },
    yTicks.map(([value, y]) => [
      svg("line", { class: "chart-grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y, y2: y }),
      svg("text", { class: "chart-tick", x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, short(value))]),
    ticks(x0, x1, 5).map((x) => svg("text", { class: "chart-tick", x: px(x), y: HEIGHT - 8, "text-anchor": "middle" }, state.formatX(x))),
    state.markers.filter((m) => m.x >= x0 && m.x <= x1).map((m) => svg("line", { class: `chart-marker ${m.kind || ""}`, x1: px(m.x), x2: px(m.x), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }, svg("title", {}, m.text))),
    levels.map((level) => [
      svg("line", { class: "chart-level", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: py(level.y), y2: py(level.y) }),
      svg("text", { class: "chart-tick", x: WIDTH - MARGIN.right, y: py(level.y) - 4, "text-anchor": "end" }, level.text)]),
    drawn.map((line) => [
      state.smoothing ? svg("path", { class: `chart-line faint c${line.color}`, d: path(line.x, line.y, px, py, log) }) : null,
      svg("path", { class: `chart-line c${line.color}`, d: path(line.x, line.shown, px, py, log) }),
      line.x.length === 1 ? svg("circle", { class: `chart-dot c${line.color}`, cx: px(line.x[0]), cy: py(line.shown[0]), r: 3 }) : null]),
    cursor,
  );
  const point = (clientX) => {
    const box = picture.getBoundingClientRect();
    const x = x0 + ((((clientX - box.left) / box.width) * WIDTH - MARGIN.left) / (WIDTH - MARGIN.left - MARGIN.right)) * (x1 - x0);
    const near = drawn.map((line) => ({ line, at: nearest(line.x, x) }));
    const anchor = near.reduce((best, item) => (Math.abs(item.line.x[item.at] - x) < Math.abs(best.line.x[best.at] - x) ? item : best));
    const shownX = anchor.line.x[anchor.at];
    fill(cursor, svg("line", { x1: px(shownX), x2: px(shownX), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
      near.map(({ line, at }) => svg("circle", { class: `chart-dot c${line.color}`, cx: px(line.x[at]), cy: py(line.shown[at]), r: 3.5 })));
    cursor.setAttribute("visibility", "visible");
    fill(readout, h("span", { class: "muted" }, `${state.xName} ${state.formatX(shownX)}`),
      near.map(({ line, at }) => h("span", { class: `chart-key c${line.color}` }, drawn.length > 1 ? `${line.name} ` : "", h("b", {}, short(line.y[at])))));
  };
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    fill(readout, drawn.map((line) => h("span", { class: `chart-key c${line.color}` }, drawn.length > 1 ? `${line.name} ` : "", h("b", {}, short(line.y[line.y.length - 1])))));
  };
  picture.addEventListener("pointermove", (event) => point(event.clientX));
  picture.addEventListener("pointerleave", leave);
  leave();
  const notes = state.markers.length ? h("ul", { class: "chart-notes" }, state.markers.slice(0, 3).map((m) => h("li", {}, h("b", {}, state.formatX(m.x)), " ", m.text))) : null;
  const table = h("details", { class: "chart-data" }, h("summary", {}, t("runs.as_table")));
  table.addEventListener("toggle", () => table.open && table.childElementCount === 1 && table.append(dataTable(state, drawn)), { once: false });
  fill(node, title, readout, picture, state.log && !positive ? h("small", { class: "muted" }, t("runs.no_log")) : null, notes, table);
}

const path = (xs, ys, px, py, log) => {
  let d = "";
  for (let i = 0; i < xs.length; i += 1) if (!log || ys[i] > 0) d += `${d ? "L" : "M"}${px(xs[i]).toFixed(1)} ${py(ys[i]).toFixed(1)}`;
  return d;
};

/** Lowest and highest value; a few wild points at the start do not flatten the rest. */
function extent(lines) {
  const all = lines.flatMap((line) => line.shown).sort((a, b) => a - b);
  const low = all[0];
  const high = all[all.length - 1];
  const cut = all[Math.min(all.length - 1, Math.floor(all.length * 0.98))];
  const median = all[Math.floor(all.length / 2)];
  return [low, all.length > 50 && high - median > 6 * (cut - median) && cut > median ? cut : high];
}

function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

const describe = (state, lines) =>
  `${state.title}. ${lines.map((line) => `${line.name}: ${short(line.y[0])} \u2192 ${short(line.y[line.y.length - 1])}`).join("; ")}`;

function dataTable(state, lines) {
  return h("div", { class: "table-wrap chart-table", tabindex: 0 }, h("table", { class: "table" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, state.xName), lines.map((line) => h("th", { scope: "col", class: "num" }, line.name)))),
    h("tbody", {}, sampled(lines[0].x).map((at) => h("tr", {}, h("td", { class: "num" }, state.formatX(lines[0].x[at])),
      lines.map((line) => h("td", { class: "num" }, line === lines[0] ? short(line.y[at]) : short(line.y[nearest(line.x, lines[0].x[at])]))))))));
}

const sampled = (xs) => {
  const stride = Math.max(1, Math.ceil(xs.length / 50));
  return xs.map((_, index) => index).filter((index) => index % stride === 0 || index === xs.length - 1);
};

/** A small line for a table's cell. */
export function sparkline(values, label) {
  if (values.length < 2) return h("span", { class: "muted" }, "\u2013");
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const d = values.map((value, i) => `${i ? "L" : "M"}${((i / (values.length - 1)) * 96 + 2).toFixed(1)} ${(22 - ((value - low) / span) * 18).toFixed(1)}`).join("");
  return svg("svg", { class: "sparkline", viewBox: "0 0 100 26", role: "img", "aria-label": label }, svg("path", { class: "chart-line c0", d }));
}
