// Keyboard shortcuts: one table, shown by `?`, switched off by people who use speech input (WCAG 2.1.4).
//
//   shortcuts("chat.keys", [{ keys: "j", label: "chat.next_message", run: next, when: () => true }])
//
// "Mod" is Ctrl, or Cmd on a Mac: "Mod+K", "Mod+Shift+O". Single keys never fire while somebody types.

import { h, isTyping } from "./dom.js";
import { openDialog } from "./dialog.js";
import { t } from "./i18n.js";

const groups = [];
const OFF = "wuya.single_keys_off";
export const isMac = /Mac|iPhone|iPad/.test(navigator.platform || "");

/** Whether shortcuts of a single character work. */
export const singleKeys = (on) => {
  if (on !== undefined) localStorage.setItem(OFF, on ? "" : "1");
  return !localStorage.getItem(OFF);
};

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
  for (const { list } of [...groups].reverse()) {
    for (const item of list) {
      if (![].concat(item.keys).includes(name) || (item.when && !item.when(event))) continue;
      if (item.run(event) === false) continue;
      event.preventDefault();
      return;
    }
  }
});

/** Show every shortcut of the page. */
export function showKeys() {
  const shown = (keys) => [].concat(keys).map((key, index) => [index ? " / " : "", h("kbd", {}, key.replace("Mod", isMac ? "\u2318" : "Ctrl"))]);
  const toggle = h("input", { type: "checkbox", checked: singleKeys(), onchange: () => singleKeys(toggle.checked) });
  openDialog({
    title: t("common.keys"),
    body: () => [
      groups.filter((group) => group.list.some((item) => item.label)).map((group) => [
        h("h3", {}, t(group.title)),
        h("dl", { class: "keys" }, group.list.filter((item) => item.label).map((item) => [h("dt", {}, shown(item.keys)), h("dd", {}, t(item.label))])),
      ]),
      h("label", { class: "check" }, toggle, t("common.single_keys")),
    ],
  });
}
