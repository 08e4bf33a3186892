// Two answers side by side with the words they share in grey and their own words marked.

import { openDialog } from "../dialog.js";
import { fill, h } from "../dom.js";
import { t } from "../i18n.js";
import { wordDiff } from "./diff.js";
import { letter } from "./rankmodel.js";

/** A run of own words; the spaces around it stay unmarked. */
const marked = (text) => [text.match(/^\s*/)[0], text.trim() ? h("mark", { class: "own-words" }, text.trim()) : null, text.trim() ? text.match(/\s*$/)[0] : null];

/** @param {any[]} candidates @param {any} model @param {string} start id of the left answer */
export function pairView(candidates, model, start) {
  let left = Math.max(0, candidates.findIndex((candidate) => candidate.id === start));
  let right = candidates.findIndex((_, at) => at !== left && at >= (left + 1) % candidates.length);
  if (right < 0 || right === left) right = left === 0 ? 1 : 0;
  const sides = [0, 1].map(() => h("div", { class: "pair-text" }));
  const pickers = [0, 1].map(() => h("div", { class: "pair-picker", role: "group" }));
  const shown = (runs) => runs.map(([same, text]) => (same ? text : marked(text)));

  function draw() {
    const diff = wordDiff(candidates[left].text, candidates[right].text);
    fill(sides[0], shown(diff.left));
    fill(sides[1], shown(diff.right));
    [left, right].forEach((chosen, side) => {
      pickers[side].setAttribute("aria-label", t(side ? "label.pair_right" : "label.pair_left"));
      fill(pickers[side], candidates.map((candidate, at) => {
        const rank = model.dense()[candidate.id];
        return h("button", { type: "button", class: "letter small", "aria-pressed": String(at === chosen), disabled: at === (side ? left : right), "aria-label": t("label.chip", { answer: letter(at) }), onclick: () => pick(side, at) }, letter(at), rank ? h("sub", {}, String(rank)) : null);
      }));
    });
  }
  function pick(side, at) {
    if (side) right = at;
    else left = at;
    draw();
  }
  function step(by) {
    do right = (right + by + candidates.length) % candidates.length;
    while (right === left);
    draw();
  }
  draw();
  return openDialog({
    title: t("label.pair_view"),
    wide: true,
    body: (close) => {
      const box = h("div", { class: "pair", tabindex: "0", autofocus: true }, [0, 1].map((side) => h("div", { class: "pair-side" }, pickers[side], sides[side])));
      box.addEventListener("keydown", (event) => {
        if (event.key === "ArrowRight" || event.key === "j") step(1);
        else if (event.key === "ArrowLeft" || event.key === "k") step(-1);
        else if (event.key === "p") close();
        else return;
        event.preventDefault();
      });
      return [h("p", { class: "muted small" }, t("label.pair_hint")), box];
    },
  });
}
