// The table of keys: what each may do, how much it used, and what can be done with it.

import { api } from "../api.js";
import { confirmDialog, menuButton, toast } from "../dialog.js";
import { h, iconButton } from "../dom.js";
import { compact, date, number, relative, t } from "../i18n.js";
import { showSecret } from "./dialogs.js";

export function keyTable(keys, { withOwner, edit, reload }) {
  const heads = ["name", "key", "scopes", "models", "limits", "spent", "last_used", "expires"];
  return h("div", { class: "table-wrap", tabindex: 0, role: "region", "aria-label": t("keys.tab_keys") },
    h("table", { class: "table stacked keys-table" },
      h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col" }, t(`keys.col_${name}`))),
        h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, t("common.more"))))),
      h("tbody", {}, keys.map((key) => row(key, { withOwner, edit, reload })))));
}

function row(key, { withOwner, edit, reload }) {
  const expired = key.expires_at && new Date(key.expires_at) < new Date();
  const act = (action) => async () => {
    try {
      if (await action()) await reload();
    } catch (error) {
      toast(error.message, { kind: "bad" });
    }
  };
  const more = menuButton(iconButton("more", t("keys.actions", { name: key.name }), { class: "icon-button small" }), () => [
    { label: t("common.edit"), icon: "edit", onselect: () => edit(key) },
    withOwner ? null : { label: t("keys.rotate"), icon: "refresh", onselect: act(() => rotate(key)) },
    null,
    { label: t("keys.revoke"), icon: "trash", danger: true, onselect: act(() => revoke(key)) },
  ]);
  const cell = (name, content, extra = "") => h("td", { class: extra, "data-label": t(`keys.col_${name}`) }, content);
  return h("tr", {},
    h("td", {}, h("div", { class: "key-name" }, key.name), withOwner ? h("div", { class: "muted small" }, key.owner) : null),
    cell("key", h("span", { class: "mono" }, `${key.prefix}\u2026`)),
    cell("scopes", h("div", { class: "badges" }, key.scopes.map((scope) => h("span", { class: "badge" }, scope))), "full"),
    cell("models", key.models.length ? key.models.join(", ") : t("keys.all_models")),
    cell("limits", limits(key), "key-limits"),
    cell("spent", spent(key)),
    cell("last_used", key.last_used_at ? h("time", { datetime: key.last_used_at }, relative(key.last_used_at)) : t("keys.never")),
    cell("expires", expired ? h("span", { class: "badge bad" }, t("keys.expired")) : key.expires_at ? date(key.expires_at) : t("keys.never")),
    h("td", { class: "full" }, more));
}

function limits(key) {
  const parts = [key.rpm && t("keys.rpm_short", { count: compact(key.rpm) }), key.tpm && t("keys.tpm_short", { count: compact(key.tpm) })].filter(Boolean);
  return parts.length ? parts.map((part) => h("div", {}, part)) : t("keys.no_limit");
}

function spent(key) {
  if (!key.monthly_tokens) return compact(key.used_tokens);
  const share = Math.min(1, key.used_tokens / key.monthly_tokens);
  const kind = share >= 1 ? "meter bad" : share > 0.8 ? "meter warn" : "meter";
  return h("div", { class: "spent", title: `${number(key.used_tokens)} / ${number(key.monthly_tokens)}` },
    `${compact(key.used_tokens)} / ${compact(key.monthly_tokens)}`,
    h("div", { class: kind, role: "meter", "aria-label": t("keys.col_spent"), "aria-valuemin": 0, "aria-valuemax": key.monthly_tokens, "aria-valuenow": key.used_tokens },
      h("span", { style: { width: `${Math.round(share * 100)}%` } })));
}

async function rotate(key) {
  const sure = await confirmDialog({ title: t("keys.rotate_title", { name: key.name }), text: t("keys.rotate_text"), action: t("keys.rotate") });
  if (!sure) return false;
  const { secret } = await api.post(`/api/keys/${key.id}/rotate`);
  await showSecret(secret, key);
  return true;
}

async function revoke(key) {
  const sure = await confirmDialog({ title: t("keys.revoke_title", { name: key.name }), text: t("keys.revoke_text"), action: t("keys.revoke"), danger: true });
  if (!sure) return false;
  await api.delete(`/api/keys/${key.id}`);
  toast(t("keys.revoked"), { kind: "good" });
  return true;
}
