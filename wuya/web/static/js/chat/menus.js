/** Menus of a message, of the chat and of the history list. */
import { api } from "../api.js";
import { confirmDialog, menuButton, promptDialog, toast } from "../dialog.js";
import { t } from "../i18n.js";
import { explain } from "./explain.js";
import { shareDialog } from "./sharing.js";
import { download } from "./transfer.js";

/** @param {any} app @param {HTMLElement} button @param {import("./message.js").MessageView} view */
export function messageMenu(app, button, view) {
  const { id } = view;
  menuButton(button, () => {
    const others = app.config.models.filter(({ alias }) => alias !== app.thread.get(id).model);
    return [
      { label: t("chat.two_more"), icon: "branch", onselect: () => app.regenerate(id, { n: 2 }) },
      { label: t("chat.compare_regenerate"), icon: "compare", onselect: () => app.regenerate(id, { compare: true, models: [app.settings.model, app.compareWith ?? app.settings.model] }) },
      ...others.slice(0, 6).map(({ alias }) => ({ label: t("chat.regenerate_with", { model: alias }), icon: "refresh", onselect: () => app.regenerate(id, { model: alias }) })),
      null,
      { label: t("chat.edit_answer"), icon: "edit", onselect: () => view.edit() },
      { label: t("chat.fork_here"), icon: "branch", onselect: () => fork(app, id) },
      app.config.sharing ? { label: t("chat.share_to_here"), icon: "share", onselect: () => shareDialog(app, id) } : false,
      { label: t("chat.report"), icon: "flag", onselect: () => report(id) },
    ].filter((item) => item !== false);
  });
}

/** A copy of the path up to a message, as a chat of its own. @param {any} app @param {string} leaf */
async function fork(app, leaf) {
  try {
    const copy = await api.post(`/api/conversations/${app.thread.id}/fork`, { leaf_id: leaf });
    app.history.touch(copy);
    await app.open(copy.id);
    toast(t("chat.forked"), { kind: "good" });
  } catch (problem) {
    toast(explain(problem), { kind: "bad" });
  }
}

/** @param {string} id */
async function report(id) {
  const note = await promptDialog({ title: t("chat.report"), label: t("chat.report_label"), action: t("chat.report_send"), maxlength: 500 });
  if (note === null) return;
  try {
    await api.post(`/api/messages/${id}/report`, { reason: "other", comment: note });
    toast(t("chat.reported"), { kind: "good" });
  } catch (problem) {
    toast(explain(problem), { kind: "bad" });
  }
}

/** Give a chat another title. @param {any} app @param {{id: string, title: string}} chat */
export async function rename(app, chat) {
  const title = await promptDialog({ title: t("chat.rename"), value: chat.title, maxlength: app.config.limits.title_chars });
  if (!title?.trim() || title === chat.title) return;
  if (chat.id === app.thread.id) return app.configure({ title: title.trim() });
  app.history.touch(await api.patch(`/api/conversations/${chat.id}`, { title: title.trim() }));
}

/** @param {any} app @param {HTMLElement} button */
export function chatMenu(app, button) {
  menuButton(button, () => {
    const chat = app.thread.conversation;
    const compare = { label: t("chat.compare"), icon: "compare", onselect: () => app.configure({ mode: app.settings.mode === "compare" ? "single" : "compare" }) };
    if (!chat) return [compare, { label: t("chat.import"), icon: "upload", onselect: () => app.importFile() }, { label: t("chat.shares"), icon: "link", onselect: () => app.listShares() }];
    return [
      { label: t("chat.rename"), icon: "edit", onselect: () => rename(app, chat) },
      compare,
      app.config.sharing ? { label: t("chat.share"), icon: "share", onselect: () => shareDialog(app) } : false,
      { label: t("chat.shares"), icon: "link", onselect: () => app.listShares() },
      null,
      { label: t("chat.export_md"), icon: "download", onselect: () => download(`/api/conversations/${chat.id}/export?format=md`) },
      { label: t("chat.export_json"), icon: "download", onselect: () => download(`/api/conversations/${chat.id}/export?format=json`) },
      null,
      chat.archived ? { label: t("chat.unarchive"), icon: "undo", onselect: () => app.configure({ archived: false }) } : { label: t("chat.archive"), icon: "archive", onselect: () => archive(app, chat) },
      chat.trashed ? { label: t("chat.restore"), icon: "undo", onselect: () => app.configure({ trashed: false }) } : null,
      { label: t(chat.trashed ? "chat.delete_forever" : "chat.to_trash"), icon: "trash", danger: true, onselect: () => app.remove() },
    ].filter((item, at, all) => item || (item === null && all[at - 1]));
  });
}

/** @param {any} app @param {any} chat */
async function archive(app, chat) {
  await app.configure({ archived: true });
  toast(t("chat.archived_toast"), { action: t("chat.undo"), onAction: () => app.history.change([chat.id], "unarchive") });
}

/** Ask before something cannot be taken back. @param {number} count */
export const sureToDelete = (count) =>
  confirmDialog({ title: t("chat.delete_forever"), text: t("chat.delete_many_text", { count }), action: t("chat.delete_forever"), danger: true });
