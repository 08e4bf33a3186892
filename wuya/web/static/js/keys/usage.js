// What was used: totals, a bar a day, and the rows themselves.

import { h, svg } from "../dom.js";
import { compact, date, number, t } from "../i18n.js";

const RANGES = [7, 30, 90];
const WIDTH = 900, HEIGHT = 180, PAD = 16;

export function usageView(found, { days, withOwner, everyone, choose }) {
  const total = (name) => found.items.reduce((sum, row) => sum + row[name], 0);
  return [
    h("div", { class: "usage-head" },
      h("div", { class: "segmented", role: "group", "aria-label": t("keys.range") }, RANGES.map((range) =>
        h("button", { type: "button", "aria-pressed": String(range === days), onclick: () => choose(range) }, t("keys.days", { count: range })))),
      h("span", { class: "spacer" }), everyone),
    h("dl", { class: "totals" }, ["requests", "prompt_tokens", "completion_tokens"].map((name) =>
      h("div", {}, h("dt", {}, t(`keys.${name}`)), h("dd", { title: number(total(name)) }, compact(total(name)))))),
    found.items.length ? [chart(found, days), legend(), table(found.items, withOwner)] : h("div", { class: "empty" }, h("p", {}, t("keys.no_usage"))),
  ].flat();
}

const legend = () => h("div", { class: "legend", "aria-hidden": "true" },
  h("span", { class: "completion" }, t("keys.completion_tokens")), h("span", { class: "prompt" }, t("keys.prompt_tokens")));

function chart(found, days) {
  const start = new Date(`${found.since}T00:00:00Z`).getTime();
  const bars = Array.from({ length: days }, (_, index) => {
    const day = new Date(start + index * 86400000).toISOString().slice(0, 10);
    const rows = found.items.filter((row) => row.day === day);
    return { day, prompt: sum(rows, "prompt_tokens"), completion: sum(rows, "completion_tokens") };
  });
  const most = Math.max(1, ...bars.map((bar) => bar.prompt + bar.completion));
  const step = (WIDTH - 2 * PAD) / days;
  const scale = (HEIGHT - 2 * PAD) / most;
  return svg("svg", { class: "usage-chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": t("keys.chart") },
    bars.flatMap((bar, index) => {
      const x = PAD + index * step + step * 0.1;
      const base = HEIGHT - PAD;
      const box = (kind, count, y) => count
        ? svg("rect", { class: kind, x, y, width: step * 0.8, height: Math.max(1, count * scale) }, svg("title", {}, `${shownDay(bar.day)}: ${number(count)} ${t(`keys.${kind}_tokens`)}`))
        : null;
      return [box("completion", bar.completion, base - bar.completion * scale), box("prompt", bar.prompt, base - (bar.completion + bar.prompt) * scale)];
    }));
}

function table(rows, withOwner) {
  const heads = ["day", ...(withOwner ? ["owner"] : []), "key_name", "model"];
  const sums = ["requests", "prompt_tokens", "completion_tokens"];
  return h("div", { class: "table-wrap", tabindex: 0, role: "region", "aria-label": t("keys.tab_usage") },
    h("table", { class: "table" },
      h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col" }, t(`keys.col_${name}`))), sums.map((name) => h("th", { scope: "col", class: "num" }, t(`keys.${name}`))))),
      h("tbody", {}, rows.map((row) => h("tr", {},
        h("td", {}, shownDay(row.day)), withOwner ? h("td", {}, row.owner) : null,
        h("td", {}, row.key_id ? row.key_name || row.key_id : t("keys.without_key")), h("td", {}, row.model || t("keys.undecided")),
        sums.map((name) => h("td", { class: "num" }, number(row[name]))))))));
}

const sum = (rows, name) => rows.reduce((total, row) => total + row[name], 0);
const shownDay = (day) => date(`${day}T00:00:00Z`, { dateStyle: "medium", timeZone: "UTC" });
