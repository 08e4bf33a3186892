/** The drawer of a chat: model, system prompt, sampling parameters, consent. Everything is kept with the conversation. */
import { api } from "../api.js";
import { menuButton, toast } from "../dialog.js";
import { debounce, fill, h, icon, iconButton } from "../dom.js";
import { number, t } from "../i18n.js";
import { explain } from "./explain.js";

/** In this order; the first ones are open, the others behind "more". */
const COMMON = ["temperature", "top_p", "max_tokens"];
const OTHERS = ["top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed", "stop"];

/** The name of an example prompt in the reader's language, if we have it. @param {string} name */
function named(name) {
  const known = t(`chat.prompt_${name}`);
  return known.startsWith("chat.") ? name : known;
}

export class Drawer {
  /** @param {HTMLElement} node @param {any} app */
  constructor(node, app) {
    this.node = node;
    this.app = app;
    /** @type {any} changes that are not sent yet */
    this.pending = {};
    this.soon = debounce(() => this.flush(), 350);
    this.more = false;
    node.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing) (event.stopPropagation(), this.close());
    });
  }

  /** Send a change a moment after the last key. @param {any} change */
  save(change) {
    Object.assign(this.pending, change);
    this.soon();
  }

  /** Send what waits: a question must not overtake the settings it was asked with. */
  async flush() {
    this.soon.cancel();
    const change = this.pending;
    this.pending = {};
    if (Object.keys(change).length) await this.app.configure(change);
  }

  get isOpen() {
    return !this.node.hidden;
  }

  toggle() {
    if (this.isOpen) this.close();
    else this.open();
  }

  open() {
    this.node.hidden = false;
    this.opener = document.activeElement;
    this.draw();
    this.node.querySelector("button")?.focus();
    this.app.drawBar();
  }

  close() {
    this.node.hidden = true;
    this.opener?.focus?.();
    this.app.drawBar();
  }

  draw() {
    this.shown = this.app.thread.id;
    const { settings, config } = this.app;
    fill(this.node,
      h("header", { class: "drawer-head" }, h("h2", {}, t("chat.parameters")), iconButton("close", t("common.close"), { onclick: () => this.close() })),
      h("div", { class: "drawer-body" },
        this.#model(settings, config), this.#system(settings, config),
        h("section", { class: "drawer-part" }, h("h3", {}, t("chat.sampling")), COMMON.map((name) => this.#parameter(name)),
          h("details", { open: this.more, ontoggle: (event) => (this.more = event.target.open) }, h("summary", {}, t("chat.more_parameters")), OTHERS.map((name) => this.#parameter(name)))),
        this.#consent(settings)));
  }

  /** @param {any} settings @param {any} config */
  #model(settings, config) {
    const choose = (value, change) => h("select", { class: "select", onchange: (event) => change(event.target.value) },
      config.models.map(({ alias, context_length: length }) => h("option", { value: alias, selected: alias === value }, `${alias} (${t("chat.context_of", { length: number(length) })})`)));
    const field = (label, control) => h("label", { class: "field" }, h("span", { class: "field-label" }, label), control);
    return h("section", { class: "drawer-part" },
      field(t("chat.model"), choose(settings.model, (model) => this.app.configure({ model }))),
      settings.mode === "compare" ? field(t("chat.compare_with"), choose(this.app.compareWith ?? settings.model, (model) => (this.app.compareWith = model))) : null);
  }

  /** @param {any} settings @param {any} config */
  #system(settings, config) {
    const area = h("textarea", { class: "textarea", rows: 4, value: settings.system_prompt ?? "", id: "system-prompt", placeholder: t("chat.system_hint"), oninput: () => this.save({ system_prompt: area.value }) });
    const library = h("button", { type: "button", class: "button small quiet" }, icon("book"), t("chat.library"));
    menuButton(library, () => config.system_prompts.map(({ name, text }) => ({ label: named(name), hint: text.slice(0, 60), onselect: () => {
      area.value = text;
      this.app.configure({ system_prompt: text });
    } })));
    return h("section", { class: "drawer-part" },
      h("div", { class: "field-row" }, h("label", { class: "field-label", for: "system-prompt" }, t("chat.system_prompt")), config.system_prompts?.length ? library : null), area);
  }

  /** Set one parameter; undefined puts the default back. @param {string} name @param {any} value */
  #set(name, value) {
    const params = { ...(this.pending.params ?? this.app.settings.params ?? {}) };
    if (value === undefined) delete params[name];
    else params[name] = value;
    this.app.settings.params = params;
    this.save({ params });
  }

  /** @param {string} name */
  #parameter(name) {
    const rule = this.app.config.params[name];
    if (!rule) return null;
    const value = this.app.settings.params?.[name];
    const id = `param-${name}`;
    const reset = iconButton("undo", t("chat.reset", { name: t(`chat.param_${name}`) }), { class: "icon-button small", onclick: () => {
      this.#set(name, undefined);
      this.draw();
      this.node.querySelector(`#${id}`)?.focus();
    } });
    reset.classList.toggle("invisible", value === undefined);
    const mark = () => reset.classList.toggle("invisible", this.app.settings.params?.[name] === undefined);
    const control = name === "stop" ? this.#stop(id, value, mark) : this.#number(id, name, rule, value, mark);
    return h("div", { class: "param", dataset: { param: name } }, h("div", { class: "field-row" }, h("label", { class: "field-label", for: id }, t(`chat.param_${name}`)), reset), control, h("p", { class: "hint" }, t(`chat.param_${name}_hint`)));
  }

  /** A number with a slider beside it where both ends are known and near. */
  #number(id, name, { default: standard, min, max, step }, value, mark) {
    const input = h("input", { class: "input number", id, type: "number", min, max, step: step ?? "any", value: value ?? "", placeholder: standard === null || standard === undefined ? t("chat.random") : String(standard), inputmode: "decimal" });
    const slider = name !== "seed" && max !== null && max !== undefined && max - min <= 100_000
      ? h("input", { type: "range", min, max, step: step ?? 0.01, value: value ?? standard ?? min, "aria-label": t(`chat.param_${name}`) }) : null;
    const take = (text) => {
      const parsed = text === "" ? undefined : Number(text);
      const fits = parsed === undefined || (Number.isFinite(parsed) && (min ?? -Infinity) <= parsed && parsed <= (max ?? Infinity));
      input.setAttribute("aria-invalid", String(!fits));
      if (fits) (this.#set(name, parsed), mark());
      return fits;
    };
    input.addEventListener("input", () => take(input.value) && slider && (slider.value = input.value || String(standard)));
    slider?.addEventListener("input", () => ((input.value = slider.value), take(slider.value)));
    return h("div", { class: "slider" }, slider, input);
  }

  /** Up to four strings, one a line. */
  #stop(id, value, mark) {
    const area = h("textarea", { class: "textarea mono", id, rows: 2, value: (value ?? []).join("\n"), placeholder: t("chat.none") });
    area.addEventListener("input", () => {
      const lines = area.value.split("\n").filter(Boolean);
      const fits = lines.length <= 4 && lines.every((line) => line.length <= 64);
      area.setAttribute("aria-invalid", String(!fits));
      if (fits) (this.#set("stop", lines.length ? lines : undefined), mark());
    });
    return area;
  }

  /** @param {any} settings */
  #consent(settings) {
    const input = h("input", { type: "checkbox", checked: Boolean(settings.data_use), id: "data-use", onchange: () => this.app.configure({ data_use: input.checked }) });
    const all = async (value) => {
      try {
        const { changed } = await api.put("/api/conversations/data_use", { data_use: value });
        if (this.app.thread.conversation) this.app.thread.describe({ data_use: value });
        this.app.draw();
        this.draw();
        toast(t(value ? "chat.consent_all_on" : "chat.consent_all_off", { count: changed }), { kind: "good" });
      } catch (problem) {
        toast(explain(problem), { kind: "bad" });
      }
    };
    return h("section", { class: "drawer-part" }, h("h3", {}, t("chat.consent_title")),
      h("label", { class: "check" }, input, h("span", {}, t("chat.consent"), h("small", {}, t("chat.consent_hint")))),
      h("div", { class: "row" },
        h("button", { type: "button", class: "button small", onclick: () => all(false) }, t("chat.consent_none")),
        h("button", { type: "button", class: "button small", onclick: () => all(true) }, t("chat.consent_every"))));
  }
}
