// Health, engine, database, backup, and the settings of the whole service.

import { api } from "../api.js";
import { toast } from "../dialog.js";
import { boot, h, icon } from "../dom.js";
import { compact, load, number, percent, t } from "../i18n.js";

/** A size as people say it: 312 KiB, 4.2 MiB, 54.5 GiB. @param {number | null} count bytes */
function bytes(count) {
  if (count === null) return "\u2013";
  const power = count < 2 ** 20 ? 1 : count < 2 ** 30 ? 2 : 3;
  return `${number(count / 1024 ** power, { maximumFractionDigits: power === 1 ? 0 : 1 })} ${["KiB", "MiB", "GiB"][power - 1]}`;
}
const KINDS = { sqlite: "SQLite", postgresql: "PostgreSQL" };
const fact = (label, value) => [h("dt", {}, label), h("dd", {}, value)];
const meter = (share) => h("div", { class: `meter ${share > 0.9 ? "bad" : share > 0.7 ? "warn" : ""}`, role: "img", "aria-label": percent(share) }, h("span", { style: { width: `${Math.round(share * 100)}%` } }));

export async function systemView() {
  await load();
  const state = await api.get("/api/admin/system");
  const backup = h("button", { type: "button", class: "button", onclick: async () => {
    backup.disabled = true;
    try {
      toast(t("admin.backed_up", { file: (await api.post("/api/admin/system/backup")).file }), { kind: "good" });
    } catch (error) {
      toast(error.message, { kind: "bad" });
    }
    backup.disabled = false;
  } }, icon("download"), t("admin.back_up"));
  const cards = [
    h("section", { class: "card" }, h("h2", { class: "row" }, t("admin.engine"), h("span", { class: state.engine.ready ? "badge good" : "badge bad" }, h("span", { class: "dot" }), t(state.engine.ready ? "admin.ready" : "admin.not_ready"))),
      h("dl", { class: "facts" }, fact(t("admin.slots"), [`${number(state.engine.slots_used)} / ${number(state.engine.slots_total)}`, meter(state.engine.slots_used / Math.max(1, state.engine.slots_total))]),
        fact(t("admin.waiting"), number(state.engine.queue_length)), fact(t("admin.memory"), [percent(state.engine.kv_cache_ratio), meter(state.engine.kv_cache_ratio)]))),
    h("section", { class: "card" }, h("h2", {}, t("admin.models")), h("dl", { class: "facts" }, state.models.flatMap((model) => fact(model.alias, t("admin.context", { tokens: compact(model.context_length) }))))),
    h("section", { class: "card" }, h("h2", {}, t("admin.database")), h("dl", { class: "facts" }, fact(t("admin.kind"), KINDS[state.database.kind] ?? state.database.kind), fact(t("admin.size"), bytes(state.database.bytes)),
      fact(t("admin.free"), bytes(state.disk.free)), fact(t("admin.version"), state.version)), state.database.kind === "sqlite" ? h("div", { class: "card-actions" }, backup) : null),
  ];
  if (boot.accounts) cards.push(await settingsCard());
  return h("div", { class: "grid" }, cards);
}

async function settingsCard() {
  const settings = await api.get("/api/admin/settings");
  const change = async (values) => {
    try {
      await api.patch("/api/admin/settings", values);
      toast(t("common.saved"), { kind: "good", ms: 2000 });
    } catch (error) {
      toast(error.message, { kind: "bad" });
    }
  };
  const check = (key, label, hint) => h("label", { class: "check" }, h("input", { type: "checkbox", checked: settings[key], onchange: (event) => change({ [key]: event.target.checked }) }), h("span", {}, label, h("small", {}, hint)));
  return h("section", { class: "card" }, h("h2", {}, t("admin.settings")),
    h("fieldset", {}, h("legend", {}, t("accounts.sign_up")), ["closed", "invite", "open"].map((mode) => h("label", { class: "check" },
      h("input", { type: "radio", name: "sign_up", value: mode, checked: settings.sign_up === mode, onchange: () => change({ sign_up: mode }) }), h("span", {}, t(`accounts.sign_up_${mode}`))))),
    check("ask_data_use", t("accounts.ask_data_use"), t("accounts.ask_data_use_hint")), check("sharing", t("admin.sharing"), t("admin.sharing_hint")), check("public_shares", t("admin.public_shares"), t("admin.public_shares_hint")));
}
