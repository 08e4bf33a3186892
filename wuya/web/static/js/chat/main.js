/** Starts the chat page: finds its parts, wires buttons and keys, opens the chat that the address names. */
import { api } from "../api.js";
import { menuButton } from "../dialog.js";
import { $, boot, fill, h, icon } from "../dom.js";
import { load, t } from "../i18n.js";
import { shortcuts } from "../keys.js";
import { listenToMarkdown } from "../markdown.js";
import { addCommands } from "../palette.js";
import { App } from "./app.js";
import { History } from "./history.js";
import { followLink } from "./links.js";
import { chatMenu, rename } from "./menus.js";
import { meter } from "./meter.js";
import { reasons } from "./rating.js";
import { Drawer } from "./settings.js";
import { shareDialog, sharesDialog } from "./sharing.js";
import { importDialog } from "./transfer.js";

const [config] = await Promise.all([boot.data.config ?? api.get("/api/chat/config"), load("chat")]);
Object.assign(reasons, config.reasons);

const parts = {
  scroller: $("#scroller"), thread: $("#thread"), welcome: $("#welcome"), skeleton: $("#skeleton"), failure: $("#failure"),
  failureText: $("#failure-text"), jump: $("#jump"), lost: $("#lost"), form: $("#composer"), area: $("#message"), button: $("#send"),
  pasted: $("#pasted"), meter: meter($("#meter")),
};
const app = new App(config, parts);
const drawer = new Drawer($("#drawer"), app);
app.drawer = drawer;
app.history = new History($("#history"), app);
app.importFile = () => importDialog(app);
app.listShares = () => sharesDialog();
app.refresh = () => app.open(app.thread.id, { push: false, focus: false });
app.showHistory = (open) => {
  document.body.classList.toggle("history-open", open);
  $("#history-open")?.setAttribute("aria-expanded", String(open));
  if (open) $("#new-chat").focus();
};
const newChat = () => {
  app.showHistory(false);
  app.open(null);
};

// -- the bar above the messages, and what depends on the chat's settings

app.drawBar = () => {
  const { settings, thread } = app;
  const title = thread.conversation ? thread.conversation.title || t("chat.untitled") : t("chat.new_chat");
  document.title = `${title} - wuya`;
  fill($("#title"), title);
  $("#title").disabled = !thread.id;
  fill($("#model"), h("span", { class: "model-name" }, settings.model || t("chat.no_model")), icon("down"));
  $("#compare").setAttribute("aria-pressed", String(settings.mode === "compare"));
  $("#share").disabled = !thread.path.length || !config.sharing;
  $("#params").setAttribute("aria-expanded", String(drawer.isOpen));
  const changed = Object.keys(settings.params ?? {}).length + (settings.system_prompt ? 1 : 0);
  $("#params").classList.toggle("changed", changed > 0);
  parts.area.placeholder = t(settings.mode === "compare" ? "chat.compare_on" : "chat.placeholder");
  $("#consent").textContent = t(settings.data_use ? "chat.consent_on" : "chat.consent_off");
  $("#consent").classList.toggle("on", Boolean(settings.data_use));
  $("#trashed").hidden = !thread.conversation?.trashed;
};
app.watchers.push(app.drawBar, () => drawer.isOpen && drawer.shown !== app.thread.id && drawer.draw(), () => {
  for (const link of document.querySelectorAll(".history-link")) {
    const current = link.closest("[data-chat]")?.getAttribute("data-chat") === app.thread.id;
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
});

menuButton($("#model"), () => config.models.map(({ alias, context_length: length }) => ({ label: alias, hint: t("chat.context_of", { length }), checked: alias === app.settings.model, onselect: () => app.configure({ model: alias }) })));
chatMenu(app, $("#chat-menu"));
$("#title").addEventListener("click", () => rename(app, app.thread.conversation));
$("#compare").addEventListener("click", () => app.configure({ mode: app.settings.mode === "compare" ? "single" : "compare" }));
$("#share").addEventListener("click", () => shareDialog(app));
$("#params").addEventListener("click", () => drawer.toggle());
$("#consent").addEventListener("click", () => (drawer.isOpen || drawer.toggle(), $("#data-use")?.focus()));
$("#new-chat").addEventListener("click", newChat);
$("#new-chat-top")?.addEventListener("click", newChat);
$("#history-open")?.addEventListener("click", () => app.showHistory(true));
$("#history-shade")?.addEventListener("click", () => app.showHistory(false));
$("#restore")?.addEventListener("click", () => app.configure({ trashed: false }));
$("#failure-retry").addEventListener("click", () => app.open(app.wanted, { push: false }));
parts.jump.addEventListener("click", () => app.follower.jump(true));
for (const button of document.querySelectorAll("[data-idea]")) button.addEventListener("click", () => app.composer.fill(button.getAttribute("data-idea")));
listenToMarkdown(parts.thread, { copied: (button) => app.copied(button), external: followLink });

// -- keys

const focused = (act) => () => (app.view.current?.node.querySelector(`[data-act=${act}]:not(:disabled)`) ? void app.view.current.node.querySelector(`[data-act=${act}]`).click() : false);
const lastPair = () => [...app.view.pairs.values()].filter((pair) => pair.node.isConnected && !pair.comparison.outcome).at(-1);
const vote = (outcome) => ({ keys: { left: "1", right: "2", tie: "3", both_bad: "4" }[outcome], label: `chat.vote_${outcome}`, when: () => Boolean(lastPair()?.ready), run: () => void lastPair().vote(outcome) });
shortcuts("chat.keys", [
  ...[["Enter", "chat.send"], ["Shift+Enter", "chat.newline"], ["ArrowUp", "chat.edit_last"]].map(([keys, label]) => ({ keys, label, fixed: true, when: () => false, run: () => false })), // the composer's own
  { keys: "Mod+Shift+O", label: "chat.new_chat", run: newChat },
  { keys: "/", label: "chat.focus_message", run: () => app.composer.focus() },
  { keys: "Escape", label: "chat.stop", when: () => document.body.classList.contains("history-open") || app.busy, run: () => (document.body.classList.contains("history-open") ? app.showHistory(false) : app.answers.stop()) },
  { keys: "j", label: "chat.next_message", run: () => app.view.move(1) },
  { keys: "k", label: "chat.previous_message", run: () => app.view.move(-1) },
  { keys: "e", label: "chat.edit", run: () => void app.view.current?.edit() },
  { keys: "r", label: "chat.regenerate", run: focused("regenerate") },
  { keys: "c", label: "chat.copy", run: focused("copy") },
  { keys: "[", label: "chat.previous_version", run: focused("previous") },
  { keys: "]", label: "chat.next_version", run: focused("next") },
  { keys: "+", label: "chat.good", run: focused("good") },
  { keys: "-", label: "chat.bad", run: focused("bad") },
  ...["left", "right", "tie", "both_bad"].map(vote),
]);
addCommands(() => [
  { label: t("chat.new_chat"), icon: "plus", run: newChat },
  { label: t("chat.parameters"), icon: "sliders", run: () => drawer.toggle() },
  { label: t("chat.compare"), icon: "compare", run: () => $("#compare").click() },
  ...(app.thread.id ? [...(config.sharing ? [{ label: t("chat.share"), icon: "share", run: () => shareDialog(app) }] : []), { label: t("chat.rename"), icon: "edit", run: () => rename(app, app.thread.conversation) }] : []),
  { label: t("chat.import"), icon: "upload", run: () => importDialog(app) },
  { label: t("chat.shares"), icon: "link", run: () => sharesDialog() },
  ...app.history.chats.slice(0, 40).map((chat) => ({ label: chat.title || t("chat.untitled"), icon: "chat", run: () => app.open(chat.id) })),
]);

// -- start

let left = 0;
document.addEventListener("visibilitychange", () => {
  if (document.hidden) left = Date.now();
  else if (Date.now() - left > 30_000) Promise.all([app.catchUp(), app.history.reload()]);
});
const named = () => window.location.pathname.match(/\/chat\/([\w-]+)$/)?.[1] ?? null;
window.addEventListener("popstate", () => app.open(named(), { push: false }));
await Promise.all([app.open(named(), { push: false }), app.history.reload()]);
document.body.classList.add("ready");
