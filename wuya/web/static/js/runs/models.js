// The registry: what answers under which name, versions and where they come from, promote and roll back.

import { api } from "../api.js";
import { confirmDialog, openDialog, promptDialog, toast } from "../dialog.js";
import { $, fill, h, icon, iconButton, may, url } from "../dom.js";
import { load, number, percent, relative, t } from "../i18n.js";

await load("runs");
const root = $("#models");
let registry;

const kind = (name) => (name ? h("span", { class: "badge accent" }, t(`runs.kind_${name}`)) : null);
const CANARY = "@canary"; // how the engine calls an alias's canary
const failed = (error) => toast(error.message, { kind: "bad" });

async function refresh() {
  registry = await api.get("/api/registry");
  draw();
}

async function promote(version) {
  const names = [...new Set([...Object.keys(registry.serving), ...registry.aliases.map((row) => row.alias)])].filter((name) => !name.endsWith(CANARY));
  const alias = await openDialog({
    title: t("runs.promote_title", { name: version.name }),
    body: (close) => [h("p", {}, t("runs.promote_hint")), h("ul", { class: "palette" }, names.map((name) =>
      h("li", {}, h("button", { type: "button", class: "menu-item", onclick: () => close(name) }, icon("model"), name)))),
      h("button", { type: "button", class: "button", onclick: () => close("") }, icon("plus"), t("runs.new_alias"))],
  });
  if (alias === null) return;
  const name = alias || (await promptDialog({ title: t("runs.new_alias"), label: t("runs.alias"), maxlength: 80, action: t("runs.promote") }));
  if (!name) return;
  toast(t("runs.loading_model"), { ms: 2500 });
  try {
    await api.post(`/api/models/${encodeURIComponent(name.trim())}/promote`, { version_id: version.id });
    toast(t("runs.promoted", { alias: name, name: version.name }), { kind: "good" });
  } catch (error) {
    failed(error);
  }
  refresh();
}

async function rollBack(row) {
  const before = registry.versions.find((version) => version.id === row.history.at(-1));
  if (!(await confirmDialog({ title: t("runs.roll_back"), text: t("runs.roll_back_text", { alias: row.alias, name: before?.name || "?" }), action: t("runs.roll_back") }))) return;
  try {
    await api.post(`/api/models/${encodeURIComponent(row.alias)}/rollback`);
    toast(t("runs.rolled_back", { alias: row.alias }), { kind: "good" });
  } catch (error) {
    failed(error);
  }
  refresh();
}

/** Who gets how much of an alias's chats. @param {any} version @param {string} [known] the alias, where it is clear */
async function tryOut(version, known) {
  const names = Object.keys(registry.serving).filter((name) => !name.endsWith(CANARY));
  const row = registry.aliases.find((other) => other.alias === known);
  const alias = h("select", { class: "select", name: "alias" }, names.map((name) => h("option", { value: name, selected: name === known }, name)));
  const share = h("input", { class: "input", type: "number", name: "percent", min: 1, max: 100, required: true, value: row?.canary_pct || 10, autofocus: true });
  const values = await openDialog({
    title: t("runs.canary_title", { name: version.name }),
    body: () => [h("p", {}, t("runs.canary_hint")),
      known ? null : h("label", { class: "field" }, h("span", { class: "field-label" }, t("runs.alias")), alias),
      h("label", { class: "field" }, h("span", { class: "field-label" }, t("runs.canary_share")), share)].filter(Boolean),
    actions: (close) => [h("button", { type: "button", class: "button", onclick: () => close() }, t("common.cancel")),
      h("button", { type: "button", class: "button primary", dataset: { act: "start-canary" }, onclick: () => share.reportValidity() && close({ alias: known ?? alias.value, percent: Number(share.value) }) }, t("common.save"))],
  });
  if (values) await setCanary(values.alias, values.percent, version.id);
}

async function setCanary(alias, share, id) {
  if (share) toast(t("runs.loading_model"), { ms: 2500 });
  try {
    await api.post(`/api/models/${encodeURIComponent(alias)}/canary`, { percent: share, ...(id ? { version_id: id } : {}) });
    toast(t(share ? "runs.canary_set" : "runs.canary_ended", { alias, percent: percent(share / 100) }), { kind: "good" });
  } catch (error) {
    failed(error);
  }
  await refresh();
}

async function promoteCanary(row) {
  try {
    await api.post(`/api/models/${encodeURIComponent(row.alias)}/promote`, { version_id: row.canary_version_id });
    toast(t("runs.promoted", { alias: row.alias, name: row.canary }), { kind: "good" });
  } catch (error) {
    failed(error);
  }
  await refresh();
}

/** What people made of a version's answers in the chat. @param {string | null} id */
function opinions(id) {
  const found = registry.opinions[id] ?? { answers: 0, good: 0, bad: 0 };
  return h("p", { class: "muted small" }, t("runs.opinions", { answers: found.answers, good: found.good, bad: found.bad }));
}

/** The canary of an alias, and what can be done with it. */
function canaryCard(row, keeper) {
  const button = (name, onclick, extra = "") => h("button", { type: "button", class: `button small ${extra}`, dataset: { act: name }, onclick }, t(`runs.${name}`));
  return h("div", { class: "notice canary" }, h("div", { class: "stack" },
    h("div", { class: "row" }, h("b", { class: "wrap" }, row.canary), h("span", { class: "spacer" }), h("span", { class: "badge accent" }, t("runs.canary_of_chats", { percent: percent(row.canary_pct / 100) }))),
    opinions(row.canary_version_id),
    row.alias + CANARY in registry.serving ? null : h("p", { class: "small" }, icon("warning"), t("runs.canary_not_loaded")),
    keeper ? h("div", { class: "row" },
      button("canary_promote", () => promoteCanary(row), "primary"),
      button("canary_change", () => tryOut({ id: row.canary_version_id, name: row.canary }, row.alias)),
      button("canary_end", () => setCanary(row.alias, 0))) : null));
}

async function showLineage(version) {
  const { items } = await api.get(`/api/model-versions/${version.id}/lineage`);
  openDialog({ title: t("runs.lineage"), body: () => h("ol", { class: "stack" }, items.map((item, index) => h("li", { class: "row" },
    index ? icon("down") : icon("model"), h("b", { class: "wrap" }, item.name), kind(item.kind),
    item.reward_model ? h("small", { class: "muted wrap" }, t("runs.against", { name: item.reward_model })) : null))) });
}

const rate = (figures) => Object.entries(figures || {}).map(([name, figure]) => {
  const value = typeof figure === "number" ? figure : (figure?.mean ?? figure?.win_rate ?? figure?.value);
  return typeof value === "number" ? h("span", { class: "badge good" }, `${name.replaceAll("_", " ")} ${percent(value)}`) : null;
});

function draw() {
  const serving = Object.entries(registry.serving);
  const byAlias = Object.fromEntries(registry.aliases.map((row) => [row.alias, row]));
  const names = [...new Set([...serving.map(([name]) => name), ...Object.keys(byAlias)])].filter((name) => !name.endsWith(CANARY));
  const keeper = may("models");
  fill(root,
    h("h2", {}, t("runs.answering")),
    names.length ? h("div", { class: "grid", style: { margin: "12px 0 32px" } }, names.map((name) => {
      const row = byAlias[name];
      const live = registry.answering[name];
      return h("section", { class: "card stack" }, h("div", { class: "row" }, h("h3", { class: "wrap" }, name), h("span", { class: "spacer" }), h("span", { class: name in registry.serving ? "badge good" : "badge" }, h("span", { class: "dot" }), t(name in registry.serving ? "runs.live" : "runs.not_loaded"))),
        h("p", { class: "muted small wrap", title: live?.path || null }, live?.name || row?.version || ""),
        row?.active_version_id ? opinions(row.active_version_id) : null,
        row?.canary_version_id ? canaryCard(row, keeper) : null,
        keeper && row?.history.length && !row.canary_version_id ? h("div", {}, h("button", { type: "button", class: "button small", onclick: () => rollBack(row) }, icon("undo"), t("runs.roll_back"))) : null);
    })) : h("p", { class: "muted" }, t("runs.no_models")),
    h("h2", {}, t("runs.versions")),
    registry.versions.length ? h("div", { class: "table-wrap", style: { margin: "12px 0 32px" } }, h("table", { class: "table stacked" },
      h("thead", {}, h("tr", {}, ["name", "kind", "from", "state", "created", ""].map((name) => h("th", { scope: "col" }, name ? t(`runs.${name}`) : h("span", { class: "visually-hidden" }, t("runs.actions")))))),
      h("tbody", {}, registry.versions.map((version) => h("tr", {},
        h("td", { class: "full wrap" }, h("b", {}, version.name), version.ctx_len ? h("small", { class: "muted" }, ` ${t("runs.context", { tokens: number(version.ctx_len) })}`) : null),
        h("td", { class: version.kind ? "" : "empty-cell" }, kind(version.kind) ?? "\u2013"), h("td", { class: version.parent ? "wrap muted" : "empty-cell" }, [version.parent, version.reward_model && t("runs.against", { name: version.reward_model })].filter(Boolean).join(" \u00b7 ") || "\u2013"),
        h("td", {}, h("span", { class: version.state === "live" ? "badge good" : "badge" }, t(`runs.state_${version.state}`))), h("td", { class: "muted" }, relative(version.created_at)),
        h("td", { class: "full" }, h("div", { class: "row" }, keeper && version.has_weights && version.kind !== "rm" ? h("button", { type: "button", class: "button small primary", onclick: () => promote(version) }, t("runs.promote")) : null,
          keeper && version.has_weights && version.kind !== "rm" && serving.length ? h("button", { type: "button", class: "button small", dataset: { act: "canary" }, onclick: () => tryOut(version) }, t("runs.canary")) : null,
          iconButton("branch", t("runs.lineage"), { onclick: () => showLineage(version).catch(failed) })))))))) : h("p", { class: "muted", style: { margin: "12px 0 32px" } }, t("runs.no_versions")),
    registry.found.length ? [h("h2", {}, t("runs.found")), h("div", { class: "grid", style: { margin: "12px 0" } }, registry.found.map((item) => h("section", { class: "card stack" },
      h("div", { class: "row" }, h("a", { class: "run-name wrap", href: url(`/runs/${encodeURIComponent(item.run)}`) }, item.name), h("span", { class: "spacer" }), kind(item.kind)),
      h("div", { class: "row" }, rate(item.win_rate)),
      h("div", { class: "row" }, h("small", { class: "muted" }, item.created_at ? relative(item.created_at) : ""), h("span", { class: "spacer" }),
        keeper ? h("button", { type: "button", class: "button small", onclick: () => api.post("/api/model-versions", { run: item.run }).then(refresh, failed) }, t("runs.register")) : null))))] : null);
  root.removeAttribute("aria-busy");
}

await refresh().catch((error) => fill(root, h("div", { class: "notice bad" }, icon("warning"), error.message)));
