// The board: row 1 is the best, answers in one row tie. Tap an answer and then a row; or drag by the handle; or use the
// buttons below. Every way does the same thing to the model.

import { h, icon, iconButton } from "../dom.js";
import { t } from "../i18n.js";
import { letter } from "./rankmodel.js";

/** @param {{model: any, onFocus: (id: string, options?: any) => void, current: () => string, place: (id: string, row: number) => void}} options */
export function rankBoard({ model, onFocus, current, place, insert }) {
  const rows = model.ids.map((_, at) => {
    const slot = h("div", { class: "row-slot" });
    const number = h("button", { type: "button", class: "row-number", onclick: (event) => (event.stopPropagation(), place(current(), at + 1)) }, String(at + 1));
    const node = h("li", { class: "board-row", dataset: { row: String(at + 1) }, onclick: (event) => event.target.closest("button") || place(current(), at + 1) }, h("div", { class: "row-gap", dataset: { before: String(at + 1) }, "aria-hidden": "true" }), number, slot);
    return { node, slot, number };
  });
  const tray = h("div", { class: "tray-slot" });
  const trayNode = h("div", { class: "tray", dataset: { row: "0" }, onclick: (event) => event.target.closest("button") || place(current(), 0) }, h("span", { class: "tray-label" }, t("label.unplaced")), tray);

  const toolName = h("span", { class: "letter small" });
  const tools = h("div", { class: "board-tools", role: "toolbar", "aria-label": t("label.move_tools") },
    toolName,
    iconButton("up", t("label.move_up"), { onclick: () => model.move(current(), -1) }),
    iconButton("down", t("label.move_down"), { onclick: () => model.move(current(), 1) }),
    h("button", { type: "button", class: "button small quiet", title: t("label.tie_hint"), "aria-label": t("label.tie_hint"), onclick: () => model.tieUp(current()) }, t("label.tie")),
    h("button", { type: "button", class: "button small quiet", onclick: () => place(current(), 0) }, t("label.unplace")));

  const node = h("section", { class: model.ids.length > 6 ? "board dense" : "board", "aria-label": t("label.ranking") },
    h("ol", { class: "board-rows", "aria-label": t("label.ranking") }, rows.map((row) => row.node)), trayNode, tools);

  const chips = new Map(model.ids.map((id) => [id, makeChip(id)]));

  function chip(id) {
    const holder = chips.get(id);
    holder.classList.toggle("current", id === current());
    holder.lastElementChild.setAttribute("aria-pressed", String(id === current()));
    return holder;
  }

  function makeChip(id) {
    const name = letter(model.ids.indexOf(id));
    const handle = h("span", { class: "handle", "aria-hidden": "true" }, icon("drag"));
    const button = h("button", { type: "button", class: "rank-chip", dataset: { id }, "aria-label": t("label.chip", { answer: name }), onclick: (event) => (event.stopPropagation(), onFocus(id, { scroll: true, keep: true })) }, name);
    const holder = h("span", { class: "chip-holder", dataset: { id } }, handle, button);
    handle.addEventListener("pointerdown", (event) => drag(event, id, holder));
    return holder;
  }

  /** Follow the finger; the row under it takes the answer, a gap between rows makes room for it. */
  function drag(event, id, holder) {
    if (event.button > 0) return;
    event.preventDefault();
    onFocus(id, { scroll: false, keep: true });
    const box = holder.getBoundingClientRect();
    const ghost = h("div", { class: "chip-ghost" }, letter(model.ids.indexOf(id)));
    ghost.style.setProperty("width", `${box.width}px`);
    document.body.append(ghost);
    document.body.classList.add("dragging");
    const [dx, dy] = [event.clientX - box.left, event.clientY - box.top];
    let over = null;
    const at = (x, y) => {
      ghost.style.setProperty("translate", `${x - dx}px ${y - dy}px`);
      const found = document.elementFromPoint(x, y)?.closest("[data-before], [data-row]");
      const inside = found && node.contains(found) ? found : null;
      if (inside !== over) {
        over?.classList.remove("over");
        inside?.classList.add("over");
        over = inside;
      }
    };
    const move = (next) => at(next.clientX, next.clientY);
    const stop = (next) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", stop);
      removeEventListener("pointercancel", cancel);
      if (next) move(next);
      ghost.remove();
      document.body.classList.remove("dragging");
      over?.classList.remove("over");
      if (!next || !over) return;
      if (over.dataset.before) insert(id, Number(over.dataset.before));
      else place(id, Number(over.dataset.row));
    };
    const cancel = () => stop(null);
    addEventListener("pointermove", move);
    addEventListener("pointerup", stop);
    addEventListener("pointercancel", cancel);
    at(event.clientX, event.clientY);
  }

  function update() {
    const focused = document.activeElement?.dataset?.id && node.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const name = letter(model.ids.indexOf(current()));
    rows.forEach(({ node: row, slot, number }, at) => {
      const inside = model.in(at + 1);
      slot.replaceChildren(...inside.map(chip));
      row.classList.toggle("filled", inside.length > 0);
      row.classList.toggle("tied", inside.length > 1);
      number.setAttribute("aria-label", t("label.put_in_row", { answer: name, rank: at + 1 }));
    });
    tray.replaceChildren(...(model.unplaced.length ? model.unplaced.map(chip) : [h("span", { class: "muted small" }, t("label.all_placed"))]));
    toolName.textContent = name;
    if (focused) node.querySelector(`.rank-chip[data-id="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  return { node, update };
}
