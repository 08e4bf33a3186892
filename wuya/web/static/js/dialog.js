// Dialogs, menus and toasts on the browser's own <dialog> and popover.

import { append, h, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";

/**
 * Open a dialog; resolves with what `close(value)` was given, null when it was dismissed.
 * @param {(close: (value?: any) => void) => Node | Node[]} body builds the content
 */
export function openDialog({ title, body, actions, wide = false, label }) {
  return new Promise((resolve) => {
    let result = null;
    const before = document.activeElement;
    const close = (value = null) => {
      result = value;
      dialog.close();
    };
    const dialog = h(
      "dialog",
      { class: wide ? "dialog wide" : "dialog", "aria-label": label || title, onclick: (event) => event.target === dialog && close() },
      h("form", { method: "dialog", class: "dialog-body", onsubmit: (event) => event.preventDefault() },
        h("header", { class: "dialog-head" }, h("h2", {}, title), iconButton("close", t("common.close"), { onclick: () => close() })),
        h("div", { class: "dialog-content" }, body(close)),
        actions ? h("footer", { class: "dialog-actions" }, actions(close)) : null),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector("[autofocus]")?.focus();
  });
}

/** Ask yes or no. */
export async function confirmDialog({ title, text, action, danger = false }) {
  const answer = await openDialog({
    title,
    body: () => h("p", {}, text),
    actions: (close) => [
      h("button", { type: "button", class: "button", onclick: () => close(false) }, t("common.cancel")),
      h("button", { type: "button", class: danger ? "button danger" : "button primary", autofocus: true, onclick: () => close(true) }, action),
    ],
  });
  return answer === true;
}

/** Ask for one line of text; null when dismissed. */
export function promptDialog({ title, label, value = "", action, type = "text", maxlength = 200 }) {
  const input = h("input", { class: "input", type, value, maxlength, autofocus: true, "aria-label": label || title });
  return openDialog({
    title,
    body: (close) => {
      input.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && !event.isComposing) {
          event.preventDefault();
          close(input.value);
        }
      });
      return h("label", { class: "field" }, label ? h("span", { class: "field-label" }, label) : null, input);
    },
    actions: (close) => [
      h("button", { type: "button", class: "button", onclick: () => close() }, t("common.cancel")),
      h("button", { type: "button", class: "button primary", onclick: () => close(input.value) }, action || t("common.save")),
    ],
  });
}

/** A short message at the edge of the page: `toast(t("chat.copied"))`, `toast(error.message, { kind: "bad" })`. */
export function toast(text, { kind = "info", action, onAction, ms = 5000 } = {}) {
  const region = document.getElementById("toasts");
  const item = h("div", { class: `toast ${kind}` }, icon(kind === "bad" ? "warning" : kind === "good" ? "check" : "info"), h("span", {}, text));
  if (action) append(item, h("button", { type: "button", class: "button small", onclick: () => (item.remove(), onAction()) }, action));
  append(item, iconButton("close", t("common.close"), { onclick: () => item.remove() }));
  region.append(item);
  if (ms) setTimeout(() => item.remove(), ms);
  return item;
}

let menus = 0;

/**
 * A button that opens a menu. `items()` gives {label, icon, onselect, danger, checked, disabled} or null for a line.
 * Arrow keys, Home, End and Escape work as in any menu.
 */
export function menuButton(button, items) {
  const menu = h("div", { class: "menu", role: "menu", popover: "auto", id: `menu-${++menus}` });
  button.setAttribute("aria-haspopup", "menu");
  button.setAttribute("aria-expanded", "false");
  const entries = () => [...menu.querySelectorAll("[role^=menuitem]:not([disabled])")];
  button.addEventListener("click", () => {
    menu.replaceChildren(...items().map((item) => (item ? entry(item, menu, button) : h("hr", { role: "separator" }))));
    document.body.append(menu);
    menu.showPopover();
    place(menu, button);
    entries()[0]?.focus();
  });
  menu.addEventListener("toggle", (event) => {
    button.setAttribute("aria-expanded", String(event.newState === "open"));
    if (event.newState === "closed") menu.remove();
  });
  menu.addEventListener("keydown", (event) => {
    const all = entries();
    const at = all.indexOf(document.activeElement);
    const to = { ArrowDown: (at + 1) % all.length, ArrowUp: (at - 1 + all.length) % all.length, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      all[to]?.focus();
    } else if (event.key === "Escape" || event.key === "Tab") {
      menu.hidePopover();
      button.focus();
    }
    event.stopPropagation();
  });
  return button;
}

function entry(item, menu, button) {
  const checkable = item.checked !== undefined;
  return h(
    "button",
    {
      type: "button",
      role: checkable ? "menuitemradio" : "menuitem",
      "aria-checked": checkable ? String(item.checked) : null,
      class: item.danger ? "menu-item danger" : "menu-item",
      disabled: Boolean(item.disabled),
      onclick: () => {
        menu.hidePopover();
        button.focus();
        item.onselect();
      },
    },
    checkable ? icon(item.checked ? "check" : "blank") : item.icon ? icon(item.icon) : null,
    h("span", { class: "menu-label" }, item.label, item.hint ? h("small", {}, item.hint) : null),
  );
}

/** Put a popover beside its button, inside the window. */
export function place(popover, button) {
  const at = button.getBoundingClientRect();
  const size = popover.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, window.innerWidth - size.width - 8));
  const below = at.bottom + 4 + size.height <= window.innerHeight - 8;
  const top = below ? at.bottom + 4 : Math.max(8, at.top - size.height - 4);
  popover.style.setProperty("left", `${left}px`);
  popover.style.setProperty("top", `${top}px`);
}
