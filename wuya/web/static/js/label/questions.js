// Questions about an answer or a prompt: a scale, yes / no / not answered, one of several. Pressing the chosen answer
// again takes it back: "not answered" is a state of its own and is stored as NULL.

import { h } from "../dom.js";
import { t } from "../i18n.js";

/** The question's own words, else its text in the schema, else its key. */
export function questionText(question, suffix = "") {
  const key = `label.q_${question.key}${suffix}`;
  const text = t(key);
  if (text !== key) return text;
  return suffix ? question[suffix.slice(1)] ?? "" : question.text ?? question.key.replaceAll("_", " ");
}

const optionText = (question, value) => {
  const key = `label.o_${value}`;
  const text = t(key);
  return text === key ? String(value) : text;
};

/** Buttons of which one or none is pressed. `values` are [value, label, hint]. */
function choices({ name, values, get, set, className = "" }) {
  const buttons = values.map(([value, label, hint]) =>
    h("button", { type: "button", class: "choice", role: "radio", title: hint || null, dataset: { value: String(value) }, onclick: () => set(get() === value ? null : value) }, label));
  const box = h("div", { class: `choices ${className}`.trim(), role: "radiogroup", "aria-label": name }, buttons);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = buttons.indexOf(document.activeElement);
    buttons[(at + step + buttons.length) % buttons.length].focus();
  });
  const update = () => {
    const chosen = get();
    buttons.forEach((button, index) => {
      const on = values[index][0] === chosen;
      button.setAttribute("aria-checked", String(on));
      button.tabIndex = on || (chosen === null && index === 0) ? 0 : -1;
    });
    box.classList.toggle("answered", chosen !== null);
  };
  update();
  return { box, update };
}

/** A row with the question and its answers. @returns {{node: HTMLElement, update: () => void, key: string}} */
export function questionRow(question, { about, model, subject = "", required = false }) {
  const get = () => model.label(about, question.key);
  const set = (value) => model.setLabel(about, question.key, value);
  const name = questionText(question);
  let values;
  if (question.kind === "scale") {
    const [low, high] = [question.min ?? 1, question.max ?? 7];
    values = Array.from({ length: high - low + 1 }, (_, index) => [low + index, String(low + index), ""]);
  } else if (question.kind === "choice") values = question.options.map((option) => [option, optionText(question, option), ""]);
  else values = [[true, t("common.yes"), ""], [false, t("common.no"), ""], ...(question.na ? [["na", t("label.not_applicable"), t("label.not_applicable_hint")]] : [])];
  const { box, update } = choices({ name: subject ? `${subject}: ${name}` : name, values, get, set, className: `kind-${question.kind}` });
  const hint = questionText(question, "_hint");
  const node = h("div", { class: `question q-${question.kind}`, dataset: { key: question.key } },
    h("span", { class: "question-text", title: hint || null }, name, required ? h("span", { class: "required", title: t("label.required") }, "*") : null),
    question.kind === "scale" ? h("span", { class: "scale-ends", "aria-hidden": "true" }, t("label.scale_low")) : null,
    box,
    question.kind === "scale" ? h("span", { class: "scale-ends", "aria-hidden": "true" }, t("label.scale_high")) : null);
  return { node, update, key: question.key };
}

/** How many of the questions have an answer. */
export const answered = (questions, about, model) => questions.filter((question) => model.label(about, question.key) !== null).length;
