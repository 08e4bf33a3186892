/** The box where people write: grows with its text, keeps drafts, sends on Enter but never half a word of an input method. */
import { fill, h, icon, iconButton } from "../dom.js";
import { number, t } from "../i18n.js";

const PASTE_LIMIT = 8000; // characters; longer pastes become a block of their own
const DRAFT = "wuya.draft.";

/** @param {string | null} chat */
const draftKey = (chat) => DRAFT + (chat ?? "new");

/** Storage may be full, or switched off: a draft is then only on screen. */
const storage = {
  get(key) {
    try {
      return JSON.parse(localStorage.getItem(key) ?? "null");
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      if (value) localStorage.setItem(key, JSON.stringify(value));
      else localStorage.removeItem(key);
    } catch {
      // nothing to do: see above
    }
  },
};

export class Composer {
  /**
   * @param {{form: HTMLFormElement, area: HTMLTextAreaElement, button: HTMLButtonElement, pasted: HTMLElement}} parts
   * @param {{send: (text: string) => void, stop: () => void, changed: (text: string) => void, editLast: () => void}} on
   */
  constructor(parts, on) {
    Object.assign(this, parts);
    this.on = on;
    this.chat = null;
    this.busy = false;
    this.composing = false;
    /** @type {string[]} long pastes, sent after the text */
    this.blocks = [];
    this.area.addEventListener("compositionstart", () => (this.composing = true));
    this.area.addEventListener("compositionend", () => (this.composing = false));
    this.area.addEventListener("input", () => this.#changed());
    this.area.addEventListener("keydown", (event) => this.#key(event));
    this.area.addEventListener("paste", (event) => this.#paste(event));
    this.button.addEventListener("click", (event) => {
      if (event.detail > 1 && this.busy) event.preventDefault(); // the second half of a double click on Send is no Stop
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) this.on.stop();
      else this.#send();
    });
    this.#draw();
  }

  /** Text with the pasted blocks, as it would be sent. */
  get text() {
    return [this.area.value.trim(), ...this.blocks].filter(Boolean).join("\n\n");
  }

  /** Show another chat's draft. @param {string | null} chat */
  open(chat) {
    this.chat = chat;
    const draft = storage.get(draftKey(chat)) ?? {};
    this.area.value = draft.text ?? "";
    this.blocks = draft.blocks ?? [];
    this.#draw();
    this.on.changed(this.text);
  }

  /** A new chat got its id: its draft moves along. @param {string} chat */
  rename(chat) {
    storage.set(draftKey(this.chat), null);
    this.chat = chat;
    this.#save();
  }

  /** @param {string} text */
  fill(text) {
    this.area.value = text;
    this.#changed();
    this.focus();
  }

  focus() {
    this.area.focus();
    this.area.setSelectionRange(this.area.value.length, this.area.value.length);
  }

  /** Stop takes the place of Send from the moment something is on its way. @param {boolean} busy */
  setBusy(busy) {
    if (busy === this.busy && this.button.firstChild) return;
    this.busy = busy;
    this.#draw();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const typing = event.isComposing || this.composing || event.key === "Process"; // an input method owns this key
    if (event.key === "Enter" && !event.shiftKey && !typing) {
      if (matchMedia("(pointer: coarse)").matches && !event.ctrlKey && !event.metaKey) return; // touch keyboards: Enter is a newline
      event.preventDefault();
      if (!this.busy) this.#send();
    } else if (event.key === "ArrowUp" && !typing && !this.area.value) {
      event.preventDefault();
      this.on.editLast();
    }
  }

  /** @param {ClipboardEvent} event */
  #paste(event) {
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (text.length <= PASTE_LIMIT) return;
    event.preventDefault();
    this.blocks.push(text);
    this.#changed();
  }

  #send() {
    const text = this.text;
    if (!text) return;
    this.area.value = "";
    this.blocks = [];
    this.#changed();
    if (!matchMedia("(pointer: coarse)").matches) this.area.focus();
    this.on.send(text);
  }

  #changed() {
    this.#save();
    this.#draw();
    this.on.changed(this.text);
  }

  #save() {
    const text = this.area.value;
    storage.set(draftKey(this.chat), text || this.blocks.length ? { text, blocks: this.blocks } : null);
  }

  #draw() {
    this.area.style.setProperty("height", "auto");
    this.area.style.setProperty("height", `${this.area.scrollHeight}px`); // the style sheet's max-height stops it
    fill(this.button, icon(this.busy ? "stop" : "send"));
    this.button.setAttribute("aria-label", t(this.busy ? "chat.stop" : "chat.send"));
    this.button.title = t(this.busy ? "chat.stop_hint" : "chat.send_hint");
    this.button.classList.toggle("stopping", this.busy);
    this.button.disabled = !this.busy && !this.text;
    this.pasted.replaceChildren(...this.blocks.map((text, at) => this.#chip(text, at)));
    this.pasted.hidden = !this.blocks.length;
  }

  /** @param {string} text @param {number} at */
  #chip(text, at) {
    const remove = iconButton("close", t("chat.remove_paste"), { class: "icon-button small" });
    remove.addEventListener("click", () => {
      this.blocks.splice(at, 1);
      this.#changed();
      this.focus();
    });
    const inside = h("details", {}, h("summary", {}, t("chat.pasted", { count: number(text.length) })), h("pre", {}, text.slice(0, 4000)));
    return h("div", { class: "paste-chip" }, inside, remove);
  }
}
