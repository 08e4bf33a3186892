/** One message on screen: its text (also while it is being written), what can be done with it, and what is known of it. */
import { append, fill, h, icon } from "../dom.js";
import { number, t } from "../i18n.js";
import { appendText, drawBlocks } from "../markdown.js";
import { actions, progress } from "./actions.js";
import { editor } from "./editor.js";
import { ratingPanel } from "./rating.js";

const LONG = 6000; // characters of a question that are shown at once
const MARKUP = /[`*_$|#[\]<>~\\\n]/; // text from here on waits for its nodes: a second at most

/** @typedef {import("./tree.js").Message} Message */

export class MessageView {
  /** @param {string} id @param {any} app the controller: `thread`, and one method per thing a person can do */
  constructor(id, app) {
    this.id = id;
    this.app = app;
    this.node = h("article", { class: "msg", tabindex: "-1", dataset: { id } });
    this.head = h("header", { class: "msg-head" });
    this.body = h("div", { class: "md" });
    this.notes = h("div", { class: "msg-notes" });
    this.foot = h("footer", { class: "msg-foot" });
    append(this.node, this.head, this.body, this.notes, this.foot);
    /** @type {any} what is drawn, to know whether to draw again */
    this.drawn = null;
    /** @type {string[]} the blocks that are drawn, as JSON: only those that differ are drawn again */
    this.blocks = [];
    /** @type {{from: number, nodes: any[]}[]} what the stream brought since the last frame */
    this.pending = [];
    this.tail = "";
    this.held = false;
    /** @type {Node[]} */
    this.provisional = [];
    this.editing = false;
    this.rating = false;
  }

  /** @returns {Message} */
  get message() {
    return this.app.thread.get(this.id);
  }

  get streaming() {
    return this.app.thread.jobs.has(this.id);
  }

  /** Draw what changed. @param {{label?: string | null, blind?: boolean}} [how] a name that hides the model's, in a comparison */
  update(how = {}) {
    const message = this.message;
    if (!message) return;
    const state = this.#state(message, how);
    if (message === this.seen && state === this.state) return; // a long chat is drawn often: nothing is done for most of it
    this.seen = message;
    this.state = state;
    const { role } = message;
    this.node.className = `msg ${role}`;
    this.node.classList.toggle("streaming", this.streaming);
    this.node.classList.toggle("waiting", this.streaming && !this.body.firstChild);
    this.node.classList.toggle("dropped", this.app.dropped.has(this.id));
    this.node.classList.toggle("failed", message.local === "failed" || message.status === "error");
    this.node.setAttribute("aria-label", this.#label(message, how));
    if (role === "assistant") this.node.setAttribute("aria-busy", String(this.streaming));
    this.#head(message, how);
    this.#body(message);
    this.#notes(message);
    if (this.editing) return;
    fill(this.foot, this.streaming || message.local ? progress(this) : actions(this, how));
  }

  /** Everything that the drawing depends on and that changes in place. @param {Message} message @param {any} how */
  #state(message, how) {
    const { local, status, feedback, siblings, model } = message;
    const job = this.app.thread.jobs.get(this.id);
    const writing = job && [job.state, job.position, this.app.answers.stopping];
    return JSON.stringify([how, local, status, feedback, siblings, model, writing, this.app.dropped.has(this.id), this.editing, this.rating]);
  }

  /** @param {Message} message @param {any} how */
  #label(message, how) {
    if (message.role === "user") return t("chat.you_said");
    return how.label ?? t("chat.answered", { model: message.model ?? t("chat.assistant") });
  }

  /** @param {Message} message @param {any} how */
  #head(message, how) {
    if (message.role === "user") return fill(this.head);
    const name = how.label ?? message.model ?? (message.generation_id ? t("chat.assistant") : t("chat.written_by_you"));
    fill(this.head, h("span", { class: "who" }, name));
  }

  /** @param {Message} message */
  #body(message) {
    if (this.editing) return;
    const nodes = message.nodes?.length ? message.nodes : null;
    const source = message.hidden ? "hidden" : nodes ?? message.content;
    if (source === this.drawn || (this.streaming && this.drawn === "stream")) return;
    this.drawn = source;
    this.pending = [];
    this.#dropProvisional();
    if (message.hidden) fill(this.body, h("p", { class: "hidden-text" }, t("chat.hidden")));
    else if (nodes) this.#drawNodes(nodes);
    else fill(this.body, message.content ? h("p", {}, message.content) : null);
    if (!nodes) this.blocks = [];
    this.#fold(message);
  }

  /** Draw blocks, keeping those that are there already: the end of a stream moves nothing. @param {any[]} nodes */
  #drawNodes(nodes) {
    const wanted = nodes.map((node) => JSON.stringify(node));
    let same = 0;
    while (same < wanted.length && wanted[same] === this.blocks[same]) same += 1;
    drawBlocks(this.body, nodes.slice(same), same);
    this.blocks = wanted;
  }

  #dropProvisional() {
    for (const node of this.provisional) node.parentNode?.removeChild(node);
    this.provisional = [];
  }

  /** @param {Message} message */
  #fold(message) {
    this.node.querySelector(".fold")?.remove();
    this.body.classList.remove("folded");
    if (message.role !== "user" || message.content.length <= LONG) return;
    this.body.classList.add("folded");
    const button = h("button", { type: "button", class: "fold text-button", "aria-expanded": "false" });
    const draw = () => {
      const folded = this.body.classList.contains("folded");
      button.setAttribute("aria-expanded", String(!folded));
      fill(button, folded ? t("chat.show_all", { count: number(message.content.length) }) : t("chat.show_less"));
    };
    button.addEventListener("click", () => (this.body.classList.toggle("folded"), draw()));
    draw();
    this.body.after(button);
  }

  // -- streaming: `stream` notes what came, `flush` draws it once a frame

  /** @param {"snapshot" | "delta"} type @param {any} data */
  stream(type, data) {
    const message = this.message;
    if (!message) return;
    this.drawn = "stream";
    if (type === "snapshot") {
      message.content = data.text;
      this.pending = [{ from: 0, nodes: data.nodes ?? [] }];
      this.tail = "";
      this.held = false;
    } else {
      message.content += data.t ?? "";
      if (data.nodes) {
        while (this.pending.length && (this.pending.at(-1)?.from ?? 0) >= data.from) this.pending.pop();
        this.pending.push({ from: data.from ?? 0, nodes: data.nodes });
        this.tail = "";
        this.held = false;
      } else this.#foresee(data.t ?? "");
    }
    if (data.n !== undefined) message.completion_tokens = data.n;
  }

  /** Plain words are shown before their nodes come; whatever may be markup is not. @param {string} text */
  #foresee(text) {
    if (this.held) return;
    const at = text.search(MARKUP);
    this.held = at >= 0;
    this.tail += this.held ? text.slice(0, at) : text;
  }

  flush() {
    if (this.pending.length) {
      this.#dropProvisional();
      for (const { from, nodes } of this.pending) {
        drawBlocks(this.body, nodes, from);
        this.blocks = [...this.blocks.slice(0, from), ...nodes.map((node) => JSON.stringify(node))];
      }
      this.pending = [];
    }
    if (this.tail) {
      this.provisional.push(...appendText(this.body, this.tail));
      this.tail = "";
    }
    if (this.body.firstChild) this.node.classList.remove("waiting");
    const count = this.foot.querySelector(".progress-count");
    const message = this.message;
    if (count && message?.completion_tokens) count.textContent = t("chat.tokens", { count: message.completion_tokens });
  }

  /** @param {Message} message */
  #notes(message) {
    const notes = [];
    if (this.app.dropped.has(this.id)) notes.push(h("p", { class: "note" }, t("chat.dropped_note")));
    if (message.status === "error" && !this.streaming) {
      const code = message.error_code ?? "internal_error";
      const known = t(`chat.error_${code}`);
      notes.push(h("div", { class: "problem", role: "alert" }, icon("warning"),
        h("span", {}, known.startsWith("chat.") ? t("chat.error_other") : known, " ", h("code", { class: "error-code" }, code)),
        h("button", { type: "button", class: "button small", onclick: () => this.app.regenerate(this.id) }, t("chat.retry"))));
    }
    if (this.rating) notes.push(ratingPanel(message, { save: (rating) => this.app.rate(this.id, rating), close: () => this.closeRating() }));
    fill(this.notes, notes);
  }

  closeRating() {
    this.rating = false;
    this.update();
    this.foot.querySelector("button")?.focus();
  }

  // -- what can be done

  /** A thumb: rates at once, and asks why; the same thumb again takes the rating back. @param {1 | -1} value */
  async thumb(value) {
    const same = this.message.feedback?.value === value;
    await this.app.rate(this.id, same ? null : { value });
    if (!this.node.isConnected || !this.message) return; // another chat was opened meanwhile
    this.rating = this.message.feedback?.value === value;
    this.update();
    if (this.rating) this.notes.querySelector(".rating button")?.focus({ preventScroll: true });
  }

  /** Change the text in place: a new version beside the old one. */
  edit() {
    if (this.editing || this.app.thread.busy) return;
    this.editing = true;
    this.node.classList.add("editing");
    const close = (focus = true) => {
      this.editing = false;
      this.drawn = null;
      this.blocks = [];
      this.body.replaceChildren();
      this.node.classList.remove("editing");
      this.update();
      if (focus) this.foot.querySelector("[data-act=edit]")?.focus();
    };
    const box = editor(this.message.content, {
      save: (text) => (close(false), this.app.edit(this.id, text)),
      cancel: () => close(),
      action: t(this.message.role === "user" ? "chat.send" : "chat.save_version"),
    });
    this.node.querySelector(".fold")?.remove();
    this.body.classList.remove("folded");
    fill(this.body, box);
    fill(this.foot);
    box.querySelector("textarea")?.focus();
  }
}
