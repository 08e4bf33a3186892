/** Two answers side by side, without names, until somebody says which is better. */
import { fill, h, icon } from "../dom.js";
import { t } from "../i18n.js";
import { chips, reasons } from "./rating.js";

export const OUTCOMES = ["left", "right", "tie", "both_bad"];
const OPPOSITE = { left: "right", right: "left" };

export class ComparisonView {
  /** @param {string} id @param {any} app */
  constructor(id, app) {
    this.id = id;
    this.app = app;
    this.tab = "left";
    this.chosen = new Set();
    this.strength = 0;
    this.tabs = h("div", { class: "pair-tabs", role: "tablist", "aria-label": t("chat.compare") });
    this.columns = h("div", { class: "pair-columns" });
    this.bar = h("div", { class: "votes" });
    this.node = h("section", { class: "pair", "aria-label": t("chat.compare"), dataset: { comparison: id } }, this.tabs, this.columns, this.bar);
  }

  get comparison() {
    return this.app.thread.comparisons.get(this.id);
  }

  /** Whether both answers have ended, however they did. */
  get ready() {
    const { left, right } = this.comparison;
    return !this.app.thread.jobs.has(left) && !this.app.thread.jobs.has(right);
  }

  update() {
    const { outcome, models } = this.comparison;
    const sides = ["left", "right"].map((side) => this.#side(side));
    if (this.columns.children.length !== 2) fill(this.columns, sides);
    this.node.classList.toggle("voted", Boolean(outcome));
    this.node.dataset.tab = this.tab;
    fill(this.tabs, ["left", "right"].map((side) => this.#tab(side)));
    const state = JSON.stringify([outcome, models, this.ready]);
    if (state === this.state) return;
    this.state = state;
    fill(this.bar, outcome ? this.#verdict() : this.#votes());
  }

  /** @param {string} side */
  #name(side) {
    return t(side === "left" ? "chat.answer_a" : "chat.answer_b");
  }

  /** @param {string} side */
  #side(side) {
    const { outcome, models } = this.comparison;
    const view = this.app.view.view(this.comparison[side]);
    const name = outcome && models ? `${this.#name(side)} \u00b7 ${models[side]}` : this.#name(side);
    view.update({ label: name, blind: !outcome });
    view.node.dataset.side = side;
    view.node.classList.toggle("winner", outcome === side);
    return view.node;
  }

  /** On narrow screens the answers are behind tabs. @param {string} side */
  #tab(side) {
    const show = () => {
      this.tab = side;
      this.update();
    };
    return h("button", { type: "button", role: "tab", class: "pair-tab", "aria-selected": String(this.tab === side), onclick: show }, this.#name(side));
  }

  #votes() {
    const ready = this.ready;
    const button = (outcome, at) =>
      h("button", { type: "button", class: "button vote", disabled: !ready, dataset: { vote: outcome }, onclick: () => this.vote(outcome) },
        h("kbd", { "aria-hidden": "true" }, String(at + 1)), t(`chat.vote_${outcome}`));
    const hint = h("p", { class: "hint" }, ready ? t("chat.vote_hint") : t("chat.vote_wait"));
    return [h("div", { class: "vote-buttons", role: "group", "aria-label": t("chat.which_better") }, OUTCOMES.map(button)), hint];
  }

  #verdict() {
    const { outcome, models } = this.comparison;
    const won = OPPOSITE[outcome] ? t("chat.verdict_won", { name: this.#name(outcome), model: models?.[outcome] ?? "" }) : t(`chat.verdict_${outcome}`);
    const goOn = OPPOSITE[outcome]
      ? [h("button", { type: "button", class: "button primary small", dataset: { act: "continue-winner" }, onclick: () => this.app.closePair(this.comparison[outcome]) }, t("chat.continue_winner"))]
      : ["left", "right"].map((side) => h("button", { type: "button", class: "button small", onclick: () => this.app.closePair(this.comparison[side]) }, t("chat.continue_with", { name: this.#name(side) })));
    const strength = h("div", { class: "segments", role: "group", "aria-label": t("chat.strength") },
      [1, 2].map((value) => h("button", { type: "button", class: "segment", "aria-pressed": String(this.strength === value), onclick: () => this.#refine(value) }, t(`chat.strength_${value}`))));
    const why = chips(reasons.good, this.chosen, t("chat.why"), () => this.app.vote(this.id, this.#body(outcome)));
    return [
      h("p", { class: "verdict", role: "status" }, icon("check"), won),
      OPPOSITE[outcome] ? h("div", { class: "row" }, strength, why) : null,
      h("div", { class: "row" }, goOn, h("button", { type: "button", class: "text-button", onclick: () => this.#again() }, t("chat.vote_again"))),
    ];
  }

  #body(outcome) {
    return { outcome, ...(this.strength && OPPOSITE[outcome] ? { strength: this.strength } : {}), reasons: [...this.chosen] };
  }

  async #refine(value) {
    this.strength = this.strength === value ? 0 : value;
    this.state = "";
    await this.app.vote(this.id, this.#body(this.comparison.outcome));
  }

  /** Show the four buttons again; the vote stands until another is given. */
  #again() {
    fill(this.bar, this.#votes());
    this.bar.querySelector("button")?.focus();
  }

  /** @param {string} outcome */
  async vote(outcome) {
    if (!this.ready) return;
    this.state = "";
    if (await this.app.vote(this.id, this.#body(outcome))) (this.bar.querySelector("[data-act]") ?? this.bar.querySelector(".row button"))?.focus();
  }
}
