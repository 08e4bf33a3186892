// The audit log, newest first, and whether its chain of hashes holds.

import { api } from "../api.js";
import { fill, h, icon } from "../dom.js";
import { dateTime, t } from "../i18n.js";

export async function auditView() {
  const body = h("tbody", {});
  const state = h("div", {});
  const more = h("button", { type: "button", class: "button", onclick: () => page() }, t("common.more"));
  let before = null;

  async function page() {
    const found = await api.get(`/api/admin/audit${before ? `?before=${before}` : ""}`);
    fill(state, h("div", { class: found.intact ? "notice" : "notice bad" }, icon(found.intact ? "check" : "warning"), t(found.intact ? "admin.intact" : "admin.broken")));
    body.append(...found.items.map((row) => h("tr", {}, h("td", { class: "mono" }, String(row.seq)), h("td", { class: "muted" }, dateTime(row.at)),
      h("td", { class: "wrap" }, row.actor || row.actor_kind), h("td", {}, h("span", { class: "badge" }, row.action)),
      h("td", { class: "wrap mono small" }, Object.keys(row.diff).length ? JSON.stringify(row.diff) : ""), h("td", { class: "muted small" }, row.ip_prefix))));
    before = found.next;
    more.hidden = !before;
  }
  await page();
  return h("div", { class: "stack" }, state, h("div", { class: "table-wrap" }, h("table", { class: "table" },
    h("thead", {}, h("tr", {}, ["number", "when", "who", "what", "details", "network"].map((name) => h("th", { scope: "col" }, t(`admin.${name}`))))), body)), h("div", {}, more));
}
