// Making and changing a key, and the one time its secret is shown.

import { api } from "../api.js";
import { openDialog } from "../dialog.js";
import { h, icon, pageData } from "../dom.js";
import { date, t } from "../i18n.js";
import { copyLine } from "./copyline.js";

const LIMITS = ["rpm", "tpm", "monthly_tokens"];
const LIFETIMES = [0, 30, 90, 365];

/** Ask for a new key and show it; whether one was made. */
export async function newKey() {
  const made = await keyForm({ title: t("keys.new"), action: t("keys.create"), send: (values) => api.post("/api/keys", values) });
  if (made) await showSecret(made.secret, made.key);
  return Boolean(made);
}

/** Change a key's settings; whether it was. */
export async function editKey(key) {
  return Boolean(await keyForm({ key, title: t("keys.edit_title", { name: key.name }), action: t("common.save"), send: (values) => api.patch(`/api/keys/${key.id}`, values) }));
}

/** The secret, once, with a line to try it. */
export function showSecret(secret, key) {
  const model = key.models[0] || pageData().models[0] || "MODEL";
  const line = `curl ${pageData().api_base}/chat/completions \\\n  -H "Authorization: Bearer ${secret}" \\\n  -H "Content-Type: application/json" \\\n  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`;
  return openDialog({
    title: t("keys.secret_title"),
    wide: true,
    body: () => [
      h("p", { class: "notice warn" }, icon("warning"), h("span", {}, t("keys.secret_text"))),
      copyLine(secret, t("keys.secret_title")),
      key.scopes.includes("chat") ? [h("p", {}, t("keys.try_it")), copyLine(line, t("keys.try_it"))] : null,
    ].flat().filter(Boolean),
    actions: (close) => h("button", { type: "button", class: "button primary", autofocus: true, onclick: () => close(true) }, t("keys.stored")),
  });
}

/** The most that keys of people who are no admins may have. */
export async function limitsDialog(limits) {
  const fields = numberFields(limits);
  return Boolean(await formDialog({
    title: t("keys.limits"),
    action: t("common.save"),
    body: () => [h("p", {}, t("keys.limits_text")), h("div", { class: "two" }, fields.nodes)],
    send: () => api.put("/api/keys/limits", fields.values()),
  }));
}

function keyForm({ key, title, action, send }) {
  const { scopes, models } = pageData();
  const name = h("input", { class: "input", maxlength: 80, required: true, value: key?.name ?? "", autofocus: true, name: "name" });
  const chosenScopes = checks(scopes, key?.scopes ?? ["chat", "completions", "embeddings"]);
  const known = [...new Set([...models, ...(key?.models ?? [])])];
  const chosenModels = checks(known, key?.models ?? []);
  const expiry = h("select", { class: "select", name: "expires" },
    key?.expires_at ? h("option", { value: key.expires_at, selected: true }, date(key.expires_at)) : null,
    LIFETIMES.map((days) => h("option", { value: days }, days ? t("keys.days", { count: days }) : t("keys.never"))));
  const fields = numberFields(key ?? {});
  const values = () => ({
    name: name.value,
    scopes: chosenScopes.values(),
    models: chosenModels.values(),
    expires_at: expires(expiry.value),
    ...fields.values(),
  });
  return formDialog({
    title,
    action,
    send: () => send(values()),
    body: () => [
      field(t("keys.name"), name, t("keys.name_hint")),
      h("fieldset", {}, h("legend", {}, t("keys.col_scopes")), h("div", { class: "choices" }, chosenScopes.nodes)),
      known.length > 1 ? h("fieldset", {}, h("legend", {}, t("keys.models_legend")), h("div", { class: "choices" }, chosenModels.nodes)) : null,
      h("div", { class: "two" }, field(t("keys.col_expires"), expiry), fields.nodes),
    ],
  });
}

/** A dialog whose form stays open, with the reason, until the server says yes; resolves with its answer or null. */
function formDialog({ title, body, action, send }) {
  const failure = h("p", { class: "field-error", role: "alert", hidden: true });
  return openDialog({
    title,
    body: () => [...body().filter(Boolean), failure],
    actions: (close) => {
      const submit = h("button", { type: "submit", class: "button primary" }, action);
      submit.addEventListener("click", async () => {
        if (!submit.form.reportValidity()) return;
        submit.disabled = true;
        try {
          close(await send());
        } catch (error) {
          failure.textContent = error.message;
          failure.hidden = false;
          submit.disabled = false;
        }
      });
      return [h("button", { type: "button", class: "button", onclick: () => close() }, t("common.cancel")), submit];
    },
  });
}

const field = (label, input, hint) =>
  h("label", { class: "field" }, h("span", { class: "field-label" }, label), input, hint ? h("span", { class: "field-hint" }, hint) : null);

function checks(names, chosen) {
  const boxes = names.map((name) => h("input", { type: "checkbox", value: name, checked: chosen.includes(name) }));
  return {
    nodes: boxes.map((box) => h("label", { class: "check" }, box, box.value)),
    values: () => boxes.filter((box) => box.checked).map((box) => box.value),
  };
}

function numberFields(values) {
  const inputs = LIMITS.map((name) =>
    h("input", { class: "input", type: "number", min: 1, max: 2147483647, step: 1, name, value: values[name] ?? "", placeholder: t("keys.no_limit") }));
  return {
    nodes: inputs.map((input) => field(t(`keys.${input.name}`), input)),
    values: () => Object.fromEntries(inputs.map((input) => [input.name, input.value ? Number(input.value) : null])),
  };
}

function expires(value) {
  if (!/^\d+$/.test(value)) return value;
  return value === "0" ? null : new Date(Date.now() + Number(value) * 86400000).toISOString();
}
