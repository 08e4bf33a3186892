/** How full the model's context is: a ring, a figure, and in words for who asks. */
import { fill, h, svg } from "../dom.js";
import { compact, number, t } from "../i18n.js";

const AROUND = 2 * Math.PI * 7;

/** @param {HTMLElement} host */
export function meter(host) {
  const arc = svg("circle", { class: "meter-arc", cx: 9, cy: 9, r: 7, "stroke-dasharray": `0 ${AROUND}` });
  const ring = svg("svg", { class: "meter-ring", viewBox: "0 0 18 18", "aria-hidden": "true" }, svg("circle", { class: "meter-track", cx: 9, cy: 9, r: 7 }), arc);
  const text = h("span", { class: "meter-text" });
  fill(host, ring, text);
  return {
    /** @param {{tokens: number, context_length: number, reserved: number, dropped: string[], truncated: boolean} | null} counted */
    show(counted) {
      host.hidden = !counted;
      if (!counted) return;
      const { tokens, context_length: length, dropped } = counted;
      const share = Math.min(1, tokens / length);
      arc.setAttribute("stroke-dasharray", `${share * AROUND} ${AROUND}`);
      host.dataset.level = dropped?.length || share >= 1 ? "over" : share > 0.8 ? "high" : "";
      text.textContent = `${compact(tokens)} / ${compact(length)}`;
      const words = [t("chat.context", { tokens: number(tokens), length: number(length) })];
      if (dropped?.length) words.push(t("chat.context_dropped", { count: dropped.length }));
      host.title = words.join(" ");
      host.setAttribute("aria-label", host.title);
    },
  };
}
