// One task between the page and the server: autosave, lease, active time, conflict between tabs, submit, skip.

import { api } from "../api.js";
import { openDialog, toast } from "../dialog.js";
import { announce, debounce, h, url } from "../dom.js";
import { date, t } from "../i18n.js";

const AUTOSAVE_MS = 2000;
const HEARTBEAT_MS = 60_000;
const WARN_MS = 5 * 60_000;
const IDLE_MS = 120_000;

export class TaskSession {
  /** @param {any} task as the server sent it @param {import("./rankmodel.js").RankModel} model */
  constructor(task, model) {
    this.task = task;
    this.model = model;
    this.rev = task.draft_rev;
    this.state = "saved";
    this.activeMs = task.draft?.active_ms ?? 0;
    this.signals = { keys: 0, pastes: 0, warnings: 0, undos: 0 };
    this.key = crypto.randomUUID();
    this.leaseUntil = Date.parse(task.lease_until);
    this.onState = () => {};
    this.over = false;
    this.autosave = debounce(() => this.save().catch(() => {}), AUTOSAVE_MS);
    model.listen((kind) => {
      if (kind === "load") return;
      if (kind === "undo") this.signals.undos += 1;
      this.setState("changed");
      this.autosave();
    });
    this.#clock();
    addEventListener("paste", () => (this.signals.pastes += 1));
    addEventListener("beforeunload", (event) => {
      if (this.state === "changed" && !this.over) {
        this.save().catch(() => {});
        event.preventDefault();
      }
    });
  }

  setState(state, text = "") {
    this.state = state;
    this.onState(state, text);
  }

  /** Time counts while the page is visible and somebody did something in the last two minutes. */
  #clock() {
    let last = Date.now();
    let touched = Date.now();
    for (const kind of ["keydown", "pointerdown", "wheel", "touchmove"])
      addEventListener(kind, () => (touched = Date.now()), { passive: true });
    addEventListener("keydown", () => (this.signals.keys += 1), { capture: true });
    this.ticker = setInterval(() => {
      const at = Date.now();
      if (!document.hidden && at - touched < IDLE_MS) this.activeMs += Math.min(at - last, 2000);
      last = at;
      const left = this.leaseUntil - at;
      if (left < WARN_MS && !this.warned && !this.over) {
        this.warned = true;
        toast(t("label.lease_warning", { minutes: Math.max(1, Math.ceil(left / 60_000)) }), { kind: "warn", ms: 20_000, action: t("label.lease_extend"), onAction: () => this.beat() });
      }
      if (this.warned && at - touched < 2000) this.beat();
    }, 1000);
    this.heart = setInterval(() => {
      if (!document.hidden && Date.now() - touched < WARN_MS * 4) this.beat();
    }, HEARTBEAT_MS);
  }

  /** Renew the lease. */
  async beat() {
    if (this.over) return;
    this.warned = false;
    try {
      this.leaseUntil = Date.parse((await api.post(`/api/assignments/${this.task.id}/heartbeat`)).lease_until);
    } catch (error) {
      if (error.status === 409) this.lost(error);
    }
  }

  /** Somebody else has the task, or it is closed: nothing more can be saved. */
  lost(error) {
    this.end();
    openDialog({
      title: t("label.lease_lost"),
      body: () => h("p", {}, error.code === "lease_lost" ? t("label.lease_lost_text") : error.message),
      actions: (close) => [h("button", { type: "button", class: "button primary", autofocus: true, onclick: () => close() }, t("label.next_task"))],
    }).then(() => goHome());
  }

  end() {
    this.over = true;
    this.autosave.cancel();
    clearInterval(this.ticker);
    clearInterval(this.heart);
  }

  /** Save the draft, one request after another: two at once would each believe the other a second tab. */
  save(how = {}) {
    const saved = (this.saving ?? Promise.resolve()).then(() => this.#save(how));
    this.saving = saved.catch(() => {});
    return saved;
  }

  async #save({ quiet = true } = {}) {
    if (this.over) return;
    this.autosave.cancel();
    this.setState("saving");
    const draft = { ...this.model.toDraft(), active_ms: Math.round(this.activeMs) };
    try {
      const saved = await api.patch(`/api/assignments/${this.task.id}`, { draft, draft_rev: this.rev });
      this.rev = saved.draft_rev;
      if (saved.lease_until) this.leaseUntil = Date.parse(saved.lease_until);
      this.setState("saved", t("label.saved_at", { time: date(saved.saved_at, { timeStyle: "medium" }) }));
      if (!quiet) announce(t("label.draft_saved"));
    } catch (error) {
      if (error.code === "draft_conflict") await this.conflict(error.body);
      else if (error.status === 409) this.lost(error);
      else {
        this.setState("failed", t("label.save_failed"));
        setTimeout(() => this.autosave(), 5000);
      }
      throw error;
    }
  }

  /** Another tab saved a newer draft: the labeler chooses. */
  async conflict({ draft, draft_rev: rev }) {
    this.setState("failed", t("label.conflict"));
    const choice = await openDialog({
      title: t("label.conflict"),
      body: () => [h("p", {}, t("label.conflict_text")), h("dl", { class: "facts" }, ["here", "there"].map((side) => [h("dt", {}, t(`label.conflict_${side}`)), h("dd", { class: "mono" }, summary(this.model, side === "here" ? this.model.toDraft() : draft))]))],
      actions: (close) => [
        h("button", { type: "button", class: "button", onclick: () => close("there") }, t("label.take_there")),
        h("button", { type: "button", class: "button primary", autofocus: true, onclick: () => close("here") }, t("label.take_here")),
      ],
    });
    this.rev = rev;
    if (choice === "here") return this.#save();
    this.model.load(draft);
    this.setState("saved", t("label.took_there"));
  }

  /** Hand in. The same key is sent again if the connection breaks, so nothing is counted twice. */
  async submit(extra) {
    if (this.submitting) return null;
    this.submitting = true;
    this.autosave.cancel();
    if (this.saving) await this.saving.catch(() => {});
    const body = {
      draft_rev: this.rev,
      schema_version: this.task.project.schema_version,
      labels: this.model.state.labels,
      comment: this.model.state.comment,
      active_ms: Math.round(this.activeMs),
      signals: this.signals,
      ...extra,
    };
    try {
      const result = await api.post(`/api/assignments/${this.task.id}/submit`, body, { headers: { "idempotency-key": this.key } });
      this.end();
      return result;
    } catch (error) {
      if (error.code === "draft_conflict") await this.conflict(error.body);
      else if (error.code === "lease_lost") this.lost(error);
      else toast(error.status ? error.message : t("common.error_network"), { kind: "bad" });
      return null;
    } finally {
      this.submitting = false;
    }
  }

  /** Ask why, and give the task back. */
  async skip() {
    const reasons = ["unclear", "language", "sensitive", "expertise", "broken", "other"];
    const note = h("input", { class: "input", maxlength: 300, "aria-label": t("label.skip_note"), placeholder: t("label.skip_note") });
    const reason = await openDialog({
      title: t("label.skip_title"),
      body: (close) => {
        const list = h("div", { class: "skip-reasons" }, reasons.map((name, index) =>
          h("button", { type: "button", class: "button skip-reason", autofocus: index === 0, onclick: () => close(name) }, h("kbd", {}, String(index + 1)), t(`label.skip_${name}`))));
        const box = h("div", { class: "stack" }, h("p", { class: "muted" }, t("label.skip_text")), list, note);
        box.addEventListener("keydown", (event) => {
          const number = Number(event.key);
          if (event.target !== note && number >= 1 && number <= reasons.length) close(reasons[number - 1]);
        });
        return box;
      },
    });
    if (!reason) return false;
    try {
      const text = note.value.trim();
      await api.post(`/api/assignments/${this.task.id}/skip`, { reason: text ? `${reason}: ${text}` : reason });
      this.end();
      return true;
    } catch (error) {
      if (error.status === 409) this.lost(error);
      else toast(error.message, { kind: "bad" });
      return false;
    }
  }
}

function summary(model, draft) {
  const ids = model.ids;
  if (draft?.completion) return draft.completion.slice(0, 120);
  const rows = draft?.ranks ?? {};
  const used = [...new Set(Object.values(rows))].sort((a, b) => a - b);
  const name = (id) => String.fromCharCode(65 + ids.indexOf(id));
  const order = used.map((row) => `${row}: ${ids.filter((id) => rows[id] === row).map(name).join(" ")}`).join(" \u00b7 ");
  return order || t("label.nothing_yet");
}

export const goHome = () => (window.location.href = url("/label"));

/** The next task of the project, or home when there is none. */
export async function goNext(project) {
  try {
    const next = await api.post("/api/label/next", { project });
    window.location.href = next ? url(`/label/tasks/${next.id}`) : url("/label");
  } catch {
    goHome();
  }
}
