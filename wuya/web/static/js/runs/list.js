// All runs: what they are, how far, how well; tick up to six to see them side by side.

import { api } from "../api.js";
import { short, sparkline } from "../charts.js";
import { toast } from "../dialog.js";
import { $, fill, h, icon, url } from "../dom.js";
import { load, number, relative, t } from "../i18n.js";
import { shortcuts } from "../keys.js";

await load("runs");
const root = $("#runs");
const chosen = new Set();
const filter = h("input", { class: "input", type: "search", placeholder: t("runs.filter"), "aria-label": t("runs.filter"), maxlength: 100, oninput: () => draw() });
const compare = h("button", { type: "button", class: "button primary", disabled: true, onclick: openChosen }, icon("compare"), h("span", {}, t("runs.compare")));
const toolbar = h("div", { class: "toolbar", hidden: true }, h("div", { style: { flex: "1 1 200px" } }, filter), compare);
const place = h("div", {});
let runs = [];

export function status(run) {
  const kinds = { running: "accent", finished: "good", failed: "bad", stopped: "warn", new: "" };
  return h("span", { class: `badge ${kinds[run.status] || ""}` }, h("span", { class: run.status === "running" ? "dot live" : "dot" }), t(`runs.status_${run.status}`));
}

function openChosen() {
  const [first, ...others] = [...chosen];
  window.location.href = url(`/runs/${encodeURIComponent(first)}${others.length ? `?with=${others.map(encodeURIComponent).join(",")}` : ""}`);
}

function choose(id, on) {
  if (on && chosen.size >= 6) {
    toast(t("runs.at_most_six"));
    draw();
    return;
  }
  chosen[on ? "add" : "delete"](id);
  compare.disabled = chosen.size < 2;
}

const value = (run, ...keys) => keys.map((key) => run.latest[key]).find((found) => found !== undefined);
const cell = (label, content, extra = "") => h("td", { "data-label": label, class: content === undefined ? `${extra} empty-cell` : extra }, content ?? "\u2013");
const figure = (label, found) => cell(label, found === undefined ? undefined : short(found), "num");

function row(run) {
  const loss = value(run, "loss", "validation/loss");
  return h("tr", {},
    h("td", { class: "full" }, h("div", { class: "row" },
      h("input", { type: "checkbox", checked: chosen.has(run.id), "aria-label": t("runs.choose", { name: run.name }), onchange: (event) => choose(run.id, event.target.checked) }),
      h("a", { class: "run-name wrap", href: url(`/runs/${encodeURIComponent(run.id)}`) }, run.name),
      run.remote ? h("span", { class: "badge" }, t("runs.remote")) : null)),
    cell(t("runs.stage"), run.stage ? h("span", { class: "badge" }, run.stage) : undefined),
    cell(t("runs.status"), status(run)),
    cell(t("runs.step"), run.planned ? `${number(run.step)} / ${number(run.planned)}` : number(run.step), "num"),
    figure(t("runs.loss"), loss),
    figure(t("runs.reward"), value(run, "objective/scores", "objective/rlhf_reward")),
    figure(t("runs.kl"), value(run, "objective/kl")),
    figure(t("runs.accuracy"), value(run, "accuracy")),
    cell(run.spark?.key || "", run.spark ? h("span", { title: run.spark.key }, sparkline(run.spark.values, run.spark.key)) : undefined),
    cell(t("runs.changed"), run.updated_at ? h("span", { class: "muted" }, relative(run.updated_at * 1000)) : undefined));
}

function draw() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = runs.filter((run) => words.every((word) => `${run.name} ${run.stage} ${run.status}`.toLowerCase().includes(word)));
  toolbar.hidden = !runs.length; // with nothing to look through there is nothing to filter or compare
  const heads = ["name", "stage", "status", "step", "loss", "reward", "kl", "accuracy", "curve", "changed"];
  fill(place, shown.length ? h("div", { class: "table-wrap" }, h("table", { class: "table stacked" },
    h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col", class: ["step", "loss", "reward", "kl", "accuracy"].includes(name) ? "num" : "" }, t(`runs.${name}`))))),
    h("tbody", {}, shown.map(row)))) : h("div", { class: "empty" }, icon("runs"), h("h2", {}, t(runs.length ? "runs.none_match" : "runs.none")), h("p", {}, t("runs.none_hint"))));
}

async function refresh() {
  if (document.hidden) return;
  try {
    runs = (await api.get("/api/runs")).items;
    draw();
  } catch (error) {
    if (!runs.length) fill(place, h("div", { class: "notice bad" }, icon("warning"), error.message));
  }
}

fill(root, toolbar, place);
shortcuts("runs.title", [{ keys: "/", label: "runs.filter", run: () => filter.focus() }]);
await refresh();
root.removeAttribute("aria-busy");
setInterval(refresh, 10000);
document.addEventListener("visibilitychange", refresh);
