/** What stands under a message: buttons, versions, figures; or how far its answer is. */
import { h, icon, iconButton } from "../dom.js";
import { number, t } from "../i18n.js";

/** @typedef {import("./message.js").MessageView} MessageView */

/** @param {MessageView} view @param {{label?: string | null, blind?: boolean}} how */
export function actions(view, how) {
  const tools = view.message.role === "user" ? userTools(view) : how.blind ? [] : assistantTools(view);
  return [h("div", { class: "tools" }, tools, how.label ? null : branches(view)), how.blind ? null : stats(view.message)];
}

/** @param {MessageView} view */
function userTools(view) {
  return [
    iconButton("edit", t("chat.edit"), { onclick: () => view.edit(), dataset: { act: "edit" } }),
    iconButton("copy", t("chat.copy"), { onclick: (event) => view.app.copy(view.id, event.currentTarget), dataset: { act: "copy" } }),
  ];
}

/** @param {MessageView} view */
function assistantTools(view) {
  const { message, app, id } = view;
  const value = message.feedback?.value ?? 0;
  const thumb = (sign, name) =>
    iconButton(name, t(sign > 0 ? "chat.good" : "chat.bad"), {
      class: value === sign ? "icon-button on" : "icon-button",
      "aria-pressed": String(value === sign), dataset: { act: sign > 0 ? "good" : "bad" }, onclick: () => view.thumb(sign),
    });
  const again = iconButton("refresh", t("chat.regenerate"), { dataset: { act: "regenerate" }, onclick: () => app.regenerate(id) });
  const more = iconButton("more", t("chat.more"), { dataset: { act: "more" } });
  app.messageMenu(more, view);
  const canContinue = message.finish_reason === "length" || message.status === "stopped";
  const tools = [
    thumb(1, "good"), thumb(-1, "bad"),
    iconButton("copy", t("chat.copy"), { dataset: { act: "copy" }, onclick: (event) => app.copy(id, event.currentTarget) }), again, more,
  ];
  if (canContinue && message.status !== "error")
    tools.push(h("button", { type: "button", class: "button small continue", dataset: { act: "continue" }, onclick: () => app.continueAnswer(id) }, icon("play"), t("chat.continue")));
  return tools;
}

/** @param {MessageView} view */
function branches({ message, app }) {
  const { number: at, count, previous, next } = app.thread.place(message);
  if (count < 2) return null;
  const step = (name, act, label, to) => iconButton(name, label, { class: "icon-button small", disabled: !to, dataset: { act }, onclick: () => app.select(to) });
  return h("div", { class: "branches", role: "group", "aria-label": t("chat.versions") },
    step("left", "previous", t("chat.previous_version"), previous),
    h("span", { class: "branch-count", "aria-label": t("chat.version", { number: at, count }) }, `${at}/${count}`),
    step("right", "next", t("chat.next_version"), next));
}

/** @param {import("./tree.js").Message} message */
function stats(message) {
  if (message.role === "user") return null;
  const parts = [];
  if (message.completion_tokens) parts.push(t("chat.tokens", { count: message.completion_tokens }));
  if (message.tps) parts.push(t("chat.speed", { speed: number(message.tps, { maximumFractionDigits: message.tps < 10 ? 1 : 0 }) }));
  if (message.status === "stopped") parts.push(h("span", { class: "badge" }, t("chat.stopped")));
  else if (message.finish_reason === "length") parts.push(h("span", { class: "badge" }, t("chat.cut_off")));
  else if (message.finish_reason === "content_filter") parts.push(h("span", { class: "badge" }, t("chat.filtered")));
  const dot = () => h("span", { class: "dot", "aria-hidden": "true" }, "\u00b7");
  return parts.length ? h("div", { class: "stats" }, parts.map((part, at) => [at ? dot() : null, h("span", { class: "stat" }, part)])) : null;
}

/** How far an answer is, or why a question was not sent. @param {MessageView} view */
export function progress({ message, app, id }) {
  if (message.local === "failed") {
    return h("div", { class: "problem", role: "alert" }, icon("warning"), h("span", {}, t("chat.not_sent")),
      h("button", { type: "button", class: "button small", onclick: () => app.retry(id) }, t("chat.retry")));
  }
  if (message.role === "user") return message.local ? h("span", { class: "stat" }, t("chat.sending")) : null;
  const job = app.thread.jobs.get(id);
  const queued = job?.state === "queued" && job.position > 0;
  const text = queued ? t("chat.queued", { position: job.position }) : t(app.answers.stopping ? "chat.stopping" : "chat.generating");
  const count = h("span", { class: "progress-count" }, message.completion_tokens ? t("chat.tokens", { count: message.completion_tokens }) : "");
  return h("div", { class: "progress" }, h("span", { class: "pulse", "aria-hidden": "true" }), h("span", {}, text), count);
}

