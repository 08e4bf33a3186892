// People: invite, change roles, suspend, reset, delete.

import { api } from "../api.js";
import { confirmDialog, menuButton, openDialog, toast } from "../dialog.js";
import { boot, debounce, fill, h, icon, iconButton } from "../dom.js";
import { date, relative, t } from "../i18n.js";

const ROLES = ["admin", "lead", "moderator", "labeler", "user"];
const failed = (error) => toast(t(`accounts.error_${error.code}`).startsWith("accounts.") ? error.message : t(`accounts.error_${error.code}`), { kind: "bad" });

export const showLink = (title, link) => openDialog({
  title,
  body: () => [h("p", {}, t("admin.link_once")), h("div", { class: "link-once" }, h("code", {}, link),
    iconButton("copy", t("common.copy"), { onclick: () => navigator.clipboard.writeText(link).then(() => toast(t("common.copied"), { kind: "good", ms: 1500 })) }))],
});

async function invite() {
  const role = h("select", { class: "select" }, ROLES.map((name) => h("option", { value: name, selected: name === "user" }, t(`accounts.role_${name}`))));
  const email = h("input", { class: "input", type: "email", maxlength: 250 });
  const wanted = await openDialog({
    title: t("admin.invite"),
    body: () => [h("label", { class: "field" }, h("span", { class: "field-label" }, t("admin.role")), role),
      h("label", { class: "field" }, h("span", { class: "field-label" }, t("admin.only_for")), email)],
    actions: (close) => h("button", { type: "button", class: "button primary", onclick: () => close({ role: role.value, email: email.value.trim() }) }, t("admin.make_link")),
  });
  if (!wanted) return;
  try {
    const { link } = await api.post("/api/admin/users/invite", wanted);
    await showLink(t("admin.invite"), link);
  } catch (error) {
    failed(error);
  }
}

export async function usersView() {
  const list = h("div", { class: "table-wrap" });
  const search = h("input", { class: "input", type: "search", placeholder: t("admin.find"), "aria-label": t("admin.find"), maxlength: 100, oninput: debounce(() => draw(), 200) });

  async function change(user, values, question) {
    if (question && !(await confirmDialog({ title: user.display_name, text: question, action: t("admin.go_on"), danger: true }))) return draw();
    try {
      if (values === null) await api.delete(`/api/admin/users/${user.id}`);
      else await api.patch(`/api/admin/users/${user.id}`, values);
    } catch (error) {
      failed(error);
    }
    return draw();
  }

  const row = (user) => {
    const me = user.id === boot.viewer.id;
    const more = menuButton(iconButton("more", t("admin.actions_for", { name: user.display_name })), () => [
      { label: t("admin.reset_link"), icon: "keys", onselect: () => api.post(`/api/admin/users/${user.id}/reset`).then(({ link }) => showLink(t("admin.reset_link"), link), failed) },
      user.status === "suspended" ? { label: t("admin.let_in"), icon: "check", onselect: () => change(user, { status: "active" }) }
        : { label: t("admin.suspend"), icon: "pause", disabled: me, onselect: () => change(user, { status: "suspended" }, t("admin.suspend_text")) },
      null, { label: t("common.delete"), icon: "trash", danger: true, disabled: me, onselect: () => change(user, null, t("admin.delete_text")) }]);
    return h("tr", {}, h("td", {}, h("b", { class: "wrap" }, user.display_name), h("div", { class: "muted small wrap" }, user.email_ci || "")),
      h("td", {}, h("select", { class: "select", "aria-label": t("admin.role_of", { name: user.display_name }), disabled: user.status === "deleted", onchange: (event) => change(user, { role: event.target.value }) },
        ROLES.map((name) => h("option", { value: name, selected: name === user.role }, t(`accounts.role_${name}`))))),
      h("td", {}, h("span", { class: `badge ${{ active: "good", suspended: "bad", invited: "warn" }[user.status] || ""}` }, t(`admin.status_${user.status}`))),
      h("td", { class: "muted" }, user.last_seen_at ? relative(user.last_seen_at) : "\u2013"),
      h("td", { class: "num" }, user.status === "deleted" ? null : more));
  };

  async function draw() {
    const { items, invitations } = await api.get(`/api/admin/users?q=${encodeURIComponent(search.value)}`);
    fill(list, h("table", { class: "table" }, h("thead", {}, h("tr", {}, ["person", "role", "status", "seen"].map((name) => h("th", { scope: "col" }, t(`admin.${name}`))), h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, t("admin.actions"))))),
      h("tbody", {}, items.map(row), invitations.map((item) => h("tr", {}, h("td", { class: "muted" }, item.email_ci || t("admin.anybody")), h("td", {}, t(`accounts.role_${item.role}`)),
        h("td", {}, h("span", { class: "badge warn" }, t("admin.status_invited"))), h("td", { class: "muted" }, t("admin.until", { date: date(item.expires_at) })), h("td", {}))))));
  }
  await draw();
  return [h("div", { class: "row", style: { "margin-bottom": "16px" } }, h("div", { style: { flex: "1 1 220px" } }, search), h("button", { type: "button", class: "button primary", onclick: () => invite().then(draw) }, icon("plus"), t("admin.invite"))), list];
}
