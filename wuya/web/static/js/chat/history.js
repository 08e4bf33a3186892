/** The list of chats: groups by day, search, filters, archive and trash, several at once. */
import { api } from "../api.js";
import { menuButton, toast } from "../dialog.js";
import { $, announce, debounce, fill, h, icon, iconButton, url } from "../dom.js";
import { date, t } from "../i18n.js";
import { explain } from "./explain.js";
import { rename, sureToDelete } from "./menus.js";
import { download, downloadMany } from "./transfer.js";
import { dayGroup } from "./tree.js";

const PAGE = 40;

export class History {
  /** @param {HTMLElement} node @param {any} app */
  constructor(node, app) {
    this.node = node;
    this.app = app;
    /** @type {any[]} */
    this.chats = [];
    this.next = null;
    this.state = "active";
    this.filter = {};
    this.query = "";
    /** @type {Set<string> | null} chosen chats, null when not choosing */
    this.chosen = null;
    this.list = $("#chat-list", node);
    this.input = $("#chat-search", node);
    this.bar = $("#bulk-bar", node);
    this.more = h("li", { class: "history-more" }, h("button", { type: "button", class: "text-button", onclick: () => this.load() }, t("chat.load_more")));
    new IntersectionObserver(([seen]) => seen.isIntersecting && this.load(), { root: this.list.parentElement }).observe(this.more);
    const search = debounce(() => this.search(), 200);
    this.input.addEventListener("input", () => search());
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.input.value) {
        event.stopPropagation();
        this.input.value = "";
        this.search();
      }
    });
    menuButton($("#history-menu", node), () => this.#menu());
    menuButton($("#history-filter", node), () => this.#filters());
  }

  // -- what is shown

  /** Begin anew; what an earlier request brings is for a list that is no longer shown. */
  async reload() {
    this.chats = [];
    this.next = "";
    this.loading = null;
    await this.load();
  }

  async load() {
    if (this.loading || this.next === null || this.query) return;
    const turn = (this.loading = Symbol("request"));
    const asked = new URLSearchParams({ state: this.state, limit: String(PAGE), ...this.filter, ...(this.next ? { cursor: this.next } : {}) });
    try {
      const { items, next } = await api.get(`/api/conversations?${asked}`);
      if (turn !== this.loading) return;
      const known = new Set(this.chats.map((chat) => chat.id));
      this.chats.push(...items.filter((chat) => !known.has(chat.id)));
      this.next = next;
      this.draw();
    } catch (problem) {
      if (turn === this.loading) fill(this.list, h("li", { class: "history-note" }, explain(problem), h("button", { type: "button", class: "button small", onclick: () => this.reload() }, t("common.retry"))));
    } finally {
      if (turn === this.loading) this.loading = null;
    }
  }

  draw() {
    if (this.query) return;
    const rows = [];
    let group = "";
    for (const chat of this.chats) {
      const now = dayGroup(chat.updated_at);
      if (now !== group) rows.push(h("li", { class: "history-group" }, h("h3", {}, this.#groupName(now, chat))));
      group = now;
      rows.push(this.#row(chat));
    }
    if (!this.chats.length) rows.push(h("li", { class: "history-note" }, t(Object.keys(this.filter).length ? "chat.nothing_found" : `chat.empty_${this.state}`)));
    if (this.next) rows.push(this.more);
    fill(this.list, rows);
    this.#drawBar();
    this.#watch();
  }

  /** Answers of other chats end without this page hearing of it: look now and then while any is on its way. */
  #watch() {
    const running = this.chats.filter((chat) => chat.active_generations?.length && chat.id !== this.app.thread.id);
    if (this.watching || !running.length) return;
    this.watching = setTimeout(async () => {
      this.watching = 0;
      if (document.hidden) return this.#watch();
      const { state } = this;
      const { items } = await api.get(`/api/conversations?state=${state}&limit=${PAGE}`).catch(() => ({ items: [] }));
      for (const chat of items) Object.assign(this.chats.find((known) => known.id === chat.id) ?? {}, chat);
      this.draw();
    }, 4000);
  }

  #groupName(group, chat) {
    return /^\d/.test(group) ? date(chat.updated_at, { month: "long", year: "numeric" }) : t(`chat.group_${group}`);
  }

  /** @param {any} chat */
  #row(chat) {
    const current = chat.id === this.app.thread.id;
    const title = chat.title || t("chat.untitled");
    const running = chat.active_generations?.length > 0;
    if (this.chosen) {
      const box = h("input", { type: "checkbox", checked: this.chosen.has(chat.id), onchange: () => {
        if (box.checked) this.chosen.add(chat.id);
        else this.chosen.delete(chat.id);
        this.#drawBar();
      } });
      return h("li", { class: "history-row choosing" }, h("label", {}, box, h("span", { class: "history-title" }, title)));
    }
    const link = h("a", { class: "history-link", href: url(`/chat/${chat.id}`), "aria-current": current ? "page" : null, onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.app.showHistory(false);
      this.app.open(chat.id);
    } }, running ? h("span", { class: "pulse", title: t("chat.generating") }) : null, h("span", { class: "history-title" }, title));
    const more = iconButton("more", t("chat.chat_actions", { title }), { class: "icon-button small" });
    menuButton(more, () => this.#rowMenu(chat));
    return h("li", { class: "history-row", dataset: { chat: chat.id } }, link, more);
  }

  /** @param {any} chat */
  #rowMenu(chat) {
    const forever = { label: t("chat.delete_forever"), icon: "trash", danger: true, onselect: () => this.change([chat.id], "delete") };
    if (this.state === "trash") return [{ label: t("chat.restore"), icon: "undo", onselect: () => this.change([chat.id], "restore") }, forever];
    return [
      { label: t("chat.rename"), icon: "edit", onselect: () => rename(this.app, chat) },
      chat.archived ? { label: t("chat.unarchive"), icon: "undo", onselect: () => this.change([chat.id], "unarchive") } : { label: t("chat.archive"), icon: "archive", onselect: () => this.change([chat.id], "archive") },
      { label: t("chat.export_md"), icon: "download", onselect: () => download(`/api/conversations/${chat.id}/export?format=md`) },
      null,
      { label: t("chat.to_trash"), icon: "trash", danger: true, onselect: () => this.change([chat.id], "trash") },
    ];
  }

  #menu() {
    const view = (state, name) => ({ label: t(`chat.show_${state}`), checked: this.state === state, onselect: () => this.show(state), icon: name });
    return [
      view("active"), view("archived"), view("trash"), null,
      { label: t("chat.choose_several"), icon: "check", onselect: () => this.choose(true) },
      { label: t("chat.import"), icon: "upload", onselect: () => this.app.importFile() },
      { label: t("chat.export_all"), icon: "download", onselect: () => download("/api/export") },
      { label: t("chat.shares"), icon: "link", onselect: () => this.app.listShares() },
    ];
  }

  #filters() {
    const rated = (value) => ({ label: t(value ? `chat.filter_${value}` : "chat.filter_any"), checked: (this.filter.rated ?? "") === value, onselect: () => this.narrow({ rated: value }) });
    const days = (value) => ({ label: t("chat.filter_days", { count: value }), checked: this.days === value, onselect: () => this.narrow({ days: this.days === value ? 0 : value }) });
    const models = this.app.config.models.length > 1
      ? [null, ...this.app.config.models.map(({ alias }) => ({ label: alias, checked: this.filter.model === alias, onselect: () => this.narrow({ model: this.filter.model === alias ? "" : alias }) }))] : [];
    return [rated(""), rated("good"), rated("bad"), null, days(7), days(30), ...models];
  }

  /** @param {any} change */
  narrow({ days, ...change }) {
    if (days !== undefined) {
      this.days = days;
      change.from = days ? new Date(Date.now() - days * 86_400_000).toISOString() : "";
    }
    this.filter = Object.fromEntries(Object.entries({ ...this.filter, ...change }).filter(([, value]) => value));
    $("#history-filter", this.node).setAttribute("aria-pressed", String(Object.keys(this.filter).length > 0));
    this.reload();
  }

  /** @param {"active" | "archived" | "trash"} state */
  show(state) {
    this.state = state;
    $("#history-state", this.node).hidden = state === "active";
    fill($("#history-state", this.node), h("span", {}, t(`chat.show_${state}`)), iconButton("close", t("chat.show_active"), { class: "icon-button small", onclick: () => this.show("active") }));
    this.choose(false);
    return this.reload();
  }

  // -- search

  async search() {
    const query = this.input.value.trim();
    this.query = query;
    if (!query) return this.draw();
    try {
      const { items } = await api.get(`/api/search?${new URLSearchParams({ q: query, limit: "40" })}`);
      if (this.query !== query) return;
      fill(this.list, items.length ? items.map((hit) => this.#hit(hit)) : h("li", { class: "history-note" }, t("chat.nothing_found")));
      announce(t("chat.found", { count: items.length }));
    } catch (problem) {
      if (this.query === query) fill(this.list, h("li", { class: "history-note" }, explain(problem)));
    }
  }

  /** @param {any} hit */
  #hit(hit) {
    const snippet = hit.message_id ? h("span", { class: "hit-snippet" }, hit.snippet.map(([text, found]) => (found ? h("mark", {}, text) : text))) : null;
    const title = h("span", { class: "history-title" }, hit.message_id ? hit.title || t("chat.untitled") : hit.snippet.map(([text, found]) => (found ? h("mark", {}, text) : text)));
    return h("li", { class: "history-row hit" }, h("a", { class: "history-link", href: url(`/chat/${hit.conversation_id}`), onclick: (event) => {
      event.preventDefault();
      this.app.showHistory(false);
      this.app.open(hit.conversation_id, { at: hit.message_id, focus: !hit.message_id });
    } }, title, snippet));
  }

  // -- changes

  /** A chat changed or is new: show it where it belongs now. @param {any} chat */
  touch(chat) {
    if (!chat?.id) return;
    const state = chat.trashed ? "trash" : chat.archived ? "archived" : "active";
    const known = this.chats.find((other) => other.id === chat.id);
    const merged = { ...known, ...chat };
    this.chats = this.chats.filter((other) => other.id !== chat.id);
    if (state === this.state) {
      const at = this.chats.findIndex((other) => other.updated_at <= merged.updated_at);
      this.chats.splice(at < 0 ? this.chats.length : at, 0, merged);
    }
    this.draw();
  }

  /** @param {string[]} ids */
  drop(ids) {
    this.chats = this.chats.filter((chat) => !ids.includes(chat.id));
    this.draw();
  }

  /** @param {string[]} ids */
  async restore(ids) {
    await this.change(ids, "restore");
  }

  /** @param {string[]} ids @param {"archive" | "unarchive" | "trash" | "restore" | "delete"} action */
  async change(ids, action) {
    if (!ids.length || (action === "delete" && !(await sureToDelete(ids.length)))) return;
    try {
      await api.post("/api/conversations/bulk", { ids, action });
    } catch (problem) {
      return toast(explain(problem), { kind: "bad" });
    }
    const back = { archive: "unarchive", trash: "restore" }[action];
    toast(t(`chat.done_${action}`, { count: ids.length }), back ? { action: t("chat.undo"), onAction: () => this.change(ids, back) } : {});
    if (["trash", "delete"].includes(action) && ids.includes(this.app.thread.id)) this.app.open(null);
    else if (ids.includes(this.app.thread.id)) this.app.refresh();
    this.choose(false);
    await this.reload();
  }

  /** @param {boolean} on */
  choose(on) {
    this.chosen = on ? new Set() : null;
    this.draw();
    if (on) this.list.querySelector("input")?.focus();
  }

  #drawBar() {
    this.bar.hidden = !this.chosen;
    if (!this.chosen) return;
    const ids = [...this.chosen];
    const act = (action, name, extra = "") => h("button", { type: "button", class: `button small ${extra}`, disabled: !ids.length, dataset: { bulk: action }, onclick: () => this.change(ids, action) }, t(`chat.${name}`));
    const actions = this.state === "trash" ? [act("restore", "restore"), act("delete", "delete_forever", "danger")]
      : [act(this.state === "archived" ? "unarchive" : "archive", this.state === "archived" ? "unarchive" : "archive"), act("trash", "to_trash"),
        h("button", { type: "button", class: "button small", disabled: !ids.length, onclick: () => downloadMany(ids) }, t("chat.export"))];
    const all = h("button", { type: "button", class: "text-button", onclick: () => {
      this.chosen = new Set(ids.length === this.chats.length ? [] : this.chats.map((chat) => chat.id));
      this.draw();
    } }, t("chat.choose_all"));
    fill(this.bar, h("div", { class: "row" }, h("span", { role: "status" }, t("chat.chosen", { count: ids.length })), all, iconButton("close", t("common.cancel"), { class: "icon-button small", onclick: () => this.choose(false) })), h("div", { class: "row" }, actions));
  }
}
