// What every task has around it: the bar with time and saved state, the prompt, the guide, the keys.

import { $, fill, h, icon, url } from "../dom.js";
import { duration, t } from "../i18n.js";
import { drawBlocks } from "../markdown.js";
import { toast } from "../dialog.js";
import { shortcuts } from "../keys.js";
import { goNext } from "./session.js";

/** The bar on top. `tools` are buttons of the screen. */
export function taskBar(task, session, tools = []) {
  const clock = h("span", { class: "bar-time num", title: t("label.active_time") }, "0:00");
  const saved = h("span", { class: "bar-saved", role: "status" });
  const guide = h("button", { type: "button", class: "button small quiet", "aria-pressed": "false", onclick: () => toggleGuide() }, icon("book"), h("span", { class: "wide-only" }, t("label.guide")), h("kbd", { class: "wide-only" }, "g"));
  const skip = h("button", { type: "button", class: "button small quiet", onclick: () => skipTask(task, session) }, icon("skip"), h("span", { class: "wide-only" }, t("label.skip")), h("kbd", { class: "wide-only" }, "s"));
  const bar = h("header", { class: "task-bar" },
    h("a", { class: "icon-button small", href: url("/label"), "aria-label": t("label.home"), title: t("label.home") }, icon("left")),
    h("div", { class: "bar-title" }, h("h1", {}, t(`label.type_${task.type}`)), h("span", { class: "muted small" }, task.project.name, " · ", h("span", { class: "mono" }, task.short), task.candidates.length > 1 ? ` · K = ${task.candidates.length}` : "")),
    task.quiz ? h("span", { class: "badge accent" }, t("label.quiz_progress", { number: task.quiz.number, of: task.quiz.of })) : null,
    h("span", { class: "spacer" }), saved, clock, tools, guide, skip);
  const tick = () => (clock.textContent = duration(session.activeMs / 1000));
  setInterval(tick, 1000);
  tick();
  session.onState = (state, text) => {
    saved.className = `bar-saved ${state}`;
    saved.textContent = text || t(`label.state_${state}`);
  };
  if (task.draft_rev) session.onState("saved");

  function toggleGuide() {
    const open = document.body.classList.toggle("guide-open");
    guide.setAttribute("aria-pressed", String(open));
    if (open) $(".guide-panel")?.focus();
  }
  return { bar, toggleGuide };
}

export async function skipTask(task, session) {
  if (await session.skip()) goNext(task.project.id);
}

/** The guide beside the task. */
export function guidePanel(task, close) {
  const text = h("div", { class: "md" });
  drawBlocks(text, task.project.guide);
  if (!task.project.guide.length) fill(text, standardGuide());
  return h("aside", { class: "guide-panel", tabindex: "-1", "aria-label": t("label.guide") },
    h("header", { class: "row" }, h("h2", {}, t("label.guide")), h("span", { class: "spacer" }), h("button", { type: "button", class: "icon-button small", "aria-label": t("common.close"), onclick: close }, icon("close"))),
    text);
}

/** What labelers are told where the project says nothing else (after InstructGPT, appendix B). */
export const standardGuide = () => [1, 2, 3, 4, 5, 6].map((number) => h("p", {}, h("strong", {}, t(`label.guide_${number}_title`)), " ", t(`label.guide_${number}`)));

/** The conversation that the answers continue; folds to a line. */
export function promptPanel(task) {
  const turns = task.messages.map((message) => {
    const body = h("div", { class: "md" });
    drawBlocks(body, message.nodes);
    return h("div", { class: `turn ${message.role}` }, h("span", { class: "turn-role" }, t(`label.role_${message.role}`)), body);
  });
  const body = h("div", { class: "prompt-body", tabindex: "0", id: "prompt-body" }, turns);
  const fold = h("button", { type: "button", class: "icon-button small", "aria-expanded": "true", "aria-controls": "prompt-body", "aria-label": t("label.fold_prompt"), title: t("label.fold_prompt"), onclick: () => toggle() }, icon("up"));
  const node = h("section", { class: "prompt-panel", "aria-label": t("label.prompt") }, h("header", {}, h("h2", {}, t("label.prompt")), h("span", { class: "prompt-line muted" }, task.messages.at(-1)?.content.slice(0, 160)), fold), body);
  function toggle() {
    const folded = node.classList.toggle("folded");
    fold.setAttribute("aria-expanded", String(!folded));
  }
  return node;
}

/** A reviewer's note on top of a task that came back. */
export const reviewNote = (task) => (task.note ? h("div", { class: "notice warn", role: "note" }, icon("info"), h("div", {}, h("strong", {}, t("label.sent_back")), " ", task.note)) : null);

/** Keys that every task has. */
export function commonKeys(task, session, model, { submit, toggleGuide, review }) {
  return shortcuts("label.keys_task", [
    { keys: "Mod+Enter", label: "label.key_submit", run: submit },
    { keys: "Mod+S", label: "label.key_save", run: () => void session.save({ quiet: false }).catch(() => {}) },
    { keys: "Mod+Z", label: "label.key_undo", run: (event) => (event.target.matches?.("textarea, input") ? false : void undo(model)) },
    ...(review ? [{ keys: "r", label: "label.key_review", run: review }] : []),
    { keys: "g", label: "label.key_guide", run: toggleGuide },
    { keys: "s", label: "label.key_skip", run: () => void skipTask(task, session) },
  ]);
}

export function undo(model) {
  if (!model.undo()) toast(t("label.nothing_to_undo"));
}

/** After a submission: the next task, or what the quiz or the tests decided. */
export async function afterSubmit(task, result) {
  if (result.standing === "passed" || result.standing === "in_quiz" || result.standing === "none") {
    if (!(task.quiz && result.standing === "passed")) return goNext(task.project.id);
  }
  window.location.href = url("/label");
}
