/** The list of messages on screen: keeps one view per message and puts them in the order of the path. */
import { h } from "../dom.js";
import { t } from "../i18n.js";
import { ComparisonView } from "./compare.js";
import { MessageView } from "./message.js";

export class ThreadView {
  /** @param {HTMLElement} host @param {any} app */
  constructor(host, app) {
    this.host = host;
    this.app = app;
    /** @type {Map<string, MessageView>} */
    this.views = new Map();
    /** @type {Map<string, ComparisonView>} */
    this.pairs = new Map();
    this.older = h("button", { type: "button", class: "text-button older", onclick: () => app.loadOlder() }, t("chat.load_older"));
    new IntersectionObserver(([seen]) => seen.isIntersecting && app.loadOlder(), { root: app.parts.scroller, rootMargin: "600px" }).observe(this.older);
  }

  /** Forget everything: another chat. */
  clear() {
    this.views.clear();
    this.pairs.clear();
    this.host.replaceChildren();
  }

  /** Whether a message is being edited or rated: then nothing is drawn anew under the hands. */
  get editing() {
    return [...this.views.values()].some((view) => view.editing || view.rating);
  }

  /** @param {string} id */
  view(id) {
    let view = this.views.get(id);
    if (!view) this.views.set(id, (view = new MessageView(id, this.app)));
    return view;
  }

  /** The comparison to show in the place of a message: only at the end of the path, until somebody goes on. @param {string} id */
  pairAt(id) {
    const { thread, openPair } = this.app;
    const comparison = thread.comparisonOf(thread.get(id));
    if (!comparison || !thread.get(comparison.left) || !thread.get(comparison.right)) return null;
    if (thread.leaf !== comparison.left && thread.leaf !== comparison.right) return null;
    return comparison.outcome === null || openPair === comparison.id ? comparison : null;
  }

  /** Draw the path: reuse what is there, move nothing that is in place. */
  render() {
    const { thread } = this.app;
    const wanted = thread.before ? [this.older] : [];
    for (const id of thread.path) {
      const comparison = this.pairAt(id);
      if (comparison) {
        let pair = this.pairs.get(comparison.id);
        if (!pair) this.pairs.set(comparison.id, (pair = new ComparisonView(comparison.id, this.app)));
        pair.update();
        wanted.push(pair.node);
      } else {
        const view = this.view(id);
        view.update();
        wanted.push(view.node);
      }
    }
    const keep = new Set(wanted);
    for (const child of [...this.host.children]) if (!keep.has(child)) child.remove();
    wanted.forEach((node, at) => this.host.children[at] !== node && this.host.insertBefore(node, this.host.children[at] ?? null));
  }

  /** When two answers have ended: to the vote, unless somebody is writing. @returns {boolean} whether there is one to give */
  offerVote() {
    const comparison = this.app.thread.leaf ? this.pairAt(this.app.thread.leaf) : null;
    const pair = comparison && !comparison.outcome ? this.pairs.get(comparison.id) : null;
    const idle = [null, document.body, this.app.composer.area].includes(document.activeElement);
    if (pair?.ready && idle && !this.app.composer.text) pair.bar.querySelector("button")?.focus({ preventScroll: true });
    return Boolean(pair?.ready);
  }

  /** Draw again what belongs to one message. @param {string} id */
  refresh(id) {
    const comparison = this.pairAt(id);
    if (comparison) this.pairs.get(comparison.id)?.update();
    else this.views.get(id)?.update();
  }

  /** Move the focus to the message before or after the one that has it. @param {1 | -1} step */
  move(step) {
    const all = /** @type {HTMLElement[]} */ ([...this.host.querySelectorAll(".msg")]);
    const at = all.findIndex((node) => node.contains(document.activeElement));
    const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, at + step))];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "nearest" });
  }

  /** The message that has the focus, else the last of the path. @returns {MessageView | undefined} */
  get current() {
    const id = document.activeElement?.closest(".msg")?.getAttribute("data-id") ?? this.app.thread.leaf;
    return id ? this.views.get(id) : undefined;
  }
}
