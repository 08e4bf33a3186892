/** Answers on their way: asking for them, stopping them, drawing what arrives. */
import { api } from "../api.js";
import { toast } from "../dialog.js";
import { announce } from "../dom.js";
import { t } from "../i18n.js";
import { explain } from "./explain.js";
import { Jobs } from "./jobs.js";

export class Answers {
  /** @param {any} app @param {(lost: boolean) => void} connection */
  constructor(app, connection) {
    this.app = app;
    this.jobs = new Jobs(connection);
    /** @type {Map<string, {stopped: boolean}>} requests on their way for the open chat, by what they ask for */
    this.asked = new Map();
    this.stopping = false;
  }

  get sending() {
    return this.asked.size > 0;
  }

  /** Another chat is opened: stop listening. What was asked for goes on. */
  leave() {
    this.jobs.leave();
    this.asked = new Map();
    this.stopping = false;
  }

  /**
   * Do something that starts answers. Stop works from this moment: pressed before the server's reply, it is sent after it,
   * also if another chat was opened meanwhile.
   * @param {string} what a second click that asks for the same while it is on its way does nothing
   * @param {() => Promise<any>} action @param {(problem: any) => void} [failed]
   */
  async ask(what, action, failed = (problem) => toast(explain(problem), { kind: "bad" })) {
    const { app, asked } = this;
    const { thread } = app;
    if (asked.has(what)) return;
    const request = { stopped: false };
    asked.set(what, request);
    this.stopping = false;
    app.draw();
    announce(t("chat.generating"));
    try {
      const reply = await action();
      if (thread === app.thread) {
        thread.accept(reply);
        if (reply.message) delete thread.get(reply.message.id).local;
        for (const job of reply.generations) this.follow(job);
      }
      if (request.stopped) this.#stopAll(reply.generations);
      app.history?.touch(reply.conversation);
    } catch (problem) {
      failed(problem);
    } finally {
      asked.delete(what);
      if (thread === app.thread) {
        app.draw();
        app.measure();
      }
    }
  }

  /** Stop everything that is being written here, or is about to be. */
  stop() {
    if (!this.app.busy || this.stopping) return;
    this.stopping = true;
    for (const request of this.asked.values()) request.stopped = true;
    announce(t("chat.stopping"));
    this.app.draw();
    this.#stopAll(this.app.thread.jobs.values());
  }

  /** @param {Iterable<{id: string}>} jobs */
  #stopAll(jobs) {
    for (const job of jobs)
      api.post(`/api/generations/${job.id}/stop`).catch((problem) => problem.status !== 404 && toast(explain(problem), { kind: "bad" }));
  }

  /** @param {any} job */
  follow(job) {
    const { app } = this;
    const { thread } = app;
    const id = job.message_id;
    const view = () => app.view.view(id);
    this.jobs.follow(job.id, (type, data) => {
      if (thread !== app.thread) return;
      if (type === "snapshot" || type === "delta") {
        view().stream(type, data);
        app.frame.add(id, () => view().flush());
      } else if (type === "state") {
        Object.assign(thread.jobs.get(id) ?? {}, data);
        app.frame.add(`${id} state`, () => app.view.refresh(id));
      } else if (type === "final" || type === "error") this.#ended(id, data.message);
      else if (type === "gone") this.#lost(id);
    });
  }

  /** @param {string} id of the message @param {any} message as the server keeps it */
  #ended(id, message) {
    const { app } = this;
    const { thread } = app;
    app.frame.add(id, () => {
      if (thread !== app.thread) return;
      thread.jobs.delete(id);
      if (message) thread.put([message]);
      if (!thread.busy) this.stopping = false;
      app.draw();
      if (thread.busy) return;
      const words = message?.content.trim().split(/\s+/).filter(Boolean).length ?? 0;
      const ended = { error: "chat.announce_error", stopped: "chat.announce_stopped" }[message?.status] ?? "chat.announce_done";
      announce(t(ended, { count: words }));
      if (app.view.offerVote() && !app.composer.text) announce(t("chat.which_better"));
      app.history?.touch({ ...thread.conversation, active_generations: [] });
      app.measure();
    });
  }

  /** The server does not know the job any more (it was restarted): what it kept is the truth. @param {string} id */
  async #lost(id) {
    const { thread } = this.app;
    const message = await api.get(`/api/messages/${id}`).catch((problem) => (explain(problem), null));
    if (thread === this.app.thread) this.#ended(id, message);
  }
}
