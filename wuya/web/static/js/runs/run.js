// One run, or several side by side: live curves, samples by step, configuration, lineage.

import { api, follow } from "../api.js";
import { lineChart, short } from "../charts.js";
import { openDialog, toast } from "../dialog.js";
import { $, debounce, fill, h, icon, may, pageData, url } from "../dom.js";
import { date, duration, load, number, t } from "../i18n.js";
import { shortcuts } from "../keys.js";
import { rolloutsView } from "./rollouts.js";
import { samplesView } from "./samples.js";

await load("runs");
const root = $("#run");
const others = (new URLSearchParams(window.location.search).get("with") || "").split(",").filter(Boolean).slice(0, 5);
const ids = [pageData().id, ...others];
const HEADLINES = ["loss", "validation/loss", "objective/rlhf_reward", "objective/scores", "objective/kl", "objective/length", "objective/entropy", "accuracy"];
const saved = JSON.parse(localStorage.getItem("wuya.runs") || "{}");
const view = { smoothing: 0, log: false, x: "step", ...saved };
const data = new Map();
const charts = new Map();
let runs = [];

const remember = () => localStorage.setItem("wuya.runs", JSON.stringify(view));
const nameOf = (id) => runs.find((run) => run.id === id)?.name || id;

async function fetchSeries(id) {
  data.set(id, (await api.get(`/api/runs/${encodeURIComponent(id)}/series?max_points=1000`)).series);
}

function lines(key) {
  return ids.map((id, color) => ({ id, color })).filter(({ id }) => data.get(id)?.[key]).map(({ id, color }) => {
    const points = data.get(id)[key];
    const start = points.time[0] || 0;
    const x = view.x === "time" ? points.time.map((at) => at - start) : view.x === "tokens" ? points.tokens : points.step;
    return { name: nameOf(id), color, x, y: points.value };
  });
}

const shared = () => ({ smoothing: view.smoothing, log: view.log, xName: t(`runs.x_${view.x}`), formatX: view.x === "time" ? duration : short });

/** Targets that the config sets for a metric, as lines across its curve. @param {string} key */
function levels(key) {
  if (key !== "objective/kl") return [];
  return runs.flatMap(({ config }) => [["target_kl", "runs.target"], ["max_kl", "runs.limit"]].filter(([name]) => config[name] > 0).map(([name, text]) => ({ y: config[name], text: t(text) })));
}

/** What the recipe said was wrong, on the curve that it speaks of. @param {string} key */
function markers(key) {
  const about = [["objective/kl", /\bKL\b/], ["objective/length", /answers have (grown|shrunk)/], ["policy/clipfrac_avg", /clipped/], ["objective/identical_share", /mode collapse/], ["objective/eos_share", /end by themselves/]];
  const speaks = (text) => about.find(([, words]) => words.test(text))?.[0] ?? "objective/kl";
  const found = (runs[0]?.events ?? []).filter((event) => event.step !== null && event.step !== undefined && ["alert", "warning"].includes(event.level) && speaks(event.text) === key);
  const points = data.get(ids[0])?.[key];
  const at = (step) => {
    if (view.x === "step" || !points) return step;
    const index = Math.max(0, points.step.findIndex((known) => known >= step));
    return view.x === "time" ? points.time[index] - (points.time[0] || 0) : points.tokens[index];
  };
  return found.map((event) => ({ x: at(event.step), text: event.text, kind: event.level }));
}

const curve = (key) => ({ lines: lines(key), levels: levels(key), markers: markers(key), ...shared() });

function drawCharts() {
  for (const [key, chart] of charts) chart.update(curve(key));
}

function chartGrid() {
  const keys = [...new Set(ids.flatMap((id) => Object.keys(data.get(id) || {})))];
  const groups = new Map([["", HEADLINES.filter((key) => keys.includes(key))]]);
  for (const key of keys.filter((name) => !HEADLINES.includes(name))) {
    const group = key.includes("/") ? key.split("/")[0] : "more";
    groups.set(group, [...(groups.get(group) || []), key]);
  }
  return [...groups].filter(([, names]) => names.length).map(([group, names]) => {
    const grid = h("div", { class: "charts" }, names.map((key) => {
      const chart = lineChart({ title: key, ...curve(key) });
      charts.set(key, chart);
      return chart.node;
    }));
    return [group ? h("h2", { class: "chart-group" }, group === "more" ? t("runs.more_metrics") : group) : null, grid];
  });
}

function toolbar() {
  const slider = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: view.smoothing, "aria-label": t("runs.smoothing"), oninput: debounce(() => {
    view.smoothing = Number(slider.value);
    shown.textContent = number(view.smoothing, { minimumFractionDigits: 2 });
    remember();
    drawCharts();
  }, 30) });
  const shown = h("output", { class: "mono" }, number(view.smoothing, { minimumFractionDigits: 2 }));
  const axis = h("select", { class: "select", "aria-label": t("runs.x_axis"), onchange: () => {
    view.x = axis.value;
    remember();
    drawCharts();
  } }, ["step", "time", "tokens"].map((name) => h("option", { value: name, selected: view.x === name }, t(`runs.x_${name}`))));
  const log = h("input", { type: "checkbox", checked: view.log, onchange: () => {
    view.log = log.checked;
    remember();
    drawCharts();
  } });
  shortcuts("runs.title", [
    { keys: "l", label: "runs.log_scale", run: () => log.click() },
    { keys: "s", label: "runs.smoothing", run: () => slider.focus() },
  ]);
  return h("div", { class: "toolbar" },
    h("label", { class: "field-inline" }, t("runs.smoothing"), slider, shown),
    h("label", { class: "field-inline" }, t("runs.x_axis"), axis),
    h("label", { class: "field-inline" }, log, t("runs.log_scale")),
    h("span", { class: "spacer" }),
    h("button", { type: "button", class: "button small", onclick: addRun }, icon("plus"), t("runs.compare_with")),
    h("a", { class: "button small", href: url(`/api/runs/${encodeURIComponent(ids[0])}/metrics.csv`), download: "" }, icon("download"), "CSV"));
}

async function addRun() {
  const { items } = await api.get("/api/runs");
  const picked = await openDialog({
    title: t("runs.compare_with"),
    body: (close) => h("ul", { class: "palette" }, items.filter((run) => !ids.includes(run.id)).map((run) =>
      h("li", {}, h("button", { type: "button", class: "menu-item", onclick: () => close(run.id) }, run.name, h("small", { class: "muted" }, run.stage))))),
  });
  if (picked) window.location.search = `?with=${[...others, picked].map(encodeURIComponent).join(",")}`;
}

function head(run) {
  const badge = { running: "accent", finished: "good", failed: "bad", stopped: "warn" }[run.status] || "";
  return h("header", { class: "page-head" },
    h("h1", { class: "wrap" }, run.name),
    run.stage ? h("span", { class: "badge" }, run.stage) : null,
    h("span", { class: `badge ${badge}` }, h("span", { class: run.status === "running" ? "dot live" : "dot" }), t(`runs.status_${run.status}`)),
    h("span", { class: "muted" }, t("runs.step_of", { step: number(run.step) }), run.planned ? ` / ${number(run.planned)}` : "",
      run.eta_seconds ? ` \u00b7 ${t("runs.eta", { time: duration(run.eta_seconds) })}` : ""),
    h("span", { class: "spacer" }),
    run.has_model && may("models") ? h("button", { type: "button", class: "button", onclick: (event) => register(run, event.target) }, icon("model"), t("runs.register")) : null);
}

async function register(run, button) {
  button.disabled = true;
  try {
    const version = await api.post("/api/model-versions", { run: run.id });
    toast(t("runs.registered", { name: version.name }), { kind: "good", action: t("runs.models"), onAction: () => (window.location.href = url("/models")) });
  } catch (error) {
    toast(error.message, { kind: "bad" });
    button.disabled = false;
  }
}

function legend() {
  if (ids.length < 2) return null;
  return h("div", { class: "chart-readout legend" }, ids.map((id, color) => h("a", { class: `chart-key c${color}`, href: url(`/runs/${encodeURIComponent(id)}`) }, nameOf(id))));
}

function details() {
  const flat = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  const differs = (key) => new Set(runs.map((run) => flat(run.config[key]))).size > 1;
  const facts = (run) => [
    [t("runs.git"), run.git_sha && h("code", {}, run.git_sha)], [t("runs.started"), run.started_at && date(run.started_at * 1000, { dateStyle: "medium", timeStyle: "short" })],
    [t("runs.checkpoints"), run.checkpoints.join(", ")], ...Object.entries(run.parents).map(([role, parent]) => [role, parent.path]),
  ].filter(([, value]) => value);
  return h("div", { class: "two" },
    h("section", { class: "card" }, h("h2", {}, t("runs.facts")), runs.map((run) => [ids.length > 1 ? h("h3", {}, run.name) : null,
      h("dl", { class: "facts" }, facts(run).map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]))]),
      runs[0].events.length ? [h("h3", {}, t("runs.events")), h("ul", {}, runs[0].events.map((event) => h("li", {}, h("span", { class: "badge" }, t(`runs.level_${event.level}`)), event.step === null || event.step === undefined ? " " : ` ${t("runs.step_of", { step: number(event.step) })}: `, event.text)))] : null),
    h("section", { class: "card" }, h("h2", {}, t("runs.config")), h("div", { class: "table-wrap", tabindex: 0, style: { "max-height": "420px" } },
      h("table", { class: "table" },
        ids.length > 1 ? h("thead", {}, h("tr", {}, h("th", {}, ""), runs.map((run) => h("th", { scope: "col" }, run.name)))) : null,
        h("tbody", {}, keys.map((key) => h("tr", { class: runs.length > 1 && differs(key) ? "differs" : "" }, h("th", { scope: "row" }, h("code", {}, key)),
          runs.map((run) => h("td", { class: "wrap" }, runs.length > 1 && differs(key) ? h("b", {}, flat(run.config[key] ?? "\u2013")) : flat(run.config[key] ?? "\u2013"))))))))));
}

try {
  runs = await Promise.all(ids.map((id) => api.get(`/api/runs/${encodeURIComponent(id)}`)));
  await Promise.all(ids.map(fetchSeries));
  const place = h("div", {}, chartGrid());
  fill(root, head(runs[0]), toolbar(), legend(), place, samplesView(ids[0]), rolloutsView(ids[0]), details());
} catch (error) {
  fill(root, h("div", { class: "empty" }, icon("warning"), h("h1", {}, error.message)));
}
root.removeAttribute("aria-busy");

const redraw = debounce(() => {
  const before = charts.size;
  const keys = new Set(ids.flatMap((id) => Object.keys(data.get(id) || {})));
  if (keys.size !== before) window.location.reload();
  else drawCharts();
}, 200);

function append(id, rows) {
  const series = data.get(id);
  for (const row of rows) {
    if (id === ids[0]) for (const text of row.alarms ?? []) runs[0].events.unshift({ level: "alert", step: row.step, text });
    for (const [key, value] of Object.entries(row)) {
      if (key === "step" || key === "time" || typeof value !== "number") continue;
      const points = (series[key] ||= { step: [], value: [], time: [], tokens: [], total: 0 });
      points.step.push(row.step);
      points.value.push(value);
      points.time.push(row.time || 0);
      points.tokens.push(row.tokens ?? points.tokens.at(-1) ?? 0);
    }
  }
}

let watching = null;
function watch() {
  watching?.abort();
  watching = null;
  if (document.hidden || !runs.length) return;
  watching = new AbortController();
  follow(`/api/runs/events?ids=${ids.map(encodeURIComponent).join(",")}`, {
    signal: watching.signal,
    onEvent: ({ type, data: event }) => {
      if (type === "rows") {
        append(event.run, event.rows);
        redraw();
      }
    },
  }).catch(() => {});
}
document.addEventListener("visibilitychange", async () => {
  if (!document.hidden) {
    await Promise.all(ids.map(fetchSeries)).catch(() => {});
    drawCharts();
  }
  watch();
});
watch();
