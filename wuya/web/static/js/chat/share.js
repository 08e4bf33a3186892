/** A shared chat: draws the frozen copy; whoever is signed in may go on from it. */
import { api } from "../api.js";
import { toast } from "../dialog.js";
import { $, append, fill, h, url } from "../dom.js";
import { load, t } from "../i18n.js";
import { drawBlocks, listenToMarkdown } from "../markdown.js";
import { followLink } from "./links.js";

await load("chat");
const id = window.location.pathname.split("/").at(-1);
const thread = $("#thread");

/** @param {any} message */
function article({ role, content, nodes, model }) {
  const body = h("div", { class: "md" });
  if (nodes?.length) drawBlocks(body, nodes);
  else append(body, h("p", {}, content));
  const name = role === "user" ? t("chat.user") : model ?? t("chat.assistant");
  return h("article", { class: `msg ${role}`, "aria-label": name }, role === "user" ? null : h("header", { class: "msg-head" }, h("span", { class: "who" }, name)), body);
}

try {
  const share = await api.get(`/api/shares/${id}`);
  fill(thread, share.messages.map(article));
} catch (problem) {
  toast(problem.message, { kind: "bad" });
}
listenToMarkdown(thread, { external: followLink, copied: (button) => {
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 1200);
} });
$("#continue")?.addEventListener("click", async () => {
  try {
    const copy = await api.post(`/api/shares/${id}/fork`);
    window.location.href = url(`/chat/${copy.id}`);
  } catch (problem) {
    toast(problem.message, { kind: "bad" });
  }
});
