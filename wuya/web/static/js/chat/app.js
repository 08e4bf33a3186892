/**
 * The controller of the chat page: one method per thing a person can do. It changes the `Thread`, asks the server, and has
 * the views drawn again. Views never talk to the server.
 */
import { api } from "../api.js";
import { confirmDialog, toast } from "../dialog.js";
import { announce, debounce, url } from "../dom.js";
import { t } from "../i18n.js";
import { Answers } from "./answers.js";
import { Composer } from "./composer.js";
import { explain } from "./explain.js";
import { messageMenu } from "./menus.js";
import { Follower, Frame } from "./scroll.js";
import { Thread, newId } from "./tree.js";
import { ThreadView } from "./thread.js";

export class App {
  /** @param {any} config the server's limits and lists @param {Record<string, any>} parts elements of the page */
  constructor(config, parts) {
    this.config = config;
    this.parts = parts;
    this.thread = new Thread();
    /** @type {Set<string>} messages that no longer fit into the context */
    this.dropped = new Set();
    /** @type {string | null} the comparison that was voted on last and is still shown as a pair */
    this.openPair = null;
    /** @type {Promise<any>} the votes on their way to the server */
    this.voting = Promise.resolve();
    /** @type {Map<string, Promise<any>>} the last rating of each message on its way */
    this.ratings = new Map();
    /** @type {Promise<any>} changes of settings on their way */
    this.configuring = Promise.resolve();
    this.selections = 0;
    this.measures = 0;
    /** What a chat that does not exist yet will start with. */
    this.fresh = this.#blank();
    this.follower = new Follower(parts.scroller, (away) => {
      parts.jump.hidden = !away;
      parts.scroller.classList.toggle("away", away); // the browser then keeps what is being read in its place
    });
    this.frame = new Frame(() => this.follower.follow());
    this.answers = new Answers(this, (lost) => (parts.lost.hidden = !lost));
    this.view = new ThreadView(parts.thread, this);
    this.composer = new Composer(parts, { send: (text) => this.send(text), stop: () => this.answers.stop(), changed: debounce(() => this.measure(), 400), editLast: () => this.editLast() });
    /** @type {(() => void)[]} */
    this.watchers = [];
    new ResizeObserver(() => this.follower.follow()).observe(parts.thread);
  }

  #blank() {
    return { model: this.config.default_model, params: {}, system_prompt: "", mode: "single", data_use: this.config.data_use_default };
  }

  /** The open conversation, or the settings of the one that will be made by the first message. */
  get settings() {
    return this.thread.conversation ?? this.fresh;
  }

  get busy() {
    return this.answers.sending || this.thread.busy;
  }

  /** Draw everything that depends on the state. */
  draw() {
    this.view.render();
    this.composer.setBusy(this.busy);
    this.parts.welcome.hidden = Boolean(this.thread.path.length) || this.loading;
    for (const watcher of this.watchers) watcher();
    this.follower.follow();
  }

  // -- opening

  /** @param {string | null} id @param {{push?: boolean, focus?: boolean, at?: string | null}} [how] */
  async open(id, { push = true, focus = true, at = null } = {}) {
    this.answers.leave();
    this.drawer?.flush();
    this.thread = new Thread();
    this.fresh = this.#blank();
    this.dropped.clear();
    this.openPair = null;
    this.view.clear();
    this.follower.jump();
    this.wanted = id;
    this.loading = Boolean(id);
    if (push) history.pushState({}, "", url(id ? `/chat/${id}` : "/chat"));
    this.parts.failure.hidden = true;
    this.parts.skeleton.hidden = !id;
    this.composer.open(id);
    this.draw();
    if (id) await this.#fetch(id, at);
    if (focus && !matchMedia("(pointer: coarse)").matches) this.composer.focus();
  }

  /** Back after a while: what happened on another device? */
  async catchUp() {
    const { thread } = this;
    if (!thread.id || this.busy || this.view.editing) return;
    const full = await api.get(`/api/conversations/${thread.id}`).catch(() => null);
    if (!full || thread !== this.thread || this.busy || this.view.editing || full.updated_at === thread.conversation.updated_at) return;
    thread.load(full);
    await this.#otherSides();
    if (thread !== this.thread) return;
    this.draw();
    for (const job of thread.jobs.values()) this.answers.follow(job);
  }

  /** @param {string} id @param {string | null} at */
  async #fetch(id, at) {
    const { thread } = this; // another chat, opened meanwhile, has another one
    try {
      const path = at ? await api.post(`/api/messages/${at}/select`).catch(() => null) : null;
      const full = await api.get(`/api/conversations/${id}`);
      if (thread !== this.thread) return;
      thread.load(full);
      await this.#otherSides();
      if (thread !== this.thread) return;
      this.loading = false;
      this.parts.skeleton.hidden = true;
      this.draw();
      this.follower.jump();
      for (const job of this.thread.jobs.values()) this.answers.follow(job);
      this.measure();
      if (path) this.reveal(at);
    } catch (problem) {
      if (thread !== this.thread) return;
      this.loading = false;
      this.parts.skeleton.hidden = true;
      this.parts.failure.hidden = false;
      this.parts.failureText.textContent = explain(problem);
    }
  }

  /** An open comparison needs both answers; the path holds only one of them. */
  async #otherSides() {
    const { thread } = this;
    const open = [...thread.comparisons.values()].filter((comparison) => comparison.outcome === null);
    const missing = open.flatMap(({ left, right }) => [left, right]).filter((id) => !thread.get(id));
    thread.put((await Promise.all(missing.map((id) => api.get(`/api/messages/${id}`).catch(() => null)))).filter(Boolean));
  }

  /** Scroll to a message and show which it is. @param {string | null} id */
  reveal(id) {
    const node = id && this.view.views.get(id)?.node;
    if (!node?.isConnected) return;
    node.scrollIntoView({ block: "center" });
    node.focus({ preventScroll: true });
    node.classList.add("found");
    setTimeout(() => node.classList.remove("found"), 2000);
  }

  async loadOlder() {
    const { thread } = this;
    const { id, before } = thread;
    if (!before || this.loadingOlder === thread) return;
    this.loadingOlder = thread;
    try {
      const { items, next } = await api.get(`/api/conversations/${id}/messages?before=${before}&limit=40`);
      if (thread !== this.thread || thread.before !== before) return; // it was loaded anew meanwhile
      const { scroller } = this.parts;
      const fromEnd = scroller.scrollHeight - scroller.scrollTop;
      thread.prepend(items, next);
      this.draw();
      scroller.scrollTop = scroller.scrollHeight - fromEnd;
    } catch (problem) {
      toast(explain(problem), { kind: "bad" });
    } finally {
      if (this.loadingOlder === thread) this.loadingOlder = null;
    }
  }

  // -- asking

  /** @param {string} text */
  async send(text) {
    const id = newId();
    const parent = this.thread.leaf;
    this.openPair = null;
    this.thread.put([/** @type {any} */ ({ id, parent_id: parent, role: "user", content: text, nodes: [], status: "complete", siblings: [id], local: "sending" })]);
    this.thread.path.push(id);
    this.follower.jump();
    await this.#deliver(id);
  }

  /** Try again to send what the server did not get. @param {string} id */
  retry(id) {
    this.thread.get(id).local = "sending";
    return this.#deliver(id);
  }

  /** @param {string} id a message that only this page knows */
  async #deliver(id) {
    const thread = this.thread;
    const message = thread.get(id);
    const generate = this.#generate(this.settings.mode === "compare");
    const fresh = this.fresh; // opening another chat makes a new one
    await this.answers.ask(`send ${id}`, async () => {
      await this.drawer?.flush();
      if (!thread.id) await this.#create(thread, fresh);
      const body = { id, content: message.content, parent_id: message.parent_id, generate };
      return api.post(`/api/conversations/${thread.id}/messages`, body);
    }, (problem) => {
      message.local = "failed";
      toast(explain(problem), { kind: "bad" });
    });
  }

  /** @param {boolean} compare */
  #generate(compare) {
    if (!compare) return {};
    const other = this.compareWith ?? this.settings.model;
    return { compare: true, models: [this.settings.model, other] };
  }

  /** Have the server make the conversation. @param {Thread} thread @param {any} fresh its settings */
  async #create(thread, fresh) {
    const sent = { ...fresh };
    thread.describe({ title: "", ...(await api.post("/api/conversations", sent)) });
    const later = Object.fromEntries(Object.entries(fresh).filter(([name, value]) => value !== sent[name]));
    if (Object.keys(later).length) thread.describe(await api.patch(`/api/conversations/${thread.id}`, later)); // changed while it was made
    if (thread !== this.thread) return; // another chat was opened meanwhile: this one is in the history
    this.wanted = thread.id;
    this.composer.rename(thread.id);
    history.replaceState({}, "", url(`/chat/${thread.id}`));
  }

  /** @param {string} id @param {any} [how] model, n, params */
  regenerate(id, how = {}) {
    this.openPair = null;
    this.follower.jump();
    return this.answers.ask(`regenerate ${id}`, () => api.post(`/api/messages/${id}/generate`, how));
  }

  /** @param {string} id */
  continueAnswer(id) {
    return this.answers.ask(`continue ${id}`, () => api.post(`/api/messages/${id}/continue`));
  }

  /** @param {string} id @param {string} text */
  edit(id, text) {
    const question = this.thread.get(id)?.role === "user";
    this.openPair = null;
    const body = question ? { content: text, generate: this.#generate(this.settings.mode === "compare") } : { content: text };
    return this.answers.ask(`edit ${id} ${text}`, () => api.post(`/api/messages/${id}/edit`, body));
  }

  editLast() {
    const last = this.thread.last("user");
    if (last) this.view.views.get(last.id)?.edit();
  }

  // -- branches, ratings, votes

  /** @param {string} id a sibling of a message on the path */
  async select(id) {
    const { thread } = this;
    const turn = (this.selections += 1);
    try {
      const { messages } = await api.post(`/api/messages/${id}/select`);
      if (thread !== this.thread || turn !== this.selections) return; // another chat or version was chosen meanwhile
      this.openPair = null;
      this.thread.put(messages);
      this.thread.branch(messages[0].parent_id, messages.map((message) => message.id));
      this.thread.describe({ active_leaf_id: messages.at(-1).id });
      this.follower.pinned = false;
      this.draw();
      const view = this.view.views.get(id);
      (view?.node.querySelector(".branches button:not(:disabled)") ?? view?.node)?.focus({ preventScroll: true });
      const { number, count } = this.thread.place(this.thread.get(id));
      announce(t("chat.version", { number, count }));
      this.measure();
    } catch (problem) {
      toast(explain(problem), { kind: "bad" });
    }
  }

  /**
   * Shown at once; the requests go out one after another, and the last one given is the one that stands.
   * @param {string} id @param {any} rating null takes it back
   */
  rate(id, rating) {
    const { thread } = this;
    const before = thread.get(id).feedback;
    thread.get(id).feedback = rating;
    this.view.refresh(id);
    const isLast = () => this.ratings.get(id) === sent;
    const sent = (this.ratings.get(id) ?? Promise.resolve()).then(async () => {
      try {
        const kept = rating ? await api.put(`/api/messages/${id}/feedback`, rating) : (await api.delete(`/api/messages/${id}/feedback`), null);
        if (isLast()) thread.get(id).feedback = kept;
        announce(t(rating ? "chat.rated" : "chat.rating_removed"));
      } catch (problem) {
        if (isLast()) thread.get(id).feedback = before;
        toast(explain(problem), { kind: "bad" });
      }
      if (thread === this.thread) this.view.refresh(id);
    });
    this.ratings.set(id, sent);
    return sent;
  }

  /**
   * Votes go out one after another, so that the last one given is the one that stands.
   * @param {string} id @param {any} body
   */
  vote(id, body) {
    this.voting = this.voting.then(() => this.#vote(id, body));
    return this.voting;
  }

  /** @param {string} id @param {any} body */
  async #vote(id, body) {
    const { thread } = this;
    try {
      const comparison = await api.post("/api/comparisons", { comparison_id: id, ...body });
      thread.comparisons.set(id, comparison);
      for (const side of ["left", "right"]) if (comparison.models) thread.get(comparison[side]).model = comparison.models[side];
      if (thread !== this.thread || ![comparison.left, comparison.right].includes(thread.leaf)) return true; // they went on meanwhile
      this.openPair = id;
      const winner = comparison.outcome === "right" ? comparison.right : comparison.left;
      thread.branch(thread.get(winner).parent_id, [winner]);
      this.draw();
      return true;
    } catch (problem) {
      toast(explain(problem), { kind: "bad" });
      return false;
    }
  }

  /** Go on with one answer of a comparison; the other stays as its sibling. @param {string} id */
  async closePair(id) {
    const { thread } = this;
    await this.voting; // the answer to a vote on its way would show the pair again
    if (thread !== this.thread) return;
    this.openPair = null;
    if (thread.leaf !== id) await this.select(id);
    else this.draw();
    this.composer.focus();
  }

  // -- the conversation

  /** Change settings of this chat, or of the one to come: shown at once, sent one after another. @param {any} change */
  configure(change) {
    const { thread } = this;
    if (!thread.id) {
      Object.assign(this.fresh, change);
      return this.draw();
    }
    const before = Object.fromEntries(Object.keys(change).map((name) => [name, thread.conversation[name]]));
    thread.describe(change);
    this.draw();
    const sent = this.configuring.then(() => this.#configure(thread, change, before, () => this.configuring === sent));
    this.configuring = sent;
    return sent;
  }

  /** @param {Thread} thread @param {any} change @param {any} before @param {() => boolean} isLast */
  async #configure(thread, change, before, isLast) {
    try {
      const full = await api.patch(`/api/conversations/${thread.id}`, change);
      const { messages: _messages, before: _before, generations: _generations, comparisons: _comparisons, active_leaf_id: _leaf, ...row } = full;
      if (isLast()) thread.describe(row); // an earlier reply does not know the later changes
      this.history?.touch(row);
    } catch (problem) {
      thread.describe(before);
      toast(explain(problem), { kind: "bad" });
    }
    if (thread !== this.thread) return;
    this.draw();
    this.measure();
  }

  /** To the trash; from there, for good. */
  async remove() {
    const { thread } = this;
    const { id, conversation } = thread;
    if (!id) return;
    if (conversation.trashed && !(await confirmDialog({ title: t("chat.delete_forever"), text: t("chat.delete_forever_text"), action: t("chat.delete_forever"), danger: true }))) return;
    await api.delete(`/api/conversations/${id}`);
    this.history?.drop([id]);
    if (!conversation.trashed) toast(t("chat.moved_to_trash"), { action: t("chat.undo"), onAction: () => this.history?.restore([id]) });
    if (thread === this.thread) this.open(null);
  }

  /** How full the context is, counted by the model's own tokenizer. */
  async measure() {
    const { thread } = this;
    const turn = (this.measures += 1);
    const text = this.composer.text;
    if (thread.busy || (!thread.id && !text)) return this.parts.meter.show(null);
    try {
      const body = { text, model: this.settings.model, ...(thread.id ? { conversation_id: thread.id, leaf_id: thread.leaf } : {}) };
      const counted = await api.post("/api/tokenize", body);
      if (thread !== this.thread || turn !== this.measures) return;
      this.parts.meter.show(counted);
      const dropped = new Set(counted.dropped ?? []);
      const changed = [...dropped, ...this.dropped].filter((id) => dropped.has(id) !== this.dropped.has(id));
      this.dropped = dropped;
      for (const id of changed) this.view.refresh(id);
    } catch {
      if (turn === this.measures) this.parts.meter.show(null); // a hint, not worth a complaint
    }
  }

  /** @param {string} id @param {Element} button */
  async copy(id, button) {
    await navigator.clipboard?.writeText(this.thread.get(id).content);
    this.copied(button);
  }

  /** Say that something is in the clipboard. @param {Element} button */
  copied(button) {
    announce(t("common.copied"));
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1200);
  }

  /** @param {HTMLElement} button @param {any} view */
  messageMenu(button, view) {
    messageMenu(this, button, view);
  }
}
