// Keyboard shortcuts: one table, shown by `?`, switched off by people who use speech input (WCAG 2.1.4).
//
//   shortcuts("chat.keys", [{ keys: "j", label: "chat.next_message", run: next, when: () => true }])
//
// "Mod" is Ctrl, or Cmd on a Mac: "Mod+K", "Mod+Shift+O". Single keys never fire while somebody types. Whoever likes
// another key chooses it in the list that `?` shows; it is kept in this browser, by the shortcut's label.

import { fill, h, isTyping } from "./dom.js";
import { openDialog } from "./dialog.js";
import { t } from "./i18n.js";

const groups = [];
const OFF = "wuya.single_keys_off";
const OWN = "wuya.keys";
export const isMac = /Mac|iPhone|iPad/.test(navigator.platform || "");

/** Whether shortcuts of a single character work. */
export const singleKeys = (on) => {
  if (on !== undefined) localStorage.setItem(OFF, on ? "" : "1");
  return !localStorage.getItem(OFF);
};

/** @returns {Record<string, string>} keys that this person chose, by label */
function ownKeys() {
  try {
    return JSON.parse(localStorage.getItem(OWN) ?? "{}") ?? {};
  } catch {
    return {};
  }
}

/** The keys of a shortcut: one's own, or ours. @returns {string[]} */
const keysOf = (item, own = ownKeys()) => (own[item.label] ? [own[item.label]] : [].concat(item.keys));

/** Whether another key may be chosen: for what has one key and is not the text field's own. */
const isFree = (item) => Boolean(item.label) && !item.fixed && !Array.isArray(item.keys);

/** Add a group of shortcuts; the returned function takes it away again. */
export function shortcuts(title, list) {
  const group = { title, list };
  groups.push(group);
  return () => groups.splice(groups.indexOf(group), 1);
}

/** How a press is written: "Mod+Shift+O", "j", "?", "Escape". */
export function pressed(event) {
  const parts = [];
  if (event.ctrlKey || event.metaKey) parts.push("Mod");
  if (event.altKey) parts.push("Alt");
  if (event.shiftKey && (event.key.length > 1 || parts.length || /^[A-Za-z]$/.test(event.key))) parts.push("Shift");
  parts.push(event.key.length === 1 && (parts.length || /^[A-Z]$/.test(event.key)) ? event.key.toUpperCase() : event.key);
  return parts.join("+");
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing) return;
  if (document.querySelector("dialog[open]")) return;
  const name = pressed(event);
  const single = !name.startsWith("Mod") && !name.startsWith("Alt") && name.replace("Shift+", "").length === 1;
  if (single && (isTyping(event.target) || !singleKeys())) return;
  const own = ownKeys();
  for (const { list } of [...groups].reverse()) {
    for (const item of list) {
      if (!keysOf(item, own).includes(name) || (item.when && !item.when(event))) continue;
      if (item.run(event) === false) continue;
      event.preventDefault();
      return;
    }
  }
});

/** Show every shortcut of the page; a click on a key chooses another. */
export function showKeys() {
  const names = (keys) => keys.map((key, index) => [index ? " / " : "", h("kbd", {}, key.replace("Mod", isMac ? "\u2318" : "Ctrl"))]);
  const toggle = h("input", { type: "checkbox", checked: singleKeys(), onchange: () => singleKeys(toggle.checked) });
  const list = h("div", {});
  const problem = h("p", { class: "field-error", role: "alert", hidden: true });
  const row = (item) => {
    if (!isFree(item)) return h("dt", {}, names(keysOf(item)));
    const button = h("button", { type: "button", class: "key-choice", dataset: { label: item.label }, title: t("common.choose_key"), "aria-label": t("common.choose_key_for", { name: t(item.label), keys: keysOf(item).join(" / ") }), onclick: () => choose(item, button) }, names(keysOf(item)));
    return h("dt", {}, button);
  };
  const draw = () => fill(list, groups.filter((group) => group.list.some((item) => item.label)).map((group) => [
    h("h3", {}, t(group.title)),
    h("dl", { class: "keys" }, group.list.filter((item) => item.label).map((item) => [row(item), h("dd", {}, t(item.label))])),
  ]));

  /** The next key that is pressed is the shortcut's; Escape leaves it as it was. */
  function choose(item, button) {
    fill(button, t("common.press_key"));
    problem.hidden = true;
    const end = () => {
      button.removeEventListener("keydown", press);
      button.removeEventListener("blur", draw);
      draw();
      list.querySelector(`[data-label="${item.label}"]`)?.focus();
    };
    const press = (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
      const name = pressed(event);
      const taken = groups.flatMap((group) => group.list).find((other) => other !== item && other.label && keysOf(other).includes(name));
      if (taken) {
        problem.textContent = t("common.key_taken", { key: name, name: t(taken.label) });
        problem.hidden = false;
      } else if (name !== "Escape" && name !== "Tab") {
        const { [item.label]: _before, ...others } = ownKeys();
        localStorage.setItem(OWN, JSON.stringify(name === item.keys ? others : { ...others, [item.label]: name }));
      }
      end();
    };
    button.addEventListener("keydown", press);
    button.addEventListener("blur", draw, { once: true });
    button.focus();
  }

  draw();
  openDialog({
    title: t("common.keys"),
    body: () => [list, problem, h("label", { class: "check" }, toggle, t("common.single_keys")),
      h("button", { type: "button", class: "button small", onclick: () => (localStorage.removeItem(OWN), draw()) }, t("common.reset_keys"))],
  });
}
