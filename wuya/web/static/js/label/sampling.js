// Answers to rank, written by the service's own models: what to ask for, and how far it is.

import { api } from "../api.js";
import { h } from "../dom.js";
import { openDialog, toast } from "../dialog.js";
import { number, t } from "../i18n.js";
import { field, numeric } from "./project.js";

const MS_BETWEEN_LOOKS = 1000;

/** True if tasks were added. */
export async function sampleDialog(project) {
  const path = `/api/admin/projects/${project.id}/sample`;
  let job = await api.get(path);
  const models = job.models.map((alias, at) => h("input", { type: "checkbox", value: alias, checked: at === 0 }));
  const k = numeric(Math.min(Math.max(4, project.k_min), project.k_max), Math.max(2, project.k_min), project.k_max);
  const count = numeric(100, 1, 100000);
  const tokens = numeric(256, 1, 8192);
  const temperature = h("input", { class: "input", type: "number", min: 0.1, max: 2, step: 0.1, value: 1 });
  const split = h("select", { class: "select" }, ["train", "val", "test"].map((one) => h("option", { value: one }, one)));
  const place = h("div", { class: "stack", "aria-live": "polite" });
  const go = h("button", { type: "button", class: "button primary", onclick: () => toggle().catch(told) }, "");
  let timer = 0;
  show();
  await openDialog({
    title: t("label.sample_answers"),
    body: () => place,
    actions: (close) => [h("button", { type: "button", class: "button", onclick: () => close() }, t("common.close")), go],
  });
  clearTimeout(timer);
  return job.added > 0;

  function form() {
    return [
      h("fieldset", {}, h("legend", {}, t("label.sample_models")), models.map((box) => h("label", { class: "check" }, box, box.value))),
      h("div", { class: "form-grid" }, field(t("label.sample_k"), k), field(t("label.from_prompts"), count, t("label.from_prompts_hint")), field(t("label.split"), split), field(t("label.sample_temperature"), temperature), field(t("label.sample_tokens"), tokens)),
    ];
  }
  function show() {
    const running = job.state === "running";
    const line = job.state === "none" ? null : h("p", { class: job.state === "failed" ? "notice bad" : "muted", role: "status" }, t(`label.sampling_${job.state}`, { asked: number(job.asked), total: number(job.total), added: number(job.added), alike: number(job.too_alike) }), job.error ? ` ${job.error}` : "");
    place.replaceChildren(...[line, running ? h("progress", { max: job.total || 1, value: job.asked, "aria-label": t("label.sample_answers") }) : null, ...(running ? [] : form())].filter(Boolean));
    go.textContent = t(running ? "label.sample_stop" : "label.sample_start");
    clearTimeout(timer);
    if (running) timer = setTimeout(() => api.get(path).then((found) => ((job = found), show())).catch(told), MS_BETWEEN_LOOKS);
  }
  async function toggle() {
    if (job.state === "running") {
      job = await api.delete(path);
    } else {
      const chosen = models.filter((box) => box.checked).map((box) => box.value);
      if (!chosen.length) throw new Error(t("label.sample_choose"));
      job = await api.post(path, { models: chosen, k: Number(k.value), prompts: Number(count.value), split: split.value, temperature: Number(temperature.value), max_tokens: Number(tokens.value), round: 0 });
    }
    show();
  }
  function told(error) {
    toast(error.message, { kind: "bad" });
  }
}
