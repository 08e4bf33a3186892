// Dumped rollouts: each token of an answer coloured by what PPO made of it.

import { api } from "../api.js";
import { short } from "../charts.js";
import { fill, h } from "../dom.js";
import { number, t } from "../i18n.js";

const FIGURES = ["kl", "advantage", "reward", "value", "logprob"];

/** An answer whose tokens are coloured by one figure; the strongest token of the page has the strongest colour. */
function answer(episode, figure, strongest) {
  const token = (item) => {
    const value = item[figure] ?? 0;
    const strength = `${Math.round((70 * Math.abs(value)) / strongest)}%`;
    const title = FIGURES.filter((name) => item[name] !== undefined).map((name) => `${name} ${short(item[name])}`).join("\n");
    return h("span", { class: `heat-token ${value > 0 ? "up" : "down"}`, style: { "--strength": strength }, title }, item.text);
  };
  const facts = [["score", episode.score], ["kl", episode.kl]].map(([name, value]) => h("span", { class: "badge" }, `${name} ${short(value)}`));
  return h("article", { class: "sample", "aria-label": t("runs.answer") },
    h("p", { class: "heat" }, episode.tokens.map(token)),
    h("div", { class: "sample-facts" }, facts, episode.prompt_id ? h("span", { class: "muted small wrap" }, episode.prompt_id) : null));
}

/** @param {string} id of the run */
export function rolloutsView(id) {
  const place = h("div", { class: "samples" });
  const state = { update: null, figure: "kl", sort: "-kl", turn: null };
  const choose = (name, values, label, text = (value) => value) => h("select", { class: "select", "aria-label": label, onchange: (event) => ((state[name] = event.target.value), draw()) }, values.map((value) => h("option", { value, selected: value === state[name] }, text(value))));
  const steps = h("select", { class: "select", "aria-label": t("runs.update"), onchange: () => ((state.update = steps.value), draw()) });
  const section = h("section", { style: { margin: "32px 0" }, hidden: true }, h("h2", { style: { "margin-bottom": "12px" } }, t("runs.rollouts")),
    h("p", { class: "muted small" }, t("runs.rollouts_hint")),
    h("div", { class: "toolbar" }, h("label", { class: "field-inline" }, t("runs.update"), steps),
      h("label", { class: "field-inline" }, t("runs.coloured_by"), choose("figure", FIGURES, t("runs.coloured_by"))),
      h("span", { class: "spacer" }), choose("sort", ["-kl", "kl", "-score", "score", "order"], t("runs.sort"), (name) => t(`runs.sort_${name.replace("-", "high_")}`))), place);

  async function draw() {
    const turn = (state.turn = Symbol("request"));
    const query = new URLSearchParams({ sort: state.sort, ...(state.update === null ? {} : { update: state.update }) });
    const page = await api.get(`/api/runs/${encodeURIComponent(id)}/rollouts?${query}`);
    if (turn !== state.turn) return; // another update was chosen meanwhile
    section.hidden = !page.updates.length;
    fill(steps, page.updates.map((update) => h("option", { value: update, selected: update === page.update }, number(update))));
    const strongest = Math.max(1e-9, ...page.items.flatMap((episode) => episode.tokens.map((item) => Math.abs(item[state.figure] ?? 0))));
    fill(place, page.items.map((episode) => answer(episode, state.figure, strongest)));
  }

  draw().catch(() => {});
  return section;
}
