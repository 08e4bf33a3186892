/** A text box that takes the place of a message's text. */
import { h } from "../dom.js";
import { t } from "../i18n.js";

/**
 * @param {string} text
 * @param {{save: (text: string) => void, cancel: () => void, action: string}} on
 */
export function editor(text, { save, cancel, action }) {
  const area = h("textarea", { class: "input edit-area", value: text, "aria-label": t("chat.edit"), rows: 1 });
  const grow = () => {
    area.style.setProperty("height", "auto");
    area.style.setProperty("height", `${area.scrollHeight + 2}px`);
    send.disabled = !area.value.trim();
  };
  const submit = () => area.value.trim() && save(area.value.trim());
  const send = h("button", { type: "button", class: "button primary small", onclick: submit }, action);
  area.addEventListener("input", grow);
  area.addEventListener("keydown", (event) => {
    if (event.isComposing || event.key === "Process") return;
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    }
  });
  requestAnimationFrame(grow);
  const hint = h("span", { class: "hint" }, t("chat.edit_hint"));
  return h("div", { class: "editor" }, area, h("div", { class: "editor-bar" }, hint, h("button", { type: "button", class: "button small", onclick: cancel }, t("common.cancel")), send));
}
