// L2: write the answer one would like the model to give.

import { api } from "../api.js";
import { announce, debounce, fill, h, icon } from "../dom.js";
import { number, t } from "../i18n.js";
import { drawBlocks } from "../markdown.js";
import { toast } from "../dialog.js";
import { afterSubmit, commonKeys, guidePanel, promptPanel, reviewNote, taskBar } from "./frame.js";
import { questionRow, questionText } from "./questions.js";
import { RankModel } from "./rankmodel.js";
import { TaskSession } from "./session.js";

const PERSONAL = { email: /[\w.+-]+@[\w-]+(\.[\w-]+)+/, phone: /(?<![\d.])(\+\d{1,3}[ -]?)?(\d{3,4}[ -]?){2}\d{3,4}(?!\d|\.\d)/ };

export function show(root, task) {
  const model = new RankModel([]);
  model.load(task.draft);
  const session = new TaskSession(task, model);
  const { prompt = [] } = task.project.schema ?? {};
  const [low, high] = task.project.settings.target_tokens ?? [20, 200];
  const question = task.messages.map((message) => message.content).join("\n");

  const editor = h("textarea", { class: "textarea write-editor", spellcheck: "true", placeholder: t("label.write_placeholder"), "aria-label": t("label.your_answer"), value: model.state.completion, oninput: () => model.setText("completion", editor.value) });
  const preview = h("div", { class: "write-preview md", hidden: true, tabindex: "0" });
  const tabs = ["write", "preview"].map((name) => h("button", { type: "button", "aria-selected": String(name === "write"), role: "tab", onclick: () => choose(name) }, t(`label.${name}`)));
  const mono = h("button", { type: "button", class: "button small quiet", "aria-pressed": "false", onclick: () => mono.setAttribute("aria-pressed", String(editor.classList.toggle("mono"))) }, t("label.monospace"));
  const count = h("span", { class: "write-count num" });
  const checks = h("ul", { class: "checks", "aria-label": t("label.checks") });
  const rows = prompt.map((one) => questionRow(one, { about: "", model, subject: t("label.prompt"), required: task.project.require.includes(one.key) }));
  const submitButton = h("button", { type: "button", class: "button primary submit", onclick: submit }, t("label.submit"), h("kbd", { class: "wide-only" }, "Ctrl ↵"));
  const { bar, toggleGuide } = taskBar(task, session);

  fill(root, bar,
    h("div", { class: "task-grid write" },
      h("div", { class: "task-main" }, reviewNote(task), promptPanel(task), rows.length ? h("section", { class: "card about-prompt" }, h("h2", {}, t("label.about_prompt")), rows.map((row) => row.node)) : null),
      h("section", { class: "write-side", "aria-label": t("label.your_answer") },
        h("div", { class: "write-head" }, h("div", { class: "tabs", role: "tablist" }, tabs), h("span", { class: "spacer" }), mono),
        editor, preview,
        h("footer", { class: "write-foot" }, h("div", { class: "row" }, count, checks), h("div", { class: "row" }, h("span", { class: "spacer" }), submitButton)))),
    guidePanel(task, toggleGuide));

  const tokens = debounce(async () => {
    const text = model.state.completion;
    let size = text.trim() ? text.trim().split(/\s+/).length : 0;
    let unit = "label.words";
    const answer = size ? await api.post("/api/label/preview", { text, count: true }).catch(() => null) : null;
    if (answer?.tokens) {
      size = answer.tokens; // without a model, words will do
      unit = "label.tokens";
    }
    const outside = size > 0 && (size < low || size > high);
    count.classList.toggle("outside", outside);
    count.textContent = `${t(unit, { count: size, shown: number(size) })} · ${t("label.typical", { low, high })}`;
  }, 500);

  model.listen((kind) => {
    rows.forEach((row) => row.update());
    if (kind === "undo" || kind === "load") editor.value = model.state.completion;
    look();
  });
  look();
  commonKeys(task, session, model, { submit, toggleGuide });
  editor.focus();

  /** What a careful reader would notice. */
  function look() {
    tokens();
    const text = model.state.completion.trim();
    const cjk = (one) => /[\u4e00-\u9fff]/.test(one);
    const found = [];
    if (text) {
      const copied = text.length > 40 && question.includes(text.slice(0, 200));
      found.push([copied ? "bad" : "good", copied ? "check_copied" : "check_not_copied"]);
      const other = cjk(question) !== cjk(text);
      found.push([other ? "warn" : "good", other ? "check_other_language" : "check_language"]);
      for (const [kind, pattern] of Object.entries(PERSONAL)) if (pattern.test(text)) found.push(["warn", `check_${kind}`]);
    }
    fill(checks, found.map(([state, key]) => h("li", { class: `check-item ${state}` }, icon(state === "good" ? "check" : "warning"), t(`label.${key}`))));
    submitButton.classList.toggle("ready", Boolean(text));
  }

  async function choose(name) {
    tabs.forEach((tab, at) => tab.setAttribute("aria-selected", String(["write", "preview"][at] === name)));
    editor.hidden = name === "preview";
    preview.hidden = name === "write";
    if (name === "preview") {
      const { nodes } = await api.post("/api/label/preview", { text: model.state.completion });
      drawBlocks(preview, nodes);
      preview.focus();
    } else editor.focus();
  }

  async function submit() {
    const open = prompt.find((one) => task.project.require.includes(one.key) && model.label("", one.key) === null);
    const problem = !model.state.completion.trim() ? t("label.write_something") : open ? t("label.answer_required", { question: questionText(open), answer: t("label.prompt") }) : "";
    if (problem) {
      announce(problem);
      return toast(problem, { kind: "warn" });
    }
    submitButton.disabled = true;
    const result = await session.submit({ completion: model.state.completion });
    submitButton.disabled = false;
    return result ? afterSubmit(task, result) : undefined;
  }
}
