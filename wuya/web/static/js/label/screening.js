// Prompts that wait for a lead: read one, approve or reject it, the next one comes. Keys: a approves, r rejects, u undoes.

import { api } from "../api.js";
import { h } from "../dom.js";
import { openDialog, toast } from "../dialog.js";
import { number, t } from "../i18n.js";

/** True if anything was decided. */
export async function screenPrompts() {
  let page = await api.get("/api/admin/prompts?state=new");
  let decided = 0;
  let last = null;
  let busy = false; // a key pressed twice decides once
  const place = h("div", { class: "stack", "aria-live": "polite" });
  const buttons = { approved: button("approve", "approved", "primary"), rejected: button("reject", "rejected", "danger") };
  const back = h("button", { type: "button", class: "button quiet", disabled: true, onclick: undo }, t("label.put_back"));
  show();
  document.addEventListener("keydown", onKey);
  await openDialog({
    title: t("label.screen_prompts"),
    wide: true,
    body: () => place,
    actions: (close) => [back, h("button", { type: "button", class: "button", onclick: () => close() }, t("common.close")), buttons.rejected, buttons.approved],
  });
  document.removeEventListener("keydown", onKey);
  return decided > 0;

  function button(word, state, look) {
    return h("button", { type: "button", class: `button ${look}`, onclick: () => decide(state) }, t(`label.${word}`));
  }
  function show() {
    const prompt = page.items[0];
    for (const one of Object.values(buttons)) one.disabled = !prompt;
    place.replaceChildren(h("p", { class: "muted small" }, t("label.prompts_wait", { count: number(page.waiting) })), ...(prompt
      ? [...prompt.messages.map((m) => h("div", { class: "card" }, h("strong", { class: "small muted" }, m.role), h("p", { dir: "auto", style: { "white-space": "pre-wrap" } }, m.content))),
        h("p", { class: "muted small" }, [prompt.source, prompt.lang, prompt.split, t(`label.pii_${prompt.pii_state || "unchecked"}`)].filter(Boolean).join(" \u00b7 "))]
      : [h("p", {}, t("label.nothing_waits"))]));
  }
  async function decide(state) {
    const prompt = page.items[0];
    if (!prompt || busy) return;
    busy = true;
    try {
      await api.post("/api/admin/prompts", { ids: [prompt.id], state });
      [last, decided] = [prompt, decided + 1];
      page.items.shift();
      page.waiting -= 1;
      if (!page.items.length && page.waiting > 0) page = await api.get("/api/admin/prompts?state=new");
    } catch (error) {
      toast(error.message, { kind: "bad" });
    }
    [busy, back.disabled] = [false, !last];
    show();
  }
  async function undo() {
    if (!last || busy) return;
    busy = true;
    try {
      await api.post("/api/admin/prompts", { ids: [last.id], state: "new" });
      page.items.unshift(last);
      page.waiting += 1;
      last = null;
    } catch (error) {
      toast(error.message, { kind: "bad" });
    }
    [busy, back.disabled] = [false, !last];
    show();
  }
  function onKey(event) {
    const action = { a: () => decide("approved"), r: () => decide("rejected"), u: undo }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }
}
