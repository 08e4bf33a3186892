// Keys & usage: two tabs of one page.

import { api } from "../api.js";
import { toast } from "../dialog.js";
import { $, fill, h, icon, may, pageData } from "../dom.js";
import { load, t } from "../i18n.js";
import { copyLine } from "./copyline.js";
import { editKey, limitsDialog, newKey } from "./dialogs.js";
import { keyTable } from "./table.js";
import { usageView } from "./usage.js";

const TABS = ["keys", "usage"];
const root = $("#keys");
const state = { tab: location.hash === "#usage" ? "usage" : "keys", everyone: false, days: 30, limits: {} };

await load("keys");
window.addEventListener("hashchange", () => show(location.hash === "#usage" ? "usage" : "keys"));
await show(state.tab);

async function show(tab) {
  state.tab = tab;
  fill($("#keys-tabs"), TABS.map((name) =>
    h("a", { href: `#${name}`, role: "tab", id: `tab-${name}`, "aria-controls": "keys", "aria-selected": String(name === tab) }, t(`keys.tab_${name}`))));
  root.setAttribute("aria-labelledby", `tab-${tab}`);
  await draw();
}

async function draw() {
  const turn = (state.turn = Symbol("request"));
  root.setAttribute("aria-busy", "true");
  try {
    const show = await (state.tab === "keys" ? keysView() : usage());
    if (turn !== state.turn) return; // another tab, or another choice, meanwhile
    show();
  } catch (error) {
    if (turn !== state.turn) return;
    fill(root, h("div", { class: "empty", role: "alert" }, icon("warning"), h("p", {}, error.message),
      h("button", { type: "button", class: "button", onclick: draw }, t("common.retry"))));
  }
  root.removeAttribute("aria-busy");
}

function everyone() {
  if (!may("admin") || !pageData().keys_needed) return null;
  return h("label", { class: "check" }, h("input", { type: "checkbox", checked: state.everyone, onchange: (event) => ((state.everyone = event.target.checked), draw()) }), t("keys.everyone"));
}

async function keysView() {
  const found = await api.get(`/api/keys?everyone=${state.everyone}`);
  return () => drawKeys(found);
}

function drawKeys(found) {
  state.limits = found.limits;
  fill($("#keys-actions"),
    may("admin") && pageData().keys_needed ? h("button", { type: "button", class: "button", onclick: act(() => limitsDialog(state.limits)) }, icon("sliders"), t("keys.limits")) : null,
    h("button", { type: "button", class: "button primary", id: "new-key", onclick: act(newKey) }, icon("plus"), t("keys.new")));
  fill(root,
    h("div", { class: "intro" },
      h("p", {}, t("keys.intro")),
      copyLine(pageData().api_base, t("keys.base_url")),
      pageData().keys_needed ? null : h("p", { class: "notice" }, icon("info"), h("span", {}, t("keys.not_needed"))),
      everyone()),
    found.items.length
      ? keyTable(found.items, { withOwner: state.everyone, edit: (key) => act(() => editKey(key))(), reload: draw })
      : h("div", { class: "empty" }, icon("keys"), h("h2", {}, t("keys.none")), h("p", {}, t("keys.none_text"))));
}

async function usage() {
  const found = await api.get(`/api/usage?days=${state.days}&everyone=${state.everyone}`);
  return () => drawUsage(found);
}

function drawUsage(found) {
  fill($("#keys-actions"));
  fill(root, usageView(found, { days: state.days, withOwner: state.everyone, everyone: everyone(), choose: (days) => ((state.days = days), draw()) }));
}

/** An action that may change the keys; they are drawn again if it did. */
function act(action) {
  return async () => {
    try {
      if (await action()) await draw();
    } catch (error) {
      toast(error.message, { kind: "bad" });
    }
  };
}
