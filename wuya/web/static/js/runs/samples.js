// Answers of a run by step: sorted, with scores, and the same prompt in other steps and stages.

import { api } from "../api.js";
import { short } from "../charts.js";
import { openDialog } from "../dialog.js";
import { fill, h, icon, iconButton } from "../dom.js";
import { number, t } from "../i18n.js";
import { shortcuts } from "../keys.js";

/** "user: ..." turns of a prompt in chat format; the text itself where it has none. */
export function turns(prompt) {
  const found = [...prompt.matchAll(/<\|im_start\|>(\w+)\n([\s\S]*?)(?:<\|im_end\|>|$)/g)].map((m) => ({ role: m[1], text: m[2] })).filter((turn) => turn.text.trim());
  return found.length ? found : [{ role: "user", text: prompt }];
}

const clean = (text) => text.replace(/<\|im_end\|>$/, "");

export function sampleCard(sample, { heading } = {}) {
  const facts = Object.entries(sample).filter(([key, value]) => typeof value === "number" && !["step", "idx"].includes(key));
  return h("article", { class: "sample", "aria-label": heading || t("runs.sample") },
    heading ? h("b", {}, heading) : null,
    turns(sample.prompt || "").map((turn) => h("div", { class: "sample-turn" }, h("b", {}, t(`runs.role_${turn.role}`)), h("p", {}, turn.text))),
    h("div", { class: "sample-turn answer" }, h("b", {}, t("runs.answer")), h("p", {}, clean(sample.completion || ""))),
    sample.reference ? h("div", { class: "sample-turn" }, h("b", {}, t("runs.reference")), h("p", {}, sample.reference)) : null,
    sample.demonstration ? h("div", { class: "sample-turn" }, h("b", {}, t("runs.demonstration")), h("p", {}, sample.demonstration)) : null,
    h("div", { class: "sample-facts" },
      facts.map(([key, value]) => h("span", { class: "badge" }, `${key} ${short(value)}`)),
      sample.finish_reason ? h("span", { class: "badge" }, sample.finish_reason) : null,
      heading ? null : h("button", { type: "button", class: "button quiet small", onclick: () => across(sample.prompt) }, icon("branch"), t("runs.same_prompt"))));
}

async function across(prompt) {
  const { items } = await api.get(`/api/runs/same-prompt?prompt=${encodeURIComponent(prompt.slice(0, 7000))}`);
  openDialog({
    title: t("runs.same_prompt"), wide: true,
    body: () => h("div", { class: "samples" }, items.map((item) => sampleCard({ ...item, prompt: "" , completion: item.completion }, { heading: `${item.name} \u00b7 ${t("runs.step_of", { step: number(item.step) })}` }))),
  });
}

export function samplesView(id) {
  const place = h("div", { class: "samples", "aria-live": "off" });
  const bars = h("div", { class: "histogram", role: "group" });
  const state = { step: null, steps: [], sort: "order", bin: null };
  const label = h("span", { class: "mono" });
  const slider = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": t("runs.samples_step"), oninput: () => move(Number(slider.value) - state.steps.indexOf(state.step)) });
  const sort = h("select", { class: "select", "aria-label": t("runs.sort"), onchange: () => (Object.assign(state, { sort: sort.value, bin: null }), draw()) },
    ["order", "-score", "score", "-kl", "kl", "length"].map((name) => h("option", { value: name }, t(`runs.sort_${name.replace("-", "high_")}`))));
  const section = h("section", { style: { margin: "32px 0" }, hidden: true }, h("h2", { style: { "margin-bottom": "12px" } }, t("runs.samples")),
    h("div", { class: "toolbar" }, iconButton("left", t("runs.step_before"), { onclick: () => move(-1) }), h("div", { style: { width: "160px" } }, slider),
      iconButton("right", t("runs.step_after"), { onclick: () => move(1) }), label, h("span", { class: "spacer" }), sort), bars, place);

  function move(by) {
    const at = state.steps.indexOf(state.step) + by;
    if (at >= 0 && at < state.steps.length) {
      Object.assign(state, { step: state.steps[at], bin: null });
      draw();
    }
  }

  async function draw() {
    const query = new URLSearchParams({ sort: state.sort, ...(state.step === null ? {} : { step: state.step }), ...(state.bin === null ? {} : { bin: state.bin }) });
    const turn = (state.turn = Symbol("request"));
    const page = await api.get(`/api/runs/${encodeURIComponent(id)}/samples?${query}`);
    if (turn !== state.turn) return; // another step was chosen meanwhile
    Object.assign(state, { steps: page.steps, step: page.step });
    section.hidden = !page.steps.length;
    slider.max = Math.max(0, page.steps.length - 1);
    slider.value = page.steps.indexOf(page.step);
    slider.hidden = page.steps.length < 2;
    label.textContent = t("runs.step_of", { step: number(page.step ?? 0) });
    drawBars(page.histogram);
    fill(place, page.items.map((sample) => sampleCard(sample)));
  }

  /** How the step's answers are spread; a click on a bar shows only its answers, another click all. */
  function drawBars({ key, bins }) {
    bars.hidden = bins.length < 2;
    bars.setAttribute("aria-label", t("runs.histogram", { name: key }));
    const most = Math.max(...bins.map((bin) => bin.count), 1);
    const text = (bin) => t("runs.histogram_bin", { name: key, low: short(bin.low), high: short(bin.high), count: bin.count });
    fill(bars, bins.map((bin, index) => h("button", { type: "button", class: "bar", title: text(bin), "aria-label": text(bin), "aria-pressed": String(index === state.bin), disabled: !bin.count,
      onclick: () => ((state.bin = index === state.bin ? null : index), draw().then(() => bars.children[index]?.focus())) },
    h("span", { class: "bar-fill", style: { "--height": `${Math.round((100 * bin.count) / most)}%` } }), index === 0 || index === bins.length - 1 ? h("small", {}, short(index ? bin.high : bin.low)) : null)));
  }

  shortcuts("runs.samples", [
    { keys: "ArrowLeft", label: "runs.step_before", run: () => move(-1), when: () => !section.hidden },
    { keys: "ArrowRight", label: "runs.step_after", run: () => move(1), when: () => !section.hidden },
  ]);
  draw().catch(() => {});
  return section;
}
