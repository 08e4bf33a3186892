/** Under a thumb: why, and what would have been better. Nothing here has to be filled in. */
import { h } from "../dom.js";
import { t } from "../i18n.js";

/** @type {{good: string[], bad: string[]}} set once from the server's list */
export const reasons = { good: [], bad: [] };

/**
 * A row of switches. @param {string[]} names @param {Set<string>} chosen changed in place @param {string} label
 * @param {() => void} [changed]
 */
export function chips(names, chosen, label, changed = () => {}) {
  return h("div", { class: "chips", role: "group", "aria-label": label },
    names.map((name) => {
      const button = h("button", { type: "button", class: "chip", "aria-pressed": String(chosen.has(name)), dataset: { reason: name } }, t(`chat.reason_${name}`));
      button.addEventListener("click", () => {
        if (chosen.has(name)) chosen.delete(name);
        else chosen.add(name);
        button.setAttribute("aria-pressed", String(chosen.has(name)));
        changed();
      });
      return button;
    }));
}

/**
 * @param {import("./tree.js").Message} message rated already
 * @param {{save: (rating: any) => Promise<any>, close: () => void}} on
 */
export function ratingPanel(message, { save, close }) {
  const { value, comment = "", better_answer: better = "" } = message.feedback ?? {};
  const chosen = new Set(message.feedback?.reasons ?? []);
  const note = h("textarea", { class: "input", rows: 2, maxlength: 4000, value: comment ?? "", "aria-label": t("chat.comment"), placeholder: t("chat.comment") });
  const answer = h("textarea", { class: "input", rows: 6, value: better || message.content, "aria-label": t("chat.better_answer") });
  const improve = h("details", { class: "better", open: Boolean(better) }, h("summary", {}, t("chat.write_better")), h("p", { class: "hint" }, t("chat.better_hint")), answer);
  const send = async () => {
    const written = improve.open && answer.value.trim() !== message.content.trim() ? answer.value.trim() : "";
    await save({ value, reasons: [...chosen], comment: note.value.trim(), better_answer: written });
    close();
  };
  const panel = h("section", { class: "rating", "aria-label": t("chat.why") },
    h("p", { class: "rating-title" }, t(value > 0 ? "chat.why_good" : "chat.why_bad")),
    chips(value > 0 ? reasons.good : reasons.bad, chosen, t("chat.why")), note, improve,
    h("div", { class: "row end" },
      h("button", { type: "button", class: "button small", onclick: close }, t("chat.not_now")),
      h("button", { type: "button", class: "button primary small", dataset: { act: "send-rating" }, onclick: send }, t("chat.send_rating"))));
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) (event.stopPropagation(), close());
  });
  return panel;
}
