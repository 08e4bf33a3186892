// Ctrl/Cmd-K: go anywhere, do anything. Areas add commands with `addCommands`.

import { $, boot, fill, h, icon, url } from "./dom.js";
import { openDialog } from "./dialog.js";
import { t } from "./i18n.js";
import { setTheme, THEMES } from "./theme.js";

const extra = [];

/** Add commands: a function that gives [{label, icon, run}], called when the palette opens; it may be async. */
export const addCommands = (source) => extra.push(source);

export async function palette() {
  const links = [...document.querySelectorAll("#rail-links a")].map((link) => ({
    label: link.textContent.trim(), icon: link.dataset.icon, run: () => (window.location.href = link.href),
  }));
  const themes = THEMES.map((name) => ({ label: `${t("common.theme")}: ${t(`common.theme_${name}`)}`, icon: "theme", run: () => setTheme(name) }));
  const account = boot.viewer ? [{ label: t("common.account"), icon: "user", run: () => (window.location.href = url("/account")) }] : [];
  const commands = [...(await Promise.all(extra.map((source) => source()))).flat(), ...links, ...account, ...themes];
  let at = 0;
  let shown = commands;
  openDialog({
    title: t("common.palette"),
    body: (close) => {
      const list = h("ul", { class: "palette", role: "listbox", id: "palette-list" });
      const run = (command) => (close(), command.run());
      const draw = () => {
        fill(list, shown.map((command, index) =>
          h("li", { role: "option", id: `palette-${index}`, "aria-selected": String(index === at), onclick: () => run(command) },
            command.icon ? icon(command.icon) : null, command.label)));
        input.setAttribute("aria-activedescendant", shown.length ? `palette-${at}` : "");
        $("[aria-selected=true]", list)?.scrollIntoView({ block: "nearest" });
      };
      const input = h("input", {
        class: "input", type: "text", role: "combobox", autofocus: true, "aria-label": t("common.palette"), "aria-expanded": "true",
        "aria-controls": "palette-list", placeholder: t("common.palette_hint"), maxlength: 100,
        oninput: () => {
          const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
          shown = commands.filter((command) => words.every((word) => command.label.toLowerCase().includes(word)));
          at = 0;
          draw();
        },
        onkeydown: (event) => {
          if (event.isComposing) return;
          const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
          if (step && shown.length) at = (at + step + shown.length) % shown.length;
          else if (event.key === "Enter" && shown[at]) run(shown[at]);
          else return;
          event.preventDefault();
          draw();
        },
      });
      draw();
      return [input, list];
    },
  });
}
