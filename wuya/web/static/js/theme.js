// Light, dark, or as the system says. The choice is kept with the account and in a cookie, so no page flashes.

import { api } from "./api.js";
import { boot } from "./dom.js";

export const THEMES = ["auto", "light", "dark"];
export const theme = () => document.documentElement.dataset.theme || "auto";

/** Change the theme at once and keep it. */
export async function setTheme(name) {
  document.documentElement.dataset.theme = name;
  remember("wuya_theme", name);
  if (boot.viewer) await api.patch("/api/me", { theme: name }).catch(() => {});
}

/** Change the language and show the page again. */
export async function setLanguage(name) {
  remember("wuya_locale", name);
  if (boot.viewer) await api.patch("/api/me", { locale: name }).catch(() => {});
  window.location.reload();
}

function remember(name, value) {
  document.cookie = `${name}=${encodeURIComponent(value)}; path=${boot.base || "/"}; max-age=31536000; samesite=lax`;
}
