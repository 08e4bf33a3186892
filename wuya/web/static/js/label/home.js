// L1: what waits for a labeler, how it went, and the way in (guide, consent, quiz).

import { api } from "../api.js";
import { $, fill, h, icon, may, url } from "../dom.js";
import { duration, load, number, percent, t } from "../i18n.js";
import { openDialog, toast } from "../dialog.js";
import { drawBlocks } from "../markdown.js";
import { shortcuts, showKeys } from "../keys.js";
import { standardGuide } from "./frame.js";
import { goNext } from "./session.js";

await load("label", "chat");
const root = $("#label-app");
const ICONS = { ranking: "sliders", demonstration: "edit", pairwise: "compare", metadata: "label" };
const TOPICS = ["violence", "sexual", "politics", "religion", "medical", "hate"];
let projects = [];

async function refresh() {
  try {
    projects = (await api.get("/api/label/projects")).items;
    draw();
  } catch (error) {
    fill(root, h("div", { class: "page" }, h("div", { class: "empty" }, icon("warning"), h("h1", {}, t("label.cannot_load")), h("p", {}, error.message), h("button", { type: "button", class: "button", onclick: refresh }, t("common.retry")))));
  }
  root.removeAttribute("aria-busy");
}

const ready = (project) => project.figures.state === "passed" || project.figures.state === "in_quiz";
const hasWork = (project) => project.waiting > 0 || project.figures.drafts > 0 || project.figures.state === "in_quiz";

function draw() {
  const best = projects.find((project) => ready(project) && hasWork(project));
  const back = projects.flatMap((project) => project.sent_back.map((item) => ({ ...item, project })));
  fill(root, h("div", { class: "page label-home" },
    h("header", { class: "page-head" }, h("h1", {}, t("label.title")), h("span", { class: "spacer" }),
      h("button", { type: "button", class: "button quiet wide-only", onclick: showKeys }, icon("keyboard"), t("label.keys")),
      may("label:lead") ? h("a", { class: "button", href: url("/label/review") }, icon("eye"), t("label.review_page")) : null,
      best ? h("button", { type: "button", class: "button primary", onclick: () => start(best) }, t("label.start_next", { type: t(`label.type_${best.type}`) }), h("kbd", { class: "wide-only" }, "↵")) : null),
    projects.length ? summary() : null,
    back.length ? h("section", { class: "sent-back", "aria-label": t("label.messages") }, back.map((item) => h("a", { class: "notice warn", href: url(`/label/tasks/${item.id}`) }, icon("info"), h("span", {}, h("strong", {}, t("label.sent_back")), " ", item.note)))) : null,
    projects.length ? h("ul", { class: "project-list" }, projects.map(projectCard)) : nothing(),
    projects.length ? h("p", { class: "fine-print" }, t("label.what_is_kept"), " ", h("a", { href: url("/api/label/me/export"), download: "" }, t("label.my_data"))) : null));
}

const nothing = () => h("div", { class: "empty" }, icon("label"), h("h2", {}, t("label.no_projects")), h("p", {}, t(may("label:lead") ? "label.no_projects_lead" : "label.no_projects_text")), may("label:lead") ? h("a", { class: "button primary", href: url("/label/review") }, icon("plus"), t("label.new_project")) : null);

/** The labeler's own figures, over all projects. */
function summary() {
  const all = projects.map((project) => project.figures);
  const sum = (key) => all.reduce((total, figures) => total + figures[key], 0);
  const first = (key) => all.find((figures) => figures[key] !== null)?.[key] ?? null;
  const shown = (value, format) => (value === null ? "–" : format(value));
  const tiles = [
    ["last_day", number(sum("last_day")), t("label.of_all", { count: sum("submitted") })],
    ["median", shown(first("median_ms"), (ms) => duration(ms / 1000)), t("label.per_task")],
    ["agreement", shown(first("agreement"), percent), t("label.team", { value: shown(first("team_agreement"), percent) })],
    ["tests", sum("gold_seen") ? `${sum("gold_passed")}/${sum("gold_seen")}` : "–", t("label.tests_hint")],
  ];
  return h("dl", { class: "tiles" }, tiles.map(([key, value, hint]) => h("div", { class: "tile" }, h("dt", {}, t(`label.tile_${key}`)), h("dd", { class: "tile-value" }, value), h("dd", { class: "muted small" }, hint))));
}

function projectCard(project) {
  const { figures } = project;
  const state = figures.state;
  const action = state === "none" ? h("button", { type: "button", class: "button primary", onclick: () => welcome(project) }, t("label.begin"))
    : ready(project) && hasWork(project) ? h("button", { type: "button", class: "button", onclick: () => start(project) }, t(figures.drafts ? "label.resume" : state === "in_quiz" ? "label.go_on_quiz" : "label.start"))
    : null;
  const status = { in_quiz: ["accent", "label.status_quiz"], failed: ["bad", "label.status_failed"], paused: ["warn", "label.status_paused"] }[state];
  return h("li", { class: "card project-card" },
    h("span", { class: "project-icon" }, icon(ICONS[project.type] ?? "label")),
    h("div", { class: "project-text" },
      h("h2", {}, project.name),
      h("p", { class: "muted small" }, t(`label.type_${project.type}`), " · ", t("label.waiting", { count: project.waiting }), figures.drafts ? ` · ${t("label.drafts", { count: figures.drafts })}` : "", figures.skipped ? ` · ${t("label.skipped", { count: figures.skipped })}` : "")),
    status ? h("span", { class: `badge ${status[0]}` }, t(status[1])) : null,
    state !== "none" ? h("button", { type: "button", class: "icon-button", "aria-label": t("label.guide"), title: t("label.guide"), onclick: () => guide(project) }, icon("book")) : null,
    action,
    state === "paused" || state === "failed" ? h("p", { class: "project-note muted small" }, t(state === "paused" ? "label.paused_text" : "label.failed_text", { score: percent(figures.quiz_score ?? 0) })) : null);
}

function guideText(project) {
  const text = h("div", { class: "md guide-text", tabindex: "0" });
  if (project.guide.length) drawBlocks(text, project.guide);
  else fill(text, standardGuide());
  return text;
}

const guide = (project) => openDialog({ title: project.name, wide: true, body: () => guideText(project) });

/** Guide, consent, and what one would rather not read. */
async function welcome(project) {
  const consent = h("input", { type: "checkbox" });
  const topics = TOPICS.map((topic) => h("input", { type: "checkbox", value: topic }));
  const go = h("button", { type: "button", class: "button primary", disabled: true }, t(project.quiz_size ? "label.start_quiz" : "label.start"));
  consent.addEventListener("change", () => (go.disabled = !consent.checked));
  const agreed = await openDialog({
    title: project.name,
    wide: true,
    body: () => [
      guideText(project),
      project.quiz_size ? h("p", { class: "notice" }, icon("info"), t("label.quiz_text", { count: project.quiz_size })) : null,
      h("fieldset", { class: "topics" }, h("legend", {}, t("label.topics")), h("p", { class: "muted small" }, t("label.topics_text")), h("div", { class: "topic-list" }, TOPICS.map((topic, at) => h("label", { class: "check" }, topics[at], t(`label.topic_${topic}`))))),
      h("label", { class: "check" }, consent, h("span", {}, t("label.consent"), h("small", {}, t("label.what_is_kept")))),
    ],
    actions: (close) => (go.addEventListener("click", () => close(true)), [h("button", { type: "button", class: "button", onclick: () => close(false) }, t("common.cancel")), go]),
  });
  if (!agreed) return;
  const uneasy = Object.fromEntries(topics.filter((box) => box.checked).map((box) => [box.value, "uncomfortable"]));
  await api.post(`/api/label/projects/${project.id}/quiz`, { consent: true, topics: uneasy });
  if (project.waiting || project.quiz_size) start(project);
  else refresh();
}

async function start(project) {
  try {
    await goNext(project.id);
  } catch (error) {
    toast(error.message, { kind: "bad" });
  }
}

shortcuts("label.title", [{ keys: "Enter", label: "label.key_start", when: (event) => !event.target.closest?.("button, a, input"), run: () => { const best = projects.find((project) => ready(project) && hasWork(project)); return best ? void start(best) : false; } }]);
refresh();
