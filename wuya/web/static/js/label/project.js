// Dialogs of the lead: a project's settings, and tasks from a file or from imported prompts.

import { api, request } from "../api.js";
import { h } from "../dom.js";
import { openDialog, toast } from "../dialog.js";
import { number, t } from "../i18n.js";

const TYPES = ["ranking", "demonstration", "pairwise", "metadata"];
export const field = (label, input, hint) => h("label", { class: "field" }, h("span", { class: "field-label" }, label), input, hint ? h("span", { class: "field-hint" }, hint) : null);
export const numeric = (value, min, max, step = 1) => h("input", { class: "input", type: "number", value: String(value), min, max, step });

/** Make a project (null) or change one; its id, or null. */
export async function projectDialog(project) {
  const settings = { quiz_size: 0, pass_score: 0.75, raise_target: 3, min_agreement: 0.6, ...(project?.settings ?? {}) };
  const name = h("input", { class: "input", maxlength: 120, value: project?.name ?? "", autofocus: true, required: true });
  const type = h("select", { class: "select", disabled: Boolean(project) }, TYPES.map((one) => h("option", { value: one, selected: one === (project?.type ?? "ranking") }, t(`label.type_${one}`))));
  const guide = h("textarea", { class: "textarea", rows: 6, value: project?.guide_md ?? "", placeholder: t("label.guide_placeholder") });
  const parts = {
    overlap: numeric(project?.overlap ?? 1, 1, 20),
    double_rate: numeric(Math.round(100 * (project?.double_rate ?? 0.15)), 0, 100),
    gold_rate: numeric(Math.round(100 * (project?.gold_rate ?? 0.08)), 0, 100),
    lease_minutes: numeric(project?.lease_minutes ?? 45, 1, 1440),
    quiz_size: numeric(settings.quiz_size, 0, 50),
    pass_score: numeric(Math.round(100 * settings.pass_score), 0, 100),
  };
  const asked = (project?.label_schema?.answers ?? []).concat(project?.label_schema?.prompt ?? []);
  const required = asked.map((question) => h("input", { type: "checkbox", value: question.key, checked: (project?.require_fields ?? []).includes(question.key) }));
  const open = h("select", { class: "select" }, ["open", "paused", "closed"].map((one) => h("option", { value: one, selected: one === (project?.state ?? "open") }, t(`label.project_${one}`))));
  return openDialog({
    title: t(project ? "label.settings" : "label.new_project"),
    wide: true,
    body: () => [
      h("div", { class: "form-grid" }, field(t("label.name"), name), field(t("label.kind"), type), project ? field(t("label.state"), open) : null),
      field(t("label.guide"), guide, t("label.guide_field_hint")),
      h("div", { class: "form-grid three" }, Object.entries(parts).map(([key, input]) => field(t(`label.set_${key}`), input, t(`label.set_${key}_hint`)))),
      asked.length ? h("fieldset", {}, h("legend", {}, t("label.required_fields")), h("div", { class: "topic-list" }, asked.map((question, at) => h("label", { class: "check" }, required[at], t(`label.q_${question.key}`))))) : null,
    ],
    actions: (close) => [
      h("button", { type: "button", class: "button", onclick: () => close() }, t("common.cancel")),
      h("button", { type: "button", class: "button primary", onclick: save(close) }, t("common.save")),
    ],
  });
  function save(close) {
    return async () => {
      const body = {
        name: name.value.trim(),
        guide_md: guide.value,
        overlap: Number(parts.overlap.value),
        double_rate: Number(parts.double_rate.value) / 100,
        gold_rate: Number(parts.gold_rate.value) / 100,
        lease_minutes: Number(parts.lease_minutes.value),
        settings: { quiz_size: Number(parts.quiz_size.value), pass_score: Number(parts.pass_score.value) / 100 },
      };
      try {
        if (project) {
          await api.patch(`/api/admin/projects/${project.id}`, { ...body, state: open.value, require_fields: required.filter((box) => box.checked).map((box) => box.value) });
          close(project.id);
        } else close((await api.post("/api/admin/projects", { ...body, type: type.value })).id);
      } catch (error) {
        toast(error.message, { kind: "bad" });
      }
    };
  }
}

/** Queue tasks: a JSONL file of prompts with candidates, or approved prompts. */
export async function tasksDialog(project) {
  const answers = project.type === "ranking" || project.type === "pairwise";
  const file = h("input", { class: "input", type: "file", accept: ".jsonl,.json,.ndjson", autofocus: true });
  const count = numeric(100, 1, 100000);
  const split = h("select", { class: "select" }, ["train", "val", "test"].map((one) => h("option", { value: one }, one)));
  return openDialog({
    title: t("label.add_tasks"),
    body: () => [
      field(t("label.tasks_file"), file, t(answers ? "label.tasks_file_hint" : "label.tasks_file_hint_plain")),
      answers ? null : h("div", { class: "form-grid" }, field(t("label.from_prompts"), count, t("label.from_prompts_hint")), field(t("label.split"), split)),
    ],
    actions: (close) => [
      h("button", { type: "button", class: "button", onclick: () => close() }, t("common.cancel")),
      h("button", { type: "button", class: "button primary", onclick: () => add().then((done) => done && close(true)).catch((error) => toast(error.message, { kind: "bad" })) }, t("label.add_tasks")),
    ],
  });
  async function add() {
    if (!file.files.length) {
      if (answers) return false;
      return told(await api.post("/api/tasks/bulk", { project: project.id, from_prompts: Number(count.value), split: split.value }));
    }
    const text = await file.files[0].text();
    const rows = text.trim().startsWith("[") ? JSON.parse(text) : text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
    const total = { added: 0, known: 0, gold: 0 };
    for (let start = 0; start < rows.length; start += 200) {
      const tasks = rows.slice(start, start + 200).map(({ prompt, messages, candidates, responses, id, source, author, gold }) => ({ prompt: prompt ?? messages, candidates: candidates ?? responses ?? [], ...(id ? { id: String(id) } : {}), source: source ?? "", author: author ?? "", ...(gold ? { gold } : {}) }));
      const report = await api.post("/api/tasks/bulk", { project: project.id, tasks });
      for (const key of Object.keys(total)) total[key] += report[key];
    }
    return told(total);
  }
  function told(report) {
    toast(t("label.tasks_added", { added: number(report.added), known: number(report.known) }), { kind: "good" });
    return true;
  }
}

/** Import prompts from a file, and say what became of each. */
export async function importDialog() {
  const file = h("input", { class: "input", type: "file", accept: ".jsonl,.json,.ndjson,.csv,.txt", autofocus: true });
  const personal = h("select", { class: "select" }, ["redact", "drop", "keep"].map((one) => h("option", { value: one }, t(`label.personal_${one}`))));
  const lang = h("input", { class: "input", maxlength: 20, placeholder: "en" });
  const source = h("input", { class: "input", maxlength: 120, value: "import" });
  const screen = h("input", { type: "checkbox" });
  const report = await openDialog({
    title: t("label.import_prompts"),
    body: () => [field(t("label.import_file"), file, t("label.import_hint")), h("div", { class: "form-grid" }, field(t("label.personal"), personal), field(t("label.language"), lang), field(t("label.source"), source)), h("label", { class: "check" }, screen, t("label.screen_first"))],
    actions: (close) => [
      h("button", { type: "button", class: "button", onclick: () => close() }, t("common.cancel")),
      h("button", { type: "button", class: "button primary", onclick: () => send().then(close).catch((error) => toast(error.message, { kind: "bad" })) }, t("label.import_prompts")),
    ],
  });
  if (!report) return false;
  const lines = ["added", "duplicates", "near_duplicates", "over_limit", "personal_data", "dropped_personal_data", "bad"];
  await openDialog({ title: t("label.imported"), body: () => h("dl", { class: "facts" }, lines.map((key) => [h("dt", {}, t(`label.report_${key}`)), h("dd", { class: "num" }, number(report[key]))]), Object.entries(report.splits).map(([name, value]) => [h("dt", {}, name), h("dd", { class: "num" }, number(value))])) });
  return true;
  async function send() {
    if (!file.files.length) throw new Error(t("label.choose_file"));
    const csv = file.files[0].name.endsWith(".csv");
    const path = `/api/prompts/import?personal=${personal.value}&lang=${encodeURIComponent(lang.value)}&source=${encodeURIComponent(source.value)}&screen=${screen.checked}`;
    return request("POST", path, await file.files[0].text(), { raw: true, headers: { "content-type": csv ? "text/csv" : "application/x-ndjson" } });
  }
}
