// How far labelers agree: overall, each with the others, each two of them, question by question, and who needs a look.

import { api } from "../api.js";
import { fill, h, icon } from "../dom.js";
import { toast } from "../dialog.js";
import { duration, number, percent, t } from "../i18n.js";

const NONE = "–";
const figure = (value, digits = 2) => (value === null || value === undefined ? NONE : number(value, { maximumFractionDigits: digits, minimumFractionDigits: digits }));
const share = (value) => (value === null || value === undefined ? NONE : percent(value));
/** "74 % (70 to 78)" */
const interval = (value) => (value?.mean === null || value?.mean === undefined ? NONE : `${percent(value.mean)} (${number(100 * value.low, { maximumFractionDigits: 0 })}–${number(100 * value.high, { maximumFractionDigits: 0 })})`);

export async function agreementView(body, project) {
  const { report, standing } = await api.get(`/api/agreement?project=${project.id}`);
  const people = standing.length ? standingTable(project, standing, () => agreementView(body, project)) : null;
  if (!report) return void fill(body, h("div", { class: "empty" }, icon("users"), h("h2", {}, t("label.no_agreement")), h("p", {}, t("label.no_agreement_text"))), people);
  fill(body, tiles(report), h("div", { class: "two-columns" }, matrix(report), bands(report)), labelers(report, standing), people, questions(report), models(report));
  return undefined;
}

function tiles(report) {
  const items = [
    ["pairwise", share(report.pairwise.mean), `${interval(report.pairwise)} · n = ${number(report.pairwise.num_pairs)}`],
    ["tau", figure(report.kendall.mean), `${figure(report.kendall.low)}–${figure(report.kendall.high)}`],
    ["alpha", figure(report.alpha), t("label.alpha_hint")],
    ["ceiling", share(report.ceiling), t("label.ceiling_hint")],
  ];
  return h("dl", { class: "tiles" }, items.map(([key, value, hint]) => h("div", { class: "tile" }, h("dt", {}, t(`label.agree_${key}`)), h("dd", { class: "tile-value" }, value), h("dd", { class: "muted small" }, hint))));
}

/** Labeler by labeler: the shade is the agreement, the number says it. */
function matrix(report) {
  const names = report.matrix_labelers;
  const cell = (value, same) => {
    if (same) return h("td", { class: "self" }, "");
    if (value === null) return h("td", { class: "num muted" }, NONE);
    const step = Math.max(0, Math.min(9, Math.floor((value - 0.5) * 20)));
    return h("td", { class: `num heat h${step}` }, percent(value));
  };
  return h("section", { class: "card" }, h("h2", {}, t("label.matrix")), h("p", { class: "muted small" }, t("label.matrix_text")),
    h("div", { class: "table-scroller" }, h("table", { class: "matrix" },
      h("thead", {}, h("tr", {}, h("th", {}, ""), names.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, names.map((name, row) => h("tr", {}, h("th", { scope: "row" }, name), report.matrix[row].map((value, column) => cell(value, row === column))))))));
}

/** Ours beside the paper's. */
function bands(report) {
  const rows = [
    [t("label.here"), report.pairwise.mean, report.pairwise.low, report.pairwise.high, "ours"],
    [t("label.paper_training"), 0.726, 0.711, 0.741, ""],
    [t("label.paper_held_out"), 0.773, 0.76, 0.786, ""],
  ];
  const at = (value) => `${Math.max(0, Math.min(100, (value - 0.4) / 0.6 * 100))}%`;
  return h("section", { class: "card" }, h("h2", {}, t("label.reference")), h("p", { class: "muted small" }, t("label.reference_text")),
    h("ul", { class: "bands" }, rows.map(([name, mean, low, high, kind]) => {
      if (mean === null) return h("li", {}, h("span", {}, name), h("span", { class: "muted" }, NONE));
      return h("li", { class: kind }, h("span", { class: "band-name" }, name), h("span", { class: "band", "aria-hidden": "true" }, h("span", { class: "band-range", style: { left: at(low), right: `calc(100% - ${at(high)})` } }), h("span", { class: "band-mean", style: { left: at(mean) } })), h("span", { class: "num" }, percent(mean, 1)));
    })));
}

function labelers(report, standing) {
  const drift = Object.fromEntries(report.drifts.map((row) => [row.labeler, row]));
  const state = Object.fromEntries(standing.map((row) => [row.labeler, row]));
  return h("section", {}, h("h2", { class: "section-title" }, t("label.labelers")), h("div", { class: "table-wrap" }, h("table", { class: "table" },
    h("thead", {}, h("tr", {}, ["labeler", "count", "with_others", "skill", "ties", "time", "tests", "drift"].map((key, at) => h("th", { class: at ? "num" : "", title: t(`label.col_${key}_hint`) }, t(`label.col_${key}`))))),
    h("tbody", {}, report.labelers.map((row) => {
      const change = drift[row.labeler];
      const own = state[row.labeler];
      return h("tr", {}, h("td", {}, h("strong", {}, row.labeler), row.suspect ? h("span", { class: "badge bad", title: t("label.suspect_hint") }, t("label.suspect")) : null),
        h("td", { class: "num" }, number(row.rankings)), h("td", { class: "num" }, interval(row.with_others)), h("td", { class: "num" }, figure(row.skill)), h("td", { class: "num" }, share(row.tie_share)),
        h("td", { class: "num" }, row.seconds === null ? NONE : duration(row.seconds)), h("td", { class: "num" }, own?.gold_seen ? `${own.gold_passed}/${own.gold_seen}` : NONE),
        h("td", { class: "num" }, change && change.before !== null ? h("span", { class: change.high !== null && change.high < 0 ? "badge bad" : "muted" }, `${change.after - change.before >= 0 ? "+" : "−"}${number(Math.abs(100 * (change.after - change.before)), { maximumFractionDigits: 0 })}`) : NONE));
    })))));
}

/** Who may label, and the way back for those who may not. */
function standingTable(project, rows, refresh) {
  const set = (row, state) => api.post(`/api/admin/projects/${project.id}/labelers/${row.user}`, { state }).then(refresh).catch((error) => toast(error.message, { kind: "bad" }));
  const tone = { passed: "good", paused: "warn", failed: "bad", in_quiz: "accent" };
  return h("section", {}, h("h2", { class: "section-title" }, t("label.qualification")), h("div", { class: "table-wrap" }, h("table", { class: "table" },
    h("thead", {}, h("tr", {}, h("th", {}, t("label.col_labeler")), h("th", {}, t("label.col_state")), h("th", { class: "num" }, t("label.col_quiz")), h("th", { class: "num" }, t("label.col_tests")), h("th", {}, ""))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, h("strong", {}, row.labeler), row.topics.length ? h("span", { class: "muted small block" }, t("label.rather_not", { topics: row.topics.map((topic) => t(`label.topic_${topic}`)).join(", ") })) : null), h("td", {}, h("span", { class: `badge ${tone[row.state] ?? ""}` }, t(`label.standing_${row.state}`))), h("td", { class: "num" }, share(row.score)), h("td", { class: "num" }, row.gold_seen ? `${row.gold_passed}/${row.gold_seen}` : NONE),
      h("td", {}, h("span", { class: "row end" },
        row.state === "passed" ? h("button", { type: "button", class: "button small quiet", onclick: () => set(row, "paused") }, t("label.pause")) : h("button", { type: "button", class: "button small", onclick: () => set(row, "passed") }, t("label.let_go_on")),
        row.state === "failed" || row.state === "paused" ? h("button", { type: "button", class: "button small quiet", onclick: () => set(row, "none") }, t("label.quiz_again")) : null))))))));
}

function questions(report) {
  if (!report.questions.length) return null;
  return h("section", {}, h("h2", { class: "section-title" }, t("label.questions")), h("div", { class: "table-wrap" }, h("table", { class: "table" },
    h("thead", {}, h("tr", {}, h("th", {}, t("label.question")), ["answers", "mean", "alpha", "kappa"].map((key) => h("th", { class: "num", title: t(`label.q_col_${key}_hint`) }, t(`label.q_col_${key}`))))),
    h("tbody", {}, report.questions.map((row) => h("tr", {}, h("td", {}, t(`label.q_${row.key}`)), h("td", { class: "num" }, number(row.answers)), h("td", { class: "num" }, row.mean > 1 ? figure(row.mean, 1) : share(row.mean)), h("td", { class: "num" }, figure(row.alpha)), h("td", { class: "num" }, figure(row.kappa))))))));
}

/** Strengths of the models behind the answers; labelers never see this page. */
function models(report) {
  const rows = Object.entries(report.elo);
  if (rows.length < 2) return null;
  return h("details", { class: "card" }, h("summary", {}, t("label.models")), h("p", { class: "muted small" }, t("label.models_text")), h("dl", { class: "facts" }, rows.sort((a, b) => b[1] - a[1]).map(([name, elo]) => [h("dt", {}, name || NONE), h("dd", { class: "num" }, number(elo, { maximumFractionDigits: 0 }))])));
}
