// What every page has: language and theme menus, account menu, palette, help on keys.

import { api } from "./api.js";
import { menuButton } from "./dialog.js";
import { $, boot, may, url } from "./dom.js";
import { language, load, t } from "./i18n.js";
import { shortcuts, showKeys } from "./keys.js";
import { setLanguage, setTheme, THEMES, theme } from "./theme.js";

await load();

for (const button of document.querySelectorAll("[data-menu=language]"))
  menuButton(button, () => Object.entries(boot.languages).map(([code, name]) => ({ label: name, checked: code === language, onselect: () => setLanguage(code) })));
for (const button of document.querySelectorAll("[data-menu=theme]"))
  menuButton(button, () => THEMES.map((name) => ({ label: t(`common.theme_${name}`), checked: name === theme(), onselect: () => setTheme(name) })));
for (const button of document.querySelectorAll("[data-menu=account]"))
  menuButton(button, () => [
    { label: t("common.account"), icon: "user", onselect: () => (window.location.href = url("/account")) },
    { label: t("common.keys"), icon: "keyboard", onselect: showKeys },
    ...(boot.accounts ? [null, { label: t("common.sign_out"), icon: "logout", onselect: signOut }] : []),
  ]);

shortcuts("common.keys_everywhere", [
  { keys: "?", label: "common.keys", run: showKeys },
  { keys: "Mod+K", label: "common.palette", run: openPalette },
  { keys: "Mod+B", label: "common.toggle_rail", run: () => document.body.classList.toggle("rail-hidden") },
]);

async function signOut() {
  await api.post("/api/auth/logout").catch(() => {});
  window.location.href = url("/login");
}

async function openPalette() {
  const { palette } = await import("./palette.js");
  palette();
}

window.addEventListener("offline", () => $("#offline")?.removeAttribute("hidden"));
window.addEventListener("online", () => $("#offline")?.setAttribute("hidden", ""));
export { may };
