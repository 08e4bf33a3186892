// L4, metadata: questions about a prompt, and about an answer where there is one.

import { announce, fill, h } from "../dom.js";
import { t } from "../i18n.js";
import { toast } from "../dialog.js";
import { shortcuts } from "../keys.js";
import { answerCard } from "./answer.js";
import { afterSubmit, commonKeys, guidePanel, promptPanel, reviewNote, taskBar } from "./frame.js";
import { questionRow, questionText } from "./questions.js";
import { RankModel } from "./rankmodel.js";
import { TaskSession } from "./session.js";

export function show(root, task) {
  const model = new RankModel(task.candidates.map((candidate) => candidate.id));
  model.load(task.draft);
  const session = new TaskSession(task, model);
  const { answers = [], prompt = [] } = task.project.schema ?? {};
  const rows = prompt.map((question) => questionRow(question, { about: "", model, subject: t("label.prompt"), required: task.project.require.includes(question.key) }));
  const cards = task.candidates.map((candidate, index) => answerCard(candidate, { index, model, questions: answers, required: task.project.require, onFocus: () => {}, onRank: () => {}, ranked: false }));
  cards.forEach((card) => card.toggleFlags(true));
  const submitButton = h("button", { type: "button", class: "button primary submit ready", onclick: submit }, t("label.submit"), h("kbd", { class: "wide-only" }, "Ctrl ↵"));
  const { bar, toggleGuide } = taskBar(task, session);
  let pointed = 0;

  fill(root, bar,
    h("div", { class: "task-grid describe" },
      h("div", { class: "task-main" }, reviewNote(task), promptPanel(task), cards.map((card) => card.node)),
      h("section", { class: "card describe-side" }, h("h2", {}, t("label.about_prompt")), rows.map((row) => row.node), h("div", { class: "row" }, h("span", { class: "spacer" }), submitButton))),
    guidePanel(task, toggleGuide));
  const update = () => {
    rows.forEach((row, at) => (row.update(), row.node.classList.toggle("pointed", at === pointed)));
    cards.forEach((card) => card.update(false));
  };
  model.listen(update);
  update();

  const asked = () => prompt[pointed];
  const say = (value) => {
    model.setLabel("", asked().key, value);
    pointed = Math.min(prompt.length - 1, pointed + 1);
    update();
    announce(questionText(asked()));
  };
  const move = (by) => {
    pointed = Math.min(prompt.length - 1, Math.max(0, pointed + by));
    update();
    announce(questionText(asked()));
    rows[pointed].node.scrollIntoView({ block: "nearest" });
  };
  const isFlag = () => asked()?.kind === "bool";
  shortcuts("label.keys_describe", [
    { keys: ["j", "ArrowDown"], label: "label.key_next_question", run: () => move(1), when: () => prompt.length > 0 },
    { keys: ["k", "ArrowUp"], label: "label.key_previous_question", run: () => move(-1), when: () => prompt.length > 0 },
    { keys: "y", label: "label.key_yes_no", run: () => say(true), when: isFlag },
    { keys: "n", label: "", run: () => say(false), when: isFlag },
    { keys: "x", label: "", run: () => say(null), when: () => prompt.length > 0 },
    { keys: Array.from({ length: 9 }, (_, at) => String(at + 1)), label: "label.key_choice", when: () => asked() && !isFlag(), run: (event) => { const values = asked().kind === "choice" ? asked().options : [1, 2, 3, 4, 5, 6, 7]; const value = values[Number(event.key) - 1]; return value === undefined ? false : say(value); } },
    { keys: "0", label: "", when: () => asked()?.kind === "choice", run: () => (asked().options[9] ? say(asked().options[9]) : false) },
  ]);
  commonKeys(task, session, model, { submit, toggleGuide });

  async function submit() {
    const open = prompt.find((question) => task.project.require.includes(question.key) && model.label("", question.key) === null);
    if (open) return toast(t("label.answer_required", { question: questionText(open), answer: t("label.prompt") }), { kind: "warn" });
    submitButton.disabled = true;
    const result = await session.submit({});
    submitButton.disabled = false;
    return result ? afterSubmit(task, result) : undefined;
  }
}
