// L3 and L4: rank K answers on one screen, grade and flag them, by keys, taps or drag.

import { openDialog, toast } from "../dialog.js";
import { announce, fill, h, icon, iconButton } from "../dom.js";
import { t } from "../i18n.js";
import { shortcuts } from "../keys.js";
import { answerCard } from "./answer.js";
import { rankBoard } from "./board.js";
import { afterSubmit, commonKeys, guidePanel, promptPanel, reviewNote, taskBar, undo } from "./frame.js";
import { pairView } from "./pairview.js";
import { questionRow, questionText } from "./questions.js";
import { letter, RankModel } from "./rankmodel.js";
import { TaskSession } from "./session.js";

export function show(root, task) {
  const ids = task.candidates.map((candidate) => candidate.id);
  const model = new RankModel(ids);
  model.load(task.draft);
  const session = new TaskSession(task, model);
  const { answers = [], prompt = [] } = task.project.schema ?? {};
  let current = ids.find((id) => !model.row(id)) ?? ids[0];
  let mode = "";
  let flagAt = 0;
  const name = (id) => letter(ids.indexOf(id));

  const cards = task.candidates.map((candidate, index) => answerCard(candidate, { index, model, questions: answers, required: task.project.require, onFocus: setCurrent, onRank: (id, rank) => (setCurrent(id), place(id, model.row(id) === rank ? 0 : rank)) }));
  const cardOf = (id) => cards[ids.indexOf(id)];
  const board = rankBoard({ model, current: () => current, place, insert: (id, row) => (model.insert(id, row), say(id)), onFocus: focus });

  const comment = h("textarea", { class: "textarea", rows: 2, maxlength: 4000, placeholder: t("label.comment_hint"), "aria-label": t("label.comment"), value: model.state.comment, oninput: () => model.setText("comment", comment.value) });
  const cannot = h("input", { type: "checkbox", onchange: () => model.setCannotRank(cannot.checked) });
  const undoButton = iconButton("undo", t("label.undo"), { onclick: () => undo(model), class: "icon-button small" });
  const { bar, toggleGuide } = taskBar(task, session, [undoButton]);
  const promptRows = prompt.map((question) => questionRow(question, { about: "", model, subject: t("label.prompt"), required: task.project.require.includes(question.key) }));
  const order = h("span", { class: "order", "aria-live": "off" });
  const submitButton = h("button", { type: "button", class: "button primary submit", onclick: submit }, t("label.submit"), h("kbd", { class: "wide-only" }, "Ctrl ↵"));
  const reviewButton = h("button", { type: "button", class: "button", onclick: review }, t("label.review"), h("kbd", { class: "wide-only" }, "r"));
  const boardToggle = h("button", { type: "button", class: "button small quiet narrow-only", "aria-expanded": "false", onclick: () => { const open = side.classList.toggle("open"); boardToggle.setAttribute("aria-expanded", String(open)); } }, icon("up"), t("label.ranking"));
  const progress = h("span", { class: "muted small placed-count" });

  const side = h("aside", { class: "rank-side", "aria-label": t("label.ranking") },
    h("header", { class: "side-head" }, h("h2", {}, t("label.ranking")), progress),
    h("div", { class: "side-body" },
      h("p", { class: "muted small side-hint" }, t("label.board_hint")),
      board.node,
      h("label", { class: "check small-check" }, cannot, h("span", {}, t("label.cannot_rank"))),
      comment),
    h("footer", { class: "side-foot" }, h("div", { class: "order-line" }, boardToggle, order), h("div", { class: "row" }, reviewButton, submitButton)));

  fill(root, bar,
    h("div", { class: "task-grid" },
      h("div", { class: "task-main" }, reviewNote(task), promptPanel(task), promptRows.length ? h("section", { class: "card about-prompt" }, h("h2", {}, t("label.about_prompt")), promptRows.map((row) => row.node)) : null,
        h("section", { class: "answers", "aria-label": t("label.answers") }, cards.map((card) => card.node))),
      side),
    guidePanel(task, toggleGuide));
  const panel = root.querySelector(".prompt-panel");
  new ResizeObserver(() => root.style.setProperty("--prompt-height", `${panel.offsetHeight}px`)).observe(panel);
  model.listen((kind) => update(kind));
  update("load");

  function setCurrent(id) {
    if (id === current) return;
    current = id;
    setMode("");
    update("focus");
  }

  /** Make an answer the current one and bring it into view. `keep` leaves the keyboard's focus where it is. */
  function focus(id, { scroll = true, keep = false } = {}) {
    setCurrent(id);
    const { node } = cardOf(id);
    if (!keep) node.focus({ preventScroll: true });
    if (scroll && matchMedia("(min-width: 900px)").matches) node.scrollIntoView({ block: "nearest" });
    else if (scroll && !keep) node.scrollIntoView({ block: "nearest" });
  }

  function place(id, row) {
    if (row > ids.length) return announce(t("label.no_such_rank", { of: ids.length }));
    if (model.place(id, row)) say(id);
    return undefined;
  }

  /** Tell a screen reader where an answer is now. */
  function say(id) {
    const rank = model.dense()[id];
    const tied = model.in(model.row(id)).filter((other) => other !== id).map(name);
    const left = model.unplaced.length;
    const where = !rank ? t("label.say_unplaced", { answer: name(id) }) : tied.length ? t("label.say_tied", { answer: name(id), rank, others: tied.join(", ") }) : t("label.say_rank", { answer: name(id), rank });
    announce(`${where} ${left ? t("label.say_left", { count: left }) : t("label.say_complete")}`);
  }

  function rankByKey(row) {
    const id = current;
    place(id, row);
    const next = model.nextUnplaced(id);
    if (row && model.row(id) && next) focus(next);
  }

  function setMode(next) {
    mode = next;
    document.body.dataset.mode = next;
    cards.forEach((card) => card.pointAtFlag(next === "flags" && card.id === current ? flagAt : -1));
  }

  function answerFlag(value) {
    const card = cardOf(current);
    const flag = card.flags[flagAt];
    if (value === "na" && !flag.na) return;
    model.setLabel(current, flag.key, value);
    announce(`${questionText(flag)}: ${value === null ? t("label.not_answered") : value === "na" ? t("label.not_applicable") : t(value ? "common.yes" : "common.no")}`);
    if (flagAt < card.flags.length - 1) flagAt += 1;
    setMode("flags");
  }

  function step(by) {
    if (mode === "flags") {
      flagAt = Math.min(cardOf(current).flags.length - 1, Math.max(0, flagAt + by));
      return setMode("flags");
    }
    return focus(ids[Math.min(ids.length - 1, Math.max(0, ids.indexOf(current) + by))]);
  }

  function update(kind) {
    cards.forEach((card) => card.update(card.id === current));
    promptRows.forEach((row) => row.update());
    board.update();
    undoButton.disabled = !model.canUndo;
    cannot.checked = model.state.cannotRank;
    if (kind === "undo" || kind === "load") comment.value = model.state.comment;
    const placed = ids.length - model.unplaced.length;
    progress.textContent = t("label.placed", { placed, of: ids.length });
    fill(order, model.order() || t("label.nothing_yet"));
    side.classList.toggle("disabled", model.state.cannotRank);
    submitButton.classList.toggle("ready", model.isComplete || model.state.cannotRank);
  }

  /** What is missing, as a sentence; moves to it. "" if nothing is. */
  function missing() {
    if (!model.isComplete && !model.state.cannotRank) {
      focus(model.unplaced[0]);
      return t("label.place_all", { answers: model.unplaced.map(name).join(", ") });
    }
    for (const key of task.project.require) {
      const asked = answers.find((question) => question.key === key);
      const open = asked && ids.find((id) => model.label(id, key) === null);
      if (open) {
        cardOf(open).toggleFlags(asked.kind === "bool" || undefined);
        focus(open);
        return t("label.answer_required", { question: questionText(asked), answer: name(open) });
      }
      const about = prompt.find((question) => question.key === key);
      if (about && model.label("", key) === null) return t("label.answer_required", { question: questionText(about), answer: t("label.prompt") });
    }
    return "";
  }

  async function submit() {
    const problem = missing();
    if (problem) {
      announce(problem);
      return toast(problem, { kind: "warn" });
    }
    const odd = model.contradictions();
    if (odd.length) {
      session.signals.warnings += 1;
      const sure = await openDialog({
        title: t("label.contradiction"),
        body: () => [h("p", {}, t("label.contradiction_text")), h("ul", { class: "plain" }, odd.slice(0, 4).map(([a, b]) => h("li", {}, t("label.contradiction_pair", { a: name(a), b: name(b), x: model.label(a, "quality"), y: model.label(b, "quality") }))))],
        actions: (close) => [h("button", { type: "button", class: "button", onclick: () => close(false) }, t("label.look_again")), h("button", { type: "button", class: "button primary", autofocus: true, onclick: () => close(true) }, t("label.submit_anyway"))],
      });
      if (!sure) return undefined;
    }
    submitButton.disabled = true;
    const result = await session.submit({ cannot_rank: model.state.cannotRank, ranks: model.state.cannotRank ? {} : model.dense() });
    submitButton.disabled = false;
    return result ? afterSubmit(task, result) : undefined;
  }

  /** All at one glance before it is handed in. */
  function review() {
    const rows = [...new Set(Object.values(model.dense()))].sort((a, b) => a - b);
    openDialog({
      title: t("label.review_title"),
      wide: true,
      body: (close) => {
        const list = h("ol", { class: "review-list" }, rows.map((rank) => ids.filter((id) => model.dense()[id] === rank).map((id) => {
          const flags = answers.filter((question) => model.label(id, question.key) === true).map((question) => questionText(question));
          return h("li", {}, h("span", { class: "review-rank" }, String(rank)), h("span", { class: "letter small" }, name(id)), h("span", { class: "review-text" }, task.candidates[ids.indexOf(id)].text.slice(0, 180)), h("span", { class: "muted small" }, model.label(id, "quality") ? `${model.label(id, "quality")}/7` : ""), flags.map((flag) => h("span", { class: "badge warn" }, flag)));
        })));
        list.addEventListener("keydown", (event) => (event.ctrlKey || event.metaKey) && event.key === "Enter" && (close(), submit()));
        return [model.unplaced.length ? h("p", { class: "notice warn" }, icon("info"), t("label.place_all", { answers: model.unplaced.map(name).join(", ") })) : null, list];
      },
      actions: (close) => [h("button", { type: "button", class: "button", onclick: () => close() }, t("common.back")), h("button", { type: "button", class: "button primary", autofocus: true, onclick: () => (close(), submit()) }, t("label.submit"))],
    });
  }

  const digits = Array.from({ length: 9 }, (_, at) => String(at + 1));
  const inFlags = () => mode === "flags";
  const grade = answers.find((question) => question.kind === "scale");
  shortcuts("label.keys_rank", [
    { keys: ["j", "ArrowDown"], label: "label.key_next", run: () => step(1), when: notInWidget },
    { keys: ["k", "ArrowUp"], label: "label.key_previous", run: () => step(-1), when: notInWidget },
    ...ids.map((id, at) => ({ keys: `Shift+${letter(at)}`, label: at ? "" : "label.key_letter", run: () => focus(id) })),
    { keys: digits, label: "", when: () => mode === "grade", run: (event) => (grade && Number(event.key) <= (grade.max ?? 7) && model.setLabel(current, grade.key, Number(event.key)), setMode("")) },
    { keys: ["1", "9"], label: "label.key_rank", when: () => false, run: () => {} },
    { keys: digits, label: "", run: (event) => rankByKey(Number(event.key)) },
    { keys: "0", label: "label.key_unplace", run: () => (mode === "grade" && grade ? (model.setLabel(current, grade.key, null), setMode("")) : place(current, 0)) },
    { keys: "q", label: "label.key_quality", run: () => (grade ? (setMode("grade"), announce(t("label.say_grade", { answer: name(current) }))) : false) },
    { keys: "f", label: "label.key_flags", run: () => { if (!cardOf(current).flags.length) return false; flagAt = 0; cardOf(current).toggleFlags(!inFlags()); setMode(inFlags() ? "" : "flags"); return undefined; } },
    { keys: "y", label: "label.key_yes_no", when: inFlags, run: () => answerFlag(true) },
    { keys: "n", label: "", when: inFlags, run: () => answerFlag(false) },
    { keys: "x", label: "", when: inFlags, run: () => answerFlag(null) },
    { keys: "a", label: "", when: inFlags, run: () => answerFlag("na") },
    { keys: "Escape", label: "", when: () => mode !== "", run: () => setMode("") },
    { keys: "p", label: "label.key_pair", run: () => void pairView(task.candidates, model, current) },
    { keys: "e", label: "label.key_expand", run: () => cardOf(current).toggleCollapsed() },
  ]);
  commonKeys(task, session, model, { submit, toggleGuide, review });
  focus(current, { scroll: false });
}

/** Arrow keys belong to the widget that has the focus. */
const notInWidget = (event) => !event.key.startsWith("Arrow") || !event.target.closest?.("[role=radiogroup], [role=toolbar], select, textarea, input, .prompt-body");
