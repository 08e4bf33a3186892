/** Share dialog: a frozen copy of one path, for whom, for how long; and the list of what is shared, to take it back. */
import { api } from "../api.js";
import { openDialog, toast } from "../dialog.js";
import { fill, h, icon, iconButton, url } from "../dom.js";
import { date, number, t } from "../i18n.js";
import { explain } from "./explain.js";

const DAYS = [1, 7, 30, 365];

/** @param {any} share */
const address = (share) => new URL(url(share.url), window.location.href).href;

/** One shared copy with what can be done to it. @param {any} share @param {() => void} gone */
function row(share, gone) {
  const link = h("input", { class: "input mono", readOnly: true, value: address(share), "aria-label": t("chat.share_link"), onfocus: () => link.select() });
  const copy = iconButton("copy", t("chat.copy_link"), { onclick: async () => (await navigator.clipboard?.writeText(link.value), toast(t("common.copied"), { kind: "good", ms: 2000 })) });
  const revoke = h("button", { type: "button", class: "button small", dataset: { act: "revoke" }, onclick: async () => {
    try {
      await api.delete(`/api/shares/${share.id}`);
      gone();
      toast(t("chat.revoked"), { kind: "good" });
    } catch (problem) {
      toast(explain(problem), { kind: "bad" });
    }
  } }, t("chat.revoke"));
  const facts = [t(`chat.visibility_${share.visibility}`), share.expires_at ? t("chat.expires_on", { date: date(share.expires_at) }) : t("chat.never_expires"), t("chat.views", { count: number(share.views) })];
  return h("li", { class: "share" }, h("div", { class: "share-title" }, share.title || t("chat.untitled")),
    h("div", { class: "share-link" }, link, copy, h("a", { class: "icon-button", href: url(share.url), target: "_blank", rel: "noopener", "aria-label": t("chat.open_share"), title: t("chat.open_share") }, icon("external"))),
    h("div", { class: "share-foot" }, h("span", { class: "hint" }, facts.join(" \u00b7 ")), revoke));
}

/** @param {HTMLElement} list @param {any[]} shares @param {string} empty */
function drawShares(list, shares, empty) {
  const open = shares.filter((share) => !share.revoked);
  fill(list, open.length ? open.map((share) => row(share, () => drawShares(list, open.filter((other) => other !== share), empty))) : h("li", { class: "hint" }, empty));
}

/** Everything that I share. */
export async function sharesDialog() {
  const list = h("ul", { class: "shares" });
  const shares = await api.get("/api/shares").catch((problem) => (toast(explain(problem), { kind: "bad" }), null));
  if (!shares) return;
  drawShares(list, shares.items ?? shares, t("chat.no_shares"));
  return openDialog({ title: t("chat.shares"), wide: true, body: () => list });
}

/** Share the open chat, up to a message. @param {any} app @param {string | null} [leaf] */
export async function shareDialog(app, leaf = app.thread.leaf) {
  if (!app.thread.id) return;
  const list = h("ul", { class: "shares" });
  const visibility = radio("visibility", [["signed_in", t("chat.visibility_signed_in"), t("chat.visibility_signed_in_hint")], ["link", t("chat.visibility_link"), t("chat.visibility_link_hint")]]);
  const expiry = h("select", { class: "select" }, h("option", { value: "" }, t("chat.never_expires")), DAYS.map((days) => h("option", { value: days, selected: days === 30 }, t("chat.days", { count: days }))));
  const named = h("input", { type: "checkbox" });
  const create = async ({ currentTarget: button }) => {
    button.disabled = true; // a second click would make a second share
    try {
      const share = await api.post(`/api/conversations/${app.thread.id}/share`, {
        leaf_id: leaf, visibility: visibility.value(), show_name: named.checked, expires_in_days: expiry.value ? Number(expiry.value) : null,
      });
      drawShares(list, [share, ...mine], "");
      mine.unshift(share);
      list.querySelector("input")?.select();
    } catch (problem) {
      toast(explain(problem), { kind: "bad" });
    }
    button.disabled = false;
  };
  const all = await api.get("/api/shares").catch(() => ({ items: [] }));
  const mine = (all.items ?? all).filter((share) => share.conversation_id === app.thread.id && !share.revoked);
  drawShares(list, mine, t("chat.not_shared_yet"));
  return openDialog({
    title: t("chat.share"),
    body: () => [
      h("p", { class: "hint" }, t("chat.share_text")), visibility.node,
      h("label", { class: "field" }, h("span", { class: "field-label" }, t("chat.expires")), expiry),
      h("label", { class: "check" }, named, t("chat.show_name")),
      h("button", { type: "button", class: "button primary", dataset: { act: "create-share" }, onclick: create }, icon("link"), t("chat.create_link")),
      h("h3", {}, t("chat.links_of_chat")), list,
    ],
  });
}

/** Choose one of a few, each with a line that says what it means. @param {string} name @param {string[][]} options */
function radio(name, options) {
  const inputs = options.map(([value], at) => h("input", { type: "radio", name, value, checked: at === 0 }));
  const node = h("div", { class: "radios", role: "radiogroup", "aria-label": t("chat.who_can_see") },
    options.map(([, label, hint], at) => h("label", { class: "check" }, inputs[at], h("span", {}, label, h("small", {}, hint)))));
  return { node, value: () => inputs.find((input) => input.checked)?.value };
}
