// L6: the lead's page. Tasks with everybody's order, the way to decide one, and how far people agree.

import { api } from "../api.js";
import { $, fill, h, icon, iconButton, url } from "../dom.js";
import { confirmDialog, openDialog, promptDialog, toast } from "../dialog.js";
import { date, duration, load, number, percent, t } from "../i18n.js";
import { drawBlocks } from "../markdown.js";
import { agreementView } from "./agreement.js";
import { projectDialog, tasksDialog } from "./project.js";
import { sampleDialog } from "./sampling.js";
import { rankBoard } from "./board.js";
import { letter, RankModel } from "./rankmodel.js";

await load("label", "chat");
const root = $("#label-app");
const FILTERS = ["all", "disagree", "adjudication", "gold", "fast", "flagged", "skipped"];
const state = { projects: [], project: null, tab: "tasks", show: "all", tasks: [], next: null };
const failed = (error) => toast(error.status ? error.message : t("common.error_network"), { kind: "bad" });

async function start() {
  try {
    state.projects = (await api.get("/api/admin/projects")).items;
  } catch (error) {
    fill(root, h("div", { class: "page" }, h("div", { class: "empty" }, icon("warning"), h("h1", {}, t("label.cannot_load")), h("p", {}, error.message))));
    root.removeAttribute("aria-busy");
    return;
  }
  const wanted = new URLSearchParams(location.search).get("project");
  state.project = state.projects.find((project) => project.id === (wanted ?? state.project?.id)) ?? state.projects[0] ?? null;
  draw();
  root.removeAttribute("aria-busy");
}

function draw() {
  const { project } = state;
  const pick = h("select", { class: "select", "aria-label": t("label.project"), onchange: () => { state.project = state.projects.find((one) => one.id === pick.value); history.replaceState(null, "", `?project=${pick.value}`); draw(); } }, state.projects.map((one) => h("option", { value: one.id, selected: one === project }, one.name)));
  const tabs = ["tasks", "agreement"].map((name) => h("button", { type: "button", role: "tab", "aria-selected": String(name === state.tab), onclick: () => { state.tab = name; draw(); } }, t(`label.tab_${name}`)));
  const body = h("div", { class: "lead-body", "aria-busy": "true" });
  fill(root, h("div", { class: "page" },
    h("nav", { class: "crumbs" }, h("a", { href: url("/label") }, t("label.title")), h("span", {}, t("label.review_page"))),
    h("header", { class: "page-head" }, h("h1", {}, t("label.review_page")), project ? pick : null, h("div", { class: "row head-actions" },
      project ? h("button", { type: "button", class: "button quiet", onclick: async () => (await projectDialog(project)) && start() }, icon("settings"), t("label.settings")) : null,
      project?.type === "ranking" || project?.type === "pairwise" ? h("button", { type: "button", class: "button", onclick: async () => (await sampleDialog(project)) && start() }, icon("spark"), t("label.sample_answers")) : null,
      project ? h("button", { type: "button", class: "button", onclick: async () => (await tasksDialog(project)) && start() }, icon("upload"), t("label.add_tasks")) : null,
      h("button", { type: "button", class: project ? "button" : "button primary", onclick: async () => { const made = await projectDialog(null); if (made) { history.replaceState(null, "", `?project=${made}`); await start(); } } }, icon("plus"), t("label.new_project")))),
    project ? [counts(project), h("div", { class: "tabs", role: "tablist" }, tabs), body] : h("div", { class: "empty" }, icon("label"), h("h2", {}, t("label.no_projects")), h("p", {}, t("label.no_projects_lead")))));
  if (!project) return;
  (state.tab === "tasks" ? taskList(body) : agreementView(body, project)).catch((error) => fill(body, h("p", { class: "notice bad" }, icon("warning"), error.message))).finally(() => body.removeAttribute("aria-busy"));
}

/** One line about where the project stands. */
function counts(project) {
  const shown = Object.entries(project.tasks).sort((a, b) => b[1] - a[1]);
  return h("p", { class: "count-line muted" }, t(`label.type_${project.type}`), shown.map(([name, count]) => [" · ", h("strong", {}, number(count)), " ", t(`label.task_${name}`)]), project.gold_tasks ? [" · ", h("strong", {}, number(project.gold_tasks)), " ", t("label.gold_tasks")] : null);
}

async function taskList(body) {
  const chips = FILTERS.map((name) => h("button", { type: "button", class: "chip", "aria-pressed": String(name === state.show), onclick: () => { state.show = name; draw(); } }, t(`label.show_${name}`)));
  const list = h("ul", { class: "task-list" });
  const more = h("button", { type: "button", class: "button", hidden: true, onclick: () => page() }, t("common.more"));
  fill(body, h("div", { class: "row chips" }, chips), list, more);
  state.next = "";
  async function page() {
    const found = await api.get(`/api/admin/tasks?project=${state.project.id}&show=${state.show}${state.next ? `&after=${state.next}` : ""}`);
    for (const task of found.items) list.append(taskRow(task));
    state.next = found.next;
    more.hidden = !found.next;
    if (!list.children.length) fill(list, h("li", { class: "empty" }, h("p", {}, t("label.no_tasks"))));
  }
  await page();
}

/** "B>D=A" of ranks in the order the answers were sampled. */
export function order(ranks) {
  const used = [...new Set(ranks)].sort((a, b) => a - b);
  return used.map((rank) => ranks.flatMap((value, at) => (value === rank ? letter(at) : [])).join("=")).join(" > ");
}

const TONE = { complete: "good", accepted: "good", adjudication: "bad", review: "warn", paused: "warn", cancelled: "" };

function taskRow(task) {
  const work = task.work.filter((one) => one.state !== "rejected");
  return h("li", { class: "task-row" },
    h("button", { type: "button", class: "task-open", onclick: () => openTask(task.id).catch(failed) },
      h("span", { class: "task-prompt" }, task.prompt),
      h("span", { class: "task-meta muted small" }, h("span", { class: "mono" }, task.id.slice(-4)), task.k ? ` · K = ${task.k}` : "", " · ", t("label.done_of", { done: task.n_submitted, of: task.is_gold ? "∞" : task.target })),
      h("span", { class: "task-work" }, work.map((one) => h("span", { class: one.state === "final" ? "work final" : "work" }, h("b", {}, one.labeler || t("label.deleted_person")), " ", one.ranks.length ? order(one.ranks) : t(`label.assignment_${one.state}`), one.gold_score !== null ? h("span", { class: one.gold_score >= 0.75 ? "badge good" : "badge bad" }, percent(one.gold_score)) : null)))),
    h("span", { class: "task-badges" },
      task.agreement !== null ? h("span", { class: task.agreement < 0.6 ? "badge bad" : "badge good", title: t("label.agreement") }, percent(task.agreement)) : null,
      task.is_gold ? h("span", { class: "badge accent" }, t("label.gold")) : null,
      task.fast ? h("span", { class: "badge warn" }, t("label.show_fast")) : null,
      task.flags.length ? h("span", { class: "badge bad" }, icon("flag"), task.flags.length) : null,
      h("span", { class: `badge ${TONE[task.state] ?? ""}` }, t(`label.task_${task.state}`))));
}

/** One task in full: prompt, answers, everybody's boards, and what can be done about it. */
async function openTask(id) {
  const task = await api.get(`/api/admin/tasks/${id}`);
  const ids = task.candidates.map((candidate) => candidate.id);
  const model = new RankModel(ids);
  let current = ids[0];
  const finalWork = task.work.find((one) => one.state === "final");
  if (finalWork) model.load({ ranks: finalWork.said.ranks });
  const ranked = task.k > 1;
  const board = ranked ? rankBoard({ model, current: () => current, place: (one, row) => model.place(one, row), insert: (one, row) => model.insert(one, row), onFocus: (one) => ((current = one), board.update()) }) : null;
  const comment = h("input", { class: "input", maxlength: 4000, placeholder: t("label.verdict_why"), "aria-label": t("label.verdict_why") });
  if (board) model.listen(() => board.update());
  board?.update();

  const done = await openDialog({
    title: t("label.task_title", { id: task.id.slice(-4) }),
    wide: true,
    body: (close) => {
      const act = (run) => run().then(() => close(true)).catch(failed);
      return [
        h("section", { class: "task-detail-prompt" }, task.messages.map((message) => { const md = h("div", { class: "md" }); drawBlocks(md, message.nodes); return h("div", { class: `turn ${message.role}` }, h("span", { class: "turn-role" }, t(`label.role_${message.role}`)), md); })),
        ranked ? compareTable(task, ids) : null,
        h("div", { class: "detail-answers" }, task.candidates.map((candidate, at) => { const md = h("div", { class: "md" }); drawBlocks(md, candidate.nodes); return h("details", { class: "detail-answer", open: task.candidates.length <= 4 }, h("summary", {}, h("span", { class: "letter small" }, letter(at)), h("span", { class: "detail-line" }, candidate.text.slice(0, 90))), md); })),
        h("h3", {}, t("label.work")),
        task.work.length ? h("ul", { class: "work-list" }, task.work.map((one) => workRow(one, ids, act))) : h("p", { class: "muted" }, t("label.no_work")),
        task.reviews.length ? h("ul", { class: "review-log small muted" }, task.reviews.map((review) => h("li", {}, `${date(review.at, { dateStyle: "medium", timeStyle: "short" })}: ${t(`label.decision_${review.decision}`)} ${review.note}`))) : null,
        board ? h("section", { class: "verdict" }, h("h3", {}, t("label.verdict")), h("p", { class: "muted small" }, t("label.verdict_text")), board.node, comment,
          h("div", { class: "row" },
            h("button", { type: "button", class: "button primary", onclick: () => (model.isComplete ? act(() => api.post(`/api/tasks/${task.id}/adjudicate`, { ranks: model.dense(), comment: comment.value })) : toast(t("label.place_all", { answers: model.unplaced.map((one) => letter(ids.indexOf(one))).join(", ") }), { kind: "warn" })) }, t("label.make_final")),
            h("button", { type: "button", class: "button", onclick: async () => model.isComplete && (await confirmDialog({ title: t("label.make_gold"), text: t("label.make_gold_text"), action: t("label.make_gold") })) && act(() => api.post(`/api/tasks/${task.id}/gold`, { ranks: ids.map((one) => model.dense()[one]) })) }, icon("star"), t("label.make_gold")))) : null,
      ];
    },
    actions: (close) => {
      const set = (action) => h("button", { type: "button", class: "button", onclick: () => api.post(`/api/tasks/${task.id}/${action}`).then(() => close(true)).catch(failed) }, t(`label.action_${action}`));
      return [["paused", "review", "cancelled"].includes(task.state) ? set("resume") : set("pause"), task.state === "cancelled" ? null : set("cancel"), h("button", { type: "button", class: "button primary", onclick: () => close() }, t("common.close"))].filter(Boolean);
    },
  });
  if (done) start();
}

/** Everybody's ranks beside each other, a row for each answer. */
function compareTable(task, ids) {
  const work = task.work.filter((one) => one.ranks.length);
  if (!work.length) return null;
  return h("div", { class: "table-wrap" }, h("table", { class: "table compare-table" },
    h("thead", {}, h("tr", {}, h("th", {}, ""), work.map((one) => h("th", { class: "num" }, one.state === "final" ? t("label.final") : one.labeler || t("label.deleted_person"))))),
    h("tbody", {}, ids.map((_, at) => {
      const ranks = work.map((one) => one.ranks[at]);
      return h("tr", {}, h("th", { scope: "row" }, h("span", { class: "letter small" }, letter(at))), ranks.map((rank) => h("td", { class: `num rank-cell r${Math.min(rank, 5)}` }, String(rank))));
    }))));
}

function workRow(one, ids, act) {
  const flags = Object.entries(one.said.labels).flatMap(([id, labels]) => Object.entries(labels).filter(([, value]) => value === true).map(([key]) => `${id ? letter(ids.indexOf(id)) : t("label.prompt")}: ${t(`label.q_${key}`)}`));
  const review = (decision) => async () => {
    const note = decision === "accept" ? "" : await promptDialog({ title: t(`label.decision_${decision}`), label: t("label.note_to", { name: one.labeler }), action: t(`label.decision_${decision}`), maxlength: 2000 });
    if (note === null) return;
    act(() => api.post(`/api/assignments/${one.assignment}/review`, { decision, note }));
  };
  return h("li", { class: "work-row" },
    h("div", {}, h("strong", {}, one.labeler || t("label.deleted_person")), " ", h("span", { class: "badge" }, t(`label.assignment_${one.state}`)), one.gold_score !== null ? h("span", { class: one.gold_score >= 0.75 ? "badge good" : "badge bad" }, percent(one.gold_score)) : null,
      h("p", { class: "muted small" }, one.active_ms ? duration(one.active_ms / 1000) : "", one.submitted_at ? ` · ${date(one.submitted_at, { dateStyle: "medium", timeStyle: "short" })}` : "", one.said.comment ? ` · “${one.said.comment}”` : ""),
      one.said.completion ? h("p", { class: "completion" }, one.said.completion) : null,
      flags.length ? h("p", { class: "row" }, flags.map((flag) => h("span", { class: "badge warn" }, flag))) : null),
    one.state === "submitted" || one.state === "accepted" ? h("span", { class: "row" },
      one.state === "submitted" ? iconButton("check", t("label.decision_accept"), { onclick: review("accept") }) : null,
      iconButton("undo", t("label.decision_revise"), { onclick: review("revise") }),
      iconButton("trash", t("label.decision_reject"), { onclick: review("reject") })) : null);
}

start();
