// D3: from prompts to frozen exports; what the data looks like, and whether splits leak.

import { api } from "../api.js";
import { $, fill, h, icon, url } from "../dom.js";
import { openDialog, toast } from "../dialog.js";
import { compact, dateTime, load, number, percent, t } from "../i18n.js";
import { importDialog } from "./project.js";
import { screenPrompts } from "./screening.js";

await load("label");
const root = $("#label-app");
const STEPS = ["prompts", "approved", "tasked", "submitted", "complete", "accepted", "exported"];
const KINDS = ["rm_rankings", "rm_pairs", "sft", "prompts", "feedback", "raw"];

async function start() {
  try {
    draw(await api.get("/api/data"));
  } catch (error) {
    fill(root, h("div", { class: "page" }, h("div", { class: "empty" }, icon("warning"), h("h1", {}, t("label.cannot_load")), h("p", {}, error.message), h("button", { type: "button", class: "button", onclick: start }, t("common.retry")))));
  }
  root.removeAttribute("aria-busy");
}

function draw(data) {
  fill(root, h("div", { class: "page" },
    h("header", { class: "page-head" }, h("h1", {}, t("label.data_title")), h("span", { class: "spacer" }),
      data.waiting ? h("button", { type: "button", class: "button", onclick: async () => (await screenPrompts()) && start() }, t("label.screen_some", { count: number(data.waiting) })) : null,
      h("button", { type: "button", class: "button", onclick: async () => (await importDialog()) && start() }, icon("upload"), t("label.import_prompts")),
      h("button", { type: "button", class: "button primary", onclick: () => freeze() }, icon("archive"), t("label.freeze"))),
    funnel(data.steps),
    leak(data),
    exportsTable(data.exports),
    h("div", { class: "chart-grid" },
      bars("splits", data.splits), bars("categories", data.categories, (key) => word(`label.o_${key}`, key)), bars("languages", data.languages), bars("sources", data.sources),
      bars("sizes", data.sizes, (key) => `K = ${key}`), bars("states", data.states, (key) => t(`label.task_${key}`)), bars("personal_data", data.personal_data, (key) => t(`label.pii_${key || "unchecked"}`))),
    flags(data), throughput(data.throughput)));
}

const word = (key, other) => (t(key) === key ? other : t(key));

/** Each step as a share of the first. */
function funnel(steps) {
  const most = Math.max(1, ...Object.values(steps));
  return h("ol", { class: "funnel", "aria-label": t("label.funnel") }, STEPS.map((key, at) => {
    const before = at ? steps[STEPS[at - 1]] : 0;
    return h("li", {}, h("span", { class: "funnel-bar", "aria-hidden": "true" }, h("span", { style: { height: `${Math.max(2, 100 * Math.sqrt(steps[key] / most))}%` } })), h("strong", { class: "num" }, number(steps[key])), h("span", { class: "muted small" }, t(`label.step_${key}`)), h("span", { class: "muted small" }, at && before ? percent(steps[key] / before) : "\u00a0"));
  }));
}

const leak = (data) => data.leaks
  ? h("p", { class: "notice bad", role: "alert" }, icon("warning"), t("label.leak", { count: data.leaks }))
  : h("p", { class: "leak-ok small" }, icon("check"), t("label.no_leak"), data.ties !== null ? ` · ${t("label.tie_rate", { rate: percent(data.ties, 1) })}` : "");

function exportsTable(rows) {
  if (!rows.length) return h("p", { class: "muted" }, t("label.no_exports"));
  return h("section", {}, h("h2", { class: "section-title" }, t("label.exports")), h("div", { class: "table-wrap" }, h("table", { class: "table" },
    h("thead", {}, h("tr", {}, h("th", {}, t("label.export")), h("th", { class: "num" }, t("label.rows")), h("th", {}, "SHA-256"), h("th", {}, t("label.frozen")), h("th", {}, ""))),
    h("tbody", {}, rows.map((row) => {
      const older = rows.find((other) => other.kind === row.kind && other.version === row.version - 1);
      return h("tr", {}, h("td", {}, h("strong", {}, `${row.kind} v${row.version}`), Object.keys(row.filter).length ? h("span", { class: "muted small block" }, Object.entries(row.filter).map(([key, value]) => `${key}: ${[].concat(value).join(", ")}`).join(" · ")) : null),
        h("td", { class: "num" }, number(row.n_rows)), h("td", { class: "mono", title: row.sha256 }, row.sha256.slice(0, 8)), h("td", {}, dateTime(row.frozen_at)),
        h("td", {}, h("span", { class: "row end" },
          older ? h("button", { type: "button", class: "button small quiet", onclick: () => diff(row, older) }, t("label.diff", { version: older.version })) : null,
          h("a", { class: "button small quiet", href: url(`/api/exports/${row.id}/download?part=manifest`), download: "" }, t("label.manifest")),
          h("a", { class: "button small", href: url(`/api/exports/${row.id}/download`), download: "", "aria-label": `${t("common.download")} ${row.kind} v${row.version}` }, icon("download"), t("common.download")))));
    })))));
}

async function diff(row, older) {
  try {
    const found = await api.get(`/api/exports/${row.id}/diff?other=${older.id}`);
    await openDialog({ title: t("label.diff_title", { kind: row.kind, new: row.version, old: older.version }), body: () => h("dl", { class: "facts" }, ["added", "removed", "kept"].map((key) => [h("dt", {}, t(`label.diff_${key}`)), h("dd", { class: "num" }, number(found[key]))])) });
  } catch (error) {
    toast(error.message, { kind: "bad" });
  }
}

/** Freeze what there is now. */
async function freeze() {
  const projects = (await api.get("/api/admin/projects")).items;
  const kind = h("select", { class: "select", autofocus: true }, KINDS.map((one) => h("option", { value: one }, t(`label.kind_${one}`))));
  const project = h("select", { class: "select" }, h("option", { value: "" }, t("label.every_project")), projects.map((one) => h("option", { value: one.name }, one.name)));
  const made = await openDialog({
    title: t("label.freeze"),
    body: () => [h("p", { class: "muted" }, t("label.freeze_text")), h("label", { class: "field" }, h("span", { class: "field-label" }, t("label.kind")), kind), h("label", { class: "field" }, h("span", { class: "field-label" }, t("label.project")), project)],
    actions: (close) => [h("button", { type: "button", class: "button", onclick: () => close() }, t("common.cancel")), h("button", { type: "button", class: "button primary", onclick: () => api.post("/api/exports", { kind: kind.value, project: project.value }).then(close).catch((error) => toast(error.message, { kind: "bad" })) }, t("label.freeze"))],
  });
  if (!made) return;
  toast(t("label.frozen_as", { kind: made.kind, version: made.version, rows: number(made.n_rows) }), { kind: "good" });
  start();
}

/** Horizontal bars; the numbers are the table. */
function bars(name, counts, label = (key) => key) {
  const rows = Object.entries(counts).filter(([key]) => key !== "" || Object.keys(counts).length > 1).slice(0, 10);
  if (!rows.length) return null;
  const most = Math.max(...rows.map(([, count]) => count));
  return h("section", { class: "card chart" }, h("h2", {}, t(`label.chart_${name}`)), h("dl", { class: "bars" }, rows.map(([key, count]) => [h("dt", {}, key === "" && name !== "personal_data" ? t("common.none") : label(key)), h("dd", {}, h("span", { class: "bar", "aria-hidden": "true" }, h("span", { style: { width: `${(100 * count) / most}%` } })), h("span", { class: "num" }, compact(count)))])));
}

function flags(data) {
  if (!data.flags.length) return null;
  return h("section", {}, h("h2", { class: "section-title" }, t("label.flag_rates")), h("div", { class: "table-wrap" }, h("table", { class: "table" },
    h("thead", {}, h("tr", {}, h("th", {}, t("label.question")), h("th", { class: "num" }, t("label.shown")), h("th", { class: "num" }, t("label.answered")), h("th", { class: "num" }, t("common.yes")))),
    h("tbody", {}, data.flags.map((row) => h("tr", {}, h("td", {}, word(`label.q_${row.key}`, row.key)), h("td", { class: "num" }, number(row.shown)), h("td", { class: "num" }, number(row.answered)), h("td", { class: "num" }, row.yes === null ? "–" : percent(row.yes, 1))))))));
}

/** Two weeks of submissions by labeler, a small column a day. */
function throughput(rows) {
  if (!rows.length) return null;
  const most = Math.max(1, ...rows.flatMap((row) => row.days));
  return h("section", {}, h("h2", { class: "section-title" }, t("label.throughput")), h("div", { class: "table-wrap" }, h("table", { class: "table" },
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.labeler), h("td", {}, h("span", { class: "days", role: "img", "aria-label": row.days.join(", ") }, row.days.map((count) => h("span", { class: count ? "day" : "day none", style: { height: `${Math.max(6, (100 * count) / most)}%` } })))), h("td", { class: "num" }, number(row.days.reduce((a, b) => a + b, 0)))))))));
}

start();
