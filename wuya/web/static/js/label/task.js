// The page of one task: fetches it and shows the screen of its type.

import { api } from "../api.js";
import { $, fill, h, icon, pageData, url } from "../dom.js";
import { load, t } from "../i18n.js";
import { listenToMarkdown } from "../markdown.js";
import { toast } from "../dialog.js";

await load("label", "chat");
const root = $("#label-app");

try {
  const task = await api.get(`/api/assignments/${pageData().assignment}`);
  const kind = task.type === "demonstration" ? "write" : task.candidates.length > 1 ? "rank" : "describe";
  const { show } = await import(`./${kind}.js`);
  show(root, task);
} catch (error) {
  fill(root, h("div", { class: "page" }, h("div", { class: "empty" }, icon("warning"), h("h1", {}, t(error.status === 404 ? "label.not_yours" : "label.cannot_load")), h("p", {}, error.message), h("a", { class: "button primary", href: url("/label") }, t("label.home")))));
  if (!error.status) toast(t("common.error_network"), { kind: "bad" });
}
root.removeAttribute("aria-busy");
listenToMarkdown(root, {
  copied: () => toast(t("common.copied"), { kind: "good" }),
  external: (anchor) => confirm(t("label.leaves", { host: anchor.title })) && window.open(anchor.href, "_blank", "noopener,noreferrer"),
});
