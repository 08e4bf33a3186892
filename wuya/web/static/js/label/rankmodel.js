// The state of a ranking, without a page: ranks, answers to questions, undo. Everything a screen shows is read off it.
//
// Rows are numbered 1..K as the labeler sees them; an answer without a row is unplaced. Rows may stay empty while one
// works; `dense()` is what is sent: 1 is best, equal numbers tie, no number is left out.

const UNDO_STEPS = 50;

export class RankModel {
  /** @param {string[]} ids answers in the order shown */
  constructor(ids) {
    this.ids = ids;
    this.state = { rows: {}, labels: {}, comment: "", cannotRank: false, completion: "" };
    this.past = [];
    this.listeners = new Set();
  }

  /** Call `then(what)` after every change; `what` names it ("rank", "label", "undo", "load", "text"). */
  listen(then) {
    this.listeners.add(then);
  }

  /** Change the state; earlier states can be had back. Typing in one field is one step. */
  change(kind, edit, { merge = "" } = {}) {
    const before = structuredClone(this.state);
    edit(this.state);
    if (JSON.stringify(before) === JSON.stringify(this.state)) return false;
    if (!merge || this.merging !== merge) this.past.push(before);
    this.merging = merge;
    if (this.past.length > UNDO_STEPS) this.past.shift();
    this.tell(kind);
    return true;
  }

  tell(kind) {
    for (const then of this.listeners) then(kind);
  }

  get canUndo() {
    return this.past.length > 0;
  }

  undo() {
    if (!this.past.length) return false;
    this.state = this.past.pop();
    this.merging = "";
    this.tell("undo");
    return true;
  }

  row(id) {
    return this.state.rows[id] ?? 0;
  }

  /** Put an answer into a row; 0 takes it out. */
  place(id, row) {
    if (row < 0 || row > this.ids.length) return false;
    return this.change("rank", (state) => {
      if (row) state.rows[id] = row;
      else delete state.rows[id];
      state.cannotRank = false;
    });
  }

  /** Put an answer into a row of its own before `row`; those at or below it move down. */
  insert(id, row) {
    return this.change("rank", (state) => {
      const rest = Object.entries(state.rows).filter(([other]) => other !== id);
      const order = rest.map(([other, at]) => [other, at < row ? at : at + 1]);
      state.rows = { ...pressed(order, this.ids.length, id, row) };
      state.cannotRank = false;
    });
  }

  /** One row up (-1) or down (+1), tying with whoever is there. */
  move(id, step) {
    const row = this.row(id);
    if (!row) return this.place(id, step < 0 ? this.ids.length : 1);
    return this.place(id, Math.min(this.ids.length, Math.max(1, row + step)));
  }

  /** Tie with the nearest better answer. */
  tieUp(id) {
    const rows = Object.entries(this.state.rows).filter(([other]) => other !== id).map(([, row]) => row);
    const better = rows.filter((row) => row < (this.row(id) || Infinity));
    return better.length ? this.place(id, Math.max(...better)) : false;
  }

  in(row) {
    return this.ids.filter((id) => this.row(id) === row);
  }

  get unplaced() {
    return this.ids.filter((id) => !this.row(id));
  }

  get isComplete() {
    return this.unplaced.length === 0;
  }

  /** Ranks as they are sent: dense, by id. */
  dense() {
    const used = [...new Set(Object.values(this.state.rows))].sort((a, b) => a - b);
    return Object.fromEntries(this.ids.filter((id) => this.row(id)).map((id) => [id, used.indexOf(this.row(id)) + 1]));
  }

  /** "B=D>A" with letters by place on the screen. */
  order() {
    const rows = [...new Set(Object.values(this.state.rows))].sort((a, b) => a - b);
    return rows.map((row) => this.in(row).map((id) => letter(this.ids.indexOf(id))).join("=")).join(" > ");
  }

  /** The unplaced answer after `id`, in the order shown. */
  nextUnplaced(id) {
    const start = this.ids.indexOf(id);
    for (let step = 1; step <= this.ids.length; step += 1) {
      const other = this.ids[(start + step) % this.ids.length];
      if (!this.row(other)) return other;
    }
    return null;
  }

  label(about, key) {
    return this.state.labels[about]?.[key] ?? null;
  }

  /** Answer a question about an answer ("" is the prompt); null takes the answer back. */
  setLabel(about, key, value) {
    return this.change("label", (state) => {
      const own = (state.labels[about] ??= {});
      if (value === null) delete own[key];
      else own[key] = value;
      if (!Object.keys(own).length) delete state.labels[about];
    });
  }

  setText(field, value) {
    return this.change("text", (state) => (state[field] = value), { merge: field });
  }

  setCannotRank(on) {
    return this.change("rank", (state) => {
      state.cannotRank = on;
      if (on) state.rows = {};
    });
  }

  /** Pairs whose order contradicts the grades by two steps or more: [better, worse]. */
  contradictions(key = "quality", gap = 2) {
    const ranks = this.dense();
    const found = [];
    for (const a of this.ids)
      for (const b of this.ids) {
        const [x, y] = [this.label(a, key), this.label(b, key)];
        if (ranks[a] < ranks[b] && x !== null && y !== null && y - x >= gap) found.push([a, b]);
      }
    return found;
  }

  /** What a draft keeps. */
  toDraft() {
    const { rows, labels, comment, cannotRank, completion } = this.state;
    return { ranks: rows, labels, comment, cannot_rank: cannotRank, completion };
  }

  load(draft) {
    const known = Object.entries(draft?.ranks ?? {}).filter(([id]) => this.ids.includes(id));
    this.state = {
      rows: Object.fromEntries(known),
      labels: draft?.labels ?? {},
      comment: draft?.comment ?? "",
      cannotRank: Boolean(draft?.cannot_rank),
      completion: draft?.completion ?? "",
    };
    this.past = [];
    this.tell("load");
  }
}

/** Rows after an insertion, pressed together where they would leave the board. */
function pressed(order, size, id, row) {
  const rows = Object.fromEntries([...order, [id, row]]);
  if (Math.max(...Object.values(rows)) <= size) return rows;
  const used = [...new Set(Object.values(rows))].sort((a, b) => a - b);
  return Object.fromEntries(Object.entries(rows).map(([other, at]) => [other, used.indexOf(at) + 1]));
}

export const letter = (index) => String.fromCharCode(65 + index);
