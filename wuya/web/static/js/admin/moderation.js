// Rules on what goes in and comes out, and the queue where moderators decide.

import { api } from "../api.js";
import { openDialog, toast } from "../dialog.js";
import { fill, h, icon, iconButton } from "../dom.js";
import { number, relative, t } from "../i18n.js";

const failed = (error) => toast(error.message, { kind: "bad" });

export async function moderationView() {
  const queue = h("div", { class: "stack" });
  const rules = h("div", { class: "stack" });
  await Promise.all([drawQueue(queue), drawRules(rules)]);
  return h("div", { class: "stack" }, h("h2", {}, t("admin.queue")), queue, h("h2", {}, t("admin.rules")), rules);
}

async function drawQueue(place) {
  const { items } = await api.get("/api/admin/moderation/queue");
  fill(place, items.length ? h("div", { class: "table-wrap" }, h("table", { class: "table" },
    h("thead", {}, h("tr", {}, ["when", "stage", "rule", "person", ""].map((name) => h("th", { scope: "col" }, name ? t(`admin.${name}`) : h("span", { class: "visually-hidden" }, t("admin.actions")))))),
    h("tbody", {}, items.map((item) => h("tr", {}, h("td", { class: "muted" }, relative(item.created_at)), h("td", {}, h("span", { class: "badge" }, t(`admin.stage_${item.stage}`))),
      h("td", { class: "wrap" }, item.stage === "report" ? t(`admin.reason_${item.rule}`) : item.rule, item.action === "block" ? h("span", { class: "badge bad" }, t("admin.action_block")) : null), h("td", { class: "wrap" }, item.user_name || "\u2013"),
      h("td", { class: "num" }, h("button", { type: "button", class: "button small", onclick: () => look(item, place).catch(failed) }, t("admin.look"))))))))
    : h("div", { class: "notice" }, icon("check"), t("admin.queue_empty")));
}

async function look(item, place) {
  const event = await api.post(`/api/admin/moderation/queue/${item.id}/open`);
  const note = h("textarea", { class: "textarea", maxlength: 2000, "aria-label": t("admin.note") });
  const decision = await openDialog({
    title: t("admin.decide"), wide: true,
    body: () => [h("p", { class: "muted small" }, t("admin.look_audited")),
      event.note ? h("p", {}, event.note) : null,
      event.messages.length ? event.messages.map((message) => h("article", { class: "card" }, h("b", { class: "muted small" }, t(`admin.role_${message.role}`)), h("p", { class: "wrap", style: { "white-space": "pre-wrap" } }, message.content)))
        : h("p", { class: "muted" }, t("admin.no_text")),
      h("label", { class: "field" }, h("span", { class: "field-label" }, t("admin.note")), note)],
    actions: (close) => ["dismiss", "warn", "hide", "suspend"].map((name) => h("button", { type: "button", class: name === "suspend" ? "button danger" : "button", onclick: () => close(name) }, t(`admin.decision_${name}`))),
  });
  if (!decision) return;
  await api.post(`/api/admin/moderation/queue/${item.id}`, { decision, note: note.value }).catch(failed);
  await drawQueue(place);
}

async function drawRules(place) {
  const { items } = await api.get("/api/admin/moderation/rules");
  const save = async (rules) => {
    try {
      await api.put("/api/admin/moderation/rules", { items: rules });
      await drawRules(place);
    } catch (error) {
      failed(error);
    }
  };
  fill(place,
    items.length ? null : h("p", { class: "muted" }, t("admin.no_rules")),
    items.map((rule, index) => h("section", { class: "card row" }, h("div", { style: { flex: "1 1 260px" } }, h("h3", { class: "wrap" }, rule.name),
      h("p", { class: "muted small wrap" }, rule.scorer ? `${rule.scorer} ${rule.below ? "<" : ">"} ${number(rule.threshold)}` : rule.words.slice(0, 12).join(", ") + (rule.words.length > 12 ? " \u2026" : ""))),
      rule.stages.map((stage) => h("span", { class: "badge" }, t(`admin.stage_${stage}`))), h("span", { class: rule.action === "block" ? "badge bad" : "badge warn" }, t(`admin.action_${rule.action}`)),
      rule.enabled ? null : h("span", { class: "badge" }, t("admin.off")),
      iconButton("edit", t("common.edit"), { onclick: async () => {
        const changed = await editRule(rule);
        if (changed) await save(items.with(index, changed));
      } }), iconButton("trash", t("common.delete"), { onclick: () => save(items.toSpliced(index, 1)) }))),
    h("div", { class: "row" }, h("button", { type: "button", class: "button primary", onclick: async () => {
      const rule = await editRule({ name: "", stages: ["input"], action: "flag", words: [], scorer: "", threshold: 0, below: false, enabled: true });
      if (rule) await save([...items, rule]);
    } }, icon("plus"), t("admin.new_rule")), h("button", { type: "button", class: "button", onclick: tryRules }, t("admin.try_rules"))));
}

function editRule(rule) {
  const name = h("input", { class: "input", value: rule.name, maxlength: 80, autofocus: true });
  const words = h("textarea", { class: "textarea", value: rule.words.join("\n"), rows: 6 });
  const scorer = h("input", { class: "input", value: rule.scorer, placeholder: "runs/demo/reward", maxlength: 500 });
  const threshold = h("input", { class: "input", type: "number", step: "any", value: rule.threshold });
  const below = h("input", { type: "checkbox", checked: rule.below });
  const action = h("select", { class: "select" }, ["flag", "block"].map((value) => h("option", { value, selected: value === rule.action }, t(`admin.action_${value}`))));
  const enabled = h("input", { type: "checkbox", checked: rule.enabled });
  const stages = ["input", "output"].map((stage) => h("input", { type: "checkbox", value: stage, checked: rule.stages.includes(stage) }));
  const field = (label, node, hint) => h("label", { class: "field" }, h("span", { class: "field-label" }, label), node, hint ? h("span", { class: "field-hint" }, hint) : null);
  return openDialog({
    title: t(rule.id ? "admin.rule" : "admin.new_rule"),
    body: () => [field(t("admin.name"), name), h("fieldset", {}, h("legend", {}, t("admin.looks_at")), stages.map((box) => h("label", { class: "check" }, box, t(`admin.stage_${box.value}`)))),
      field(t("admin.words"), words, t("admin.words_hint")), field(t("admin.scorer"), scorer, t("admin.scorer_hint")), h("div", { class: "row" }, field(t("admin.threshold"), threshold), h("label", { class: "check" }, below, t("admin.below"))),
      field(t("admin.then"), action), h("label", { class: "check" }, enabled, t("admin.on"))],
    actions: (close) => h("button", { type: "button", class: "button primary", onclick: () => close({ id: rule.id || "", name: name.value.trim(), stages: stages.filter((box) => box.checked).map((box) => box.value), action: action.value,
      words: words.value.split("\n").map((word) => word.trim()).filter(Boolean), scorer: scorer.value.trim(), threshold: Number(threshold.value) || 0, below: below.checked, enabled: enabled.checked }) }, t("common.save")),
  });
}

function tryRules() {
  const text = h("textarea", { class: "textarea", autofocus: true, "aria-label": t("admin.try_text") });
  const answer = h("p", { role: "status" });
  const ask = async () => {
    const found = await api.post("/api/admin/moderation/try", { text: text.value }).catch(failed);
    if (found) answer.textContent = found.fired ? t("admin.fired", { rule: found.rule, found: found.found || number(found.score ?? 0) }) : t("admin.not_fired");
  };
  openDialog({ title: t("admin.try_rules"), body: () => [text, answer], actions: () => h("button", { type: "button", class: "button primary", onclick: ask }, t("admin.try_rules")) });
}
