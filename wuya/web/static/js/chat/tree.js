/**
 * What the page knows of one conversation: messages by id, the path on screen, running jobs, comparisons.
 * Pure: no DOM, no network. The server owns the truth; this mirrors the part of it that is loaded.
 */

/**
 * @typedef {{id: string, conversation_id?: string, parent_id: string | null, role: "user" | "assistant", content: string, nodes: any[], status: string,
 *   model: string | null, generation_id: string | null, error_code: string | null, prompt_tokens: number | null,
 *   completion_tokens: number | null, tps: number | null, finish_reason: string | null, siblings: string[], feedback: any,
 *   comparison_id: string | null, hidden: boolean, created_at: string, local?: "sending" | "failed"}} Message
 * @typedef {{id: string, message_id: string, state: string, position: number | null}} Generation
 * @typedef {{id: string, parent_id: string, left: string, right: string, outcome: string | null, strength: number | null,
 *   reasons: string[], models: {left: string, right: string} | null}} Comparison
 */

/** One conversation as the page holds it. */
export class Thread {
  constructor() {
    /** @type {any} */
    this.conversation = null;
    /** @type {Map<string, Message>} */
    this.messages = new Map();
    /** @type {string[]} ids from the oldest loaded message to the leaf */
    this.path = [];
    /** @type {string | null} ask for messages above this one; null when the root is loaded */
    this.before = null;
    /** @type {Map<string, Generation>} queued or running, by message id */
    this.jobs = new Map();
    /** @type {Map<string, Comparison>} */
    this.comparisons = new Map();
  }

  get id() {
    return this.conversation?.id ?? null;
  }

  get leaf() {
    return this.path.at(-1) ?? null;
  }

  /** @param {string | null} id */
  get(id) {
    return id === null ? undefined : this.messages.get(id);
  }

  /** Whether any answer of this conversation is being written. */
  get busy() {
    return this.jobs.size > 0;
  }

  /** @param {any} full the answer to GET, POST or PATCH of one conversation */
  load(full) {
    this.conversation = full;
    this.before = full.before ?? null;
    this.put(full.messages);
    this.path = full.messages.map((message) => message.id);
    this.jobs.clear();
    for (const job of full.generations ?? []) this.jobs.set(job.message_id, job);
    for (const comparison of full.comparisons ?? []) this.comparisons.set(comparison.id, comparison);
  }

  /** @param {any} row the conversation without its messages: a new title, model, switch */
  describe(row) {
    if (row) this.conversation = { ...this.conversation, ...row };
  }

  /** @param {Message[]} messages */
  put(messages) {
    for (const message of messages ?? []) {
      this.messages.set(message.id, message);
      for (const sibling of message.siblings ?? []) {
        const known = this.messages.get(sibling);
        if (known && known !== message) known.siblings = message.siblings;
      }
    }
  }

  /** @param {Message[]} older @param {string | null} before */
  prepend(older, before) {
    this.put(older);
    this.path = [...older.map((message) => message.id), ...this.path];
    this.before = before;
  }

  /** Show these messages below `parent`. @param {string | null} parent @param {string[]} ids */
  branch(parent, ids) {
    const at = parent === null ? -1 : this.path.indexOf(parent);
    this.path = [...this.path.slice(0, at + 1), ...ids];
  }

  /** @param {{message?: Message, messages: Message[], generations: Generation[], comparison?: Comparison | null, conversation?: any}} reply */
  accept(reply) {
    if (reply.message) this.put([reply.message]);
    this.put(reply.messages);
    for (const job of reply.generations ?? []) this.jobs.set(job.message_id, job);
    if (reply.comparison) this.comparisons.set(reply.comparison.id, reply.comparison);
    this.describe(reply.conversation);
    const first = reply.message ?? reply.messages[0];
    if (!first) return;
    const ids = reply.message ? [reply.message.id] : [];
    if (reply.messages[0]) ids.push(reply.comparison?.left ?? reply.messages[0].id);
    this.branch(first.parent_id, ids);
  }

  /** The comparison that a message takes part in, if any. @param {Message | undefined} message */
  comparisonOf(message) {
    return message?.comparison_id ? this.comparisons.get(message.comparison_id) ?? null : null;
  }

  /** Where a message stands among its siblings. @param {Message} message */
  place(message) {
    const all = message.siblings?.length ? message.siblings : [message.id];
    const at = Math.max(0, all.indexOf(message.id));
    return { number: at + 1, count: all.length, previous: all[at - 1] ?? null, next: all[at + 1] ?? null };
  }

  /** The last message of a role on the path. @param {"user" | "assistant"} role */
  last(role) {
    for (let at = this.path.length - 1; at >= 0; at -= 1) {
      const message = this.get(this.path[at]);
      if (message?.role === role) return message;
    }
    return undefined;
  }
}

/** An id for a message that is shown before the server has it. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID(); // only where the page is a secure context
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Days between two moments by the calendar of this device. @param {Date} from @param {Date} to */
function daysBetween(from, to) {
  const midnight = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
  return Math.round((midnight(to) - midnight(from)) / 86_400_000);
}

/**
 * The heading of the history list that a time falls under.
 * @param {string} time @param {Date} [now] @returns {string} "today", "yesterday", "week", "month" or "2026-05"
 */
export function dayGroup(time, now = new Date()) {
  const then = new Date(time);
  const days = daysBetween(then, now);
  if (days <= 0) return "today";
  if (days === 1) return "yesterday";
  if (days <= 7) return "week";
  if (days <= 30) return "month";
  return `${then.getFullYear()}-${String(then.getMonth() + 1).padStart(2, "0")}`;
}
