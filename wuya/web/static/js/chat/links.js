/** Links that a model wrote lead anywhere: say where before going there. */
import { openDialog } from "../dialog.js";
import { h } from "../dom.js";
import { t } from "../i18n.js";

/** @param {HTMLAnchorElement} anchor */
export function followLink(anchor) {
  const { href, host, protocol } = anchor;
  return openDialog({
    title: t("chat.leave_title"),
    body: () => [h("p", {}, t("chat.leave_text", { host: protocol === "mailto:" ? anchor.pathname : host })), h("p", { class: "mono wrap link-address" }, href)],
    actions: (close) => [
      h("button", { type: "button", class: "button", onclick: () => close() }, t("common.cancel")),
      h("a", { class: "button primary", href, target: "_blank", rel: "noopener noreferrer nofollow", autofocus: true, onclick: () => setTimeout(close) }, t("chat.leave_open")),
    ],
  });
}
