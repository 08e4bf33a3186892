// Admin: people, moderation, the audit log, settings, the state of the system. The tab is in the address.

import { $, boot, fill, h, icon, may } from "../dom.js";
import { load, t } from "../i18n.js";
import { auditView } from "./audit.js";
import { moderationView } from "./moderation.js";
import { systemView } from "./system.js";
import { usersView } from "./users.js";

await load("admin", "accounts");
const root = $("#admin");
const views = { ...(may("admin") ? { system: systemView } : {}), ...(boot.accounts && may("admin") ? { users: usersView } : {}), ...(may("moderate") ? { moderation: moderationView } : {}), ...(may("admin") ? { audit: auditView } : {}) };
const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": t("admin.title") });
const place = h("div", { role: "tabpanel", id: "admin-panel", tabindex: -1 });

async function show(name) {
  const chosen = views[name] ? name : Object.keys(views)[0];
  fill(tabs, Object.keys(views).map((key) => h("button", { type: "button", role: "tab", "aria-selected": String(key === chosen), "aria-controls": "admin-panel", onclick: () => (window.location.hash = key) }, t(`admin.${key}`))));
  fill(place, h("div", { class: "skeleton" }));
  try {
    fill(place, await views[chosen]());
  } catch (error) {
    fill(place, h("div", { class: "notice bad" }, icon("warning"), error.message));
  }
  root.removeAttribute("aria-busy");
}

fill(root, tabs, place);
window.addEventListener("hashchange", () => show(window.location.hash.slice(1)));
await show(window.location.hash.slice(1));
