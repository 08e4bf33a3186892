// One answer on the ranking screen: its text in full, its rank, its grade, its flags.

import { h, icon, iconButton } from "../dom.js";
import { t } from "../i18n.js";
import { drawBlocks } from "../markdown.js";
import { letter } from "./rankmodel.js";
import { answered, questionRow } from "./questions.js";

/**
 * @param {any} candidate {id, nodes, finished}
 * @param {{index: number, model: any, questions: any[], required: string[], onFocus: (id: string) => void, onRank: (id: string, rank: number) => void}} options
 */
export function answerCard(candidate, { index, model, questions, required, onFocus, onRank, ranked = true }) {
  const name = letter(index);
  const text = h("div", { class: "answer-text md" });
  drawBlocks(text, candidate.nodes);
  if (!candidate.finished) text.append(h("p", { class: "cut" }, icon("warning"), t("label.cut_off")));

  const ranks = model.ids.map((_, at) =>
    h("button", { type: "button", class: "rank-key", "aria-label": t("label.rank_answer", { answer: name, rank: at + 1 }), onclick: () => onRank(candidate.id, at + 1) }, String(at + 1)));
  const rankBar = ranked ? h("div", { class: "rank-keys", role: "group", "aria-label": t("label.rank_of", { answer: name }) }, ranks) : null;

  const grades = questions.filter((question) => question.kind !== "bool");
  const flags = questions.filter((question) => question.kind === "bool");
  const rows = questions.map((question) => questionRow(question, { about: candidate.id, model, subject: t("label.answer", { answer: name }), required: required.includes(question.key) }));
  const rowOf = (question) => rows.find((row) => row.key === question.key).node;
  const count = h("span", { class: "flag-count" });
  const flagBox = h("div", { class: "flags", hidden: true, id: `flags-${index}` }, flags.map(rowOf));
  const flagButton = h("button", { type: "button", class: "flag-toggle", "aria-expanded": "false", "aria-controls": `flags-${index}`, onclick: () => toggleFlags() }, icon("flag"), t("label.flags"), count, icon("down", "chevron"));

  const collapse = iconButton("expand", t("label.collapse"), { class: "icon-button small", "aria-pressed": "false", onclick: () => toggleCollapsed() });
  const node = h("article", { class: "answer", id: `answer-${name}`, tabindex: "-1", dataset: { id: candidate.id } },
    h("header", { class: "answer-head" }, h("span", { class: "letter", "aria-hidden": "true" }, name), rankBar, h("span", { class: "spacer" }), collapse),
    text,
    questions.length ? h("footer", { class: "answer-foot" }, grades.map(rowOf), flags.length ? flagButton : null, flagBox) : null);
  node.addEventListener("focusin", () => onFocus(candidate.id));
  node.addEventListener("click", (event) => {
    if (!event.target.closest("button, a, input, textarea, summary") && !String(getSelection())) onFocus(candidate.id);
  });

  function toggleFlags(open = flagBox.hidden) {
    flagBox.hidden = !open;
    flagButton.setAttribute("aria-expanded", String(open));
  }
  function toggleCollapsed() {
    const on = node.classList.toggle("collapsed");
    collapse.setAttribute("aria-pressed", String(on));
    collapse.setAttribute("aria-label", t(on ? "label.expand" : "label.collapse"));
  }

  function update(current) {
    const row = model.row(candidate.id);
    const rank = model.dense()[candidate.id];
    const tied = model.in(row).filter((id) => id !== candidate.id).map((id) => letter(model.ids.indexOf(id)));
    ranks.forEach((button, at) => button.setAttribute("aria-pressed", String(at + 1 === row)));
    node.classList.toggle("current", current);
    node.classList.toggle("placed", Boolean(row));
    node.setAttribute("aria-current", String(current));
    node.setAttribute("aria-label", row && tied.length ? t("label.card_tied", { answer: name, rank, others: tied.join(", ") }) : row ? t("label.card_ranked", { answer: name, rank }) : t("label.card", { answer: name }));
    for (const question of rows) question.update();
    const done = answered(flags, candidate.id, model);
    const yes = flags.filter((question) => model.label(candidate.id, question.key) === true).length;
    count.textContent = done ? t("label.flags_answered", { done, all: flags.length }) : "";
    flagButton.classList.toggle("raised", yes > 0);
  }

  /** Mark one flag as the one that y, n and x answer. */
  function pointAtFlag(at) {
    flagBox.querySelectorAll(".question").forEach((row, number) => row.classList.toggle("pointed", number === at));
    flagBox.querySelectorAll(".question")[at]?.scrollIntoView({ block: "nearest" });
  }

  return { node, update, toggleFlags, toggleCollapsed, pointAtFlag, flags, name, id: candidate.id };
}
