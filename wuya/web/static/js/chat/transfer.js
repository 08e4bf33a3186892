/** Chats as files: downloads and the import of what others wrote. */
import { api, request } from "../api.js";
import { openDialog, toast } from "../dialog.js";
import { h, icon, url } from "../dom.js";
import { t } from "../i18n.js";
import { explain } from "./explain.js";

/** Have the browser save what the server sends as an attachment. @param {string} path */
export function download(path) {
  const anchor = h("a", { href: url(path), download: "" });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
}

/** Several chats in one file. @param {string[]} ids */
export async function downloadMany(ids) {
  const chats = [];
  for (const id of ids) {
    const reply = await api.get(`/api/conversations/${id}/export?format=json`);
    chats.push(...(reply.conversations ?? [reply]));
  }
  const first = await api.get(`/api/conversations/${ids[0]}/export?format=json`);
  const whole = first.conversations ? { ...first, conversations: chats } : chats;
  const address = URL.createObjectURL(new Blob([JSON.stringify(whole, null, 1)], { type: "application/json" }));
  const anchor = h("a", { href: address, download: "wuya-chats.json" });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Ask for a file and send it as it is: the server knows the formats. @param {any} app */
export function importDialog(app) {
  return openDialog({
    title: t("chat.import"),
    body: (close) => {
      const status = h("p", { class: "hint", role: "status" });
      const send = async (file) => {
        if (!file) return;
        status.textContent = t("chat.importing", { name: file.name });
        const watch = setInterval(async () => {
          const now = await request("GET", "/api/import").catch(() => null);
          if (now?.state === "waiting" && now.before) status.textContent = t("chat.import_waits", { before: now.before });
          else if (now?.state === "reading" && now.chats) status.textContent = t("chat.import_progress", { kept: now.kept, chats: now.chats });
        }, 1000);
        try {
          const type = /\.(md|markdown|txt)$/i.test(file.name) ? "text/markdown" : "application/json";
          const result = await request("POST", "/api/import", file, { raw: true, headers: { "content-type": type } });
          await app.history.reload();
          close();
          toast(t("chat.imported", { count: result.imported, skipped: result.skipped }), { kind: result.imported ? "good" : "info" });
          if (result.conversations.length === 1) app.open(result.conversations[0].id);
        } catch (problem) {
          status.textContent = explain(problem);
        } finally {
          clearInterval(watch);
        }
      };
      const input = h("input", { type: "file", class: "visually-hidden", id: "import-file", accept: ".json,.md,.markdown,application/json,text/markdown", onchange: () => send(input.files[0]) });
      const zone = h("label", { class: "drop-zone", for: "import-file" }, icon("upload"), h("strong", {}, t("chat.import_drop")), h("span", { class: "hint" }, t("chat.import_formats")));
      zone.addEventListener("dragover", (event) => (event.preventDefault(), zone.classList.add("over")));
      zone.addEventListener("dragleave", () => zone.classList.remove("over"));
      zone.addEventListener("drop", (event) => {
        event.preventDefault();
        zone.classList.remove("over");
        send(event.dataTransfer?.files[0]);
      });
      return [input, zone, status];
    },
  });
}
