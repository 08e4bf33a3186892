// A line of code, and a button that copies it.

import { toast } from "../dialog.js";
import { h, iconButton } from "../dom.js";
import { t } from "../i18n.js";

/** A line of code with a button that copies it. */
export function copyLine(text, label) {
  return h("div", { class: "copy-line" }, h("code", { "aria-label": label }, text),
    iconButton("copy", t("common.copy"), { class: "icon-button small", onclick: () => copy(text) }));
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast(t("common.copied"), { kind: "good", ms: 2000 });
  } catch {
    toast(t("keys.copy_failed"), { kind: "bad" });
  }
}
