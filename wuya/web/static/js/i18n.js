// Texts in the reader's language. `await load("chat")` once, then `t("chat.send")`; "common" is always there.

import { boot, url } from "./dom.js";

const texts = {};
export const language = boot.language;
const plurals = new Intl.PluralRules(language);

/** Fetch the catalogues of some areas. */
export async function load(...areas) {
  await Promise.all(
    ["common", ...areas].filter((area) => !(area in texts)).map(async (area) => {
      texts[area] = {};
      const response = await fetch(url(`/static/locales/${language}/${area}.json`));
      if (response.ok) texts[area] = await response.json();
    }),
  );
}

/** A text with its values; the key itself if there is none. */
export function t(key, values = {}) {
  const dot = key.indexOf(".");
  const text = texts[key.slice(0, dot)]?.[key.slice(dot + 1)];
  return text === undefined ? key : format(text, values);
}

/** Put values into a text: `{name}`, `{count, plural, one {# token} other {# tokens}}`. */
export function format(text, values) {
  const chosen = text.replace(/\{(\w+), plural,((?:\s*\w+\s*\{[^{}]*\})+)\s*\}/g, (_, name, cases) => {
    const count = Number(values[name] ?? 0);
    const found = Object.fromEntries([...cases.matchAll(/(\w+)\s*\{([^{}]*)\}/g)].map((match) => [match[1], match[2]]));
    return (found[plurals.select(count)] ?? found.other ?? "").replaceAll("#", number(count));
  });
  return chosen.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

const formats = new Map();

/** A formatter of Intl, made once: making one takes a hundred times as long as using it. */
function intl(kind, options) {
  const key = `${kind.name} ${JSON.stringify(options ?? {})}`;
  if (!formats.has(key)) formats.set(key, new kind(language, options));
  return formats.get(key);
}

export const number = (value, options) => intl(Intl.NumberFormat, options).format(value);
export const compact = (value) => number(value, { notation: "compact", maximumFractionDigits: 1 });
export const percent = (value, digits = 0) => number(value, { style: "percent", maximumFractionDigits: digits });
export const date = (value, options = { dateStyle: "medium" }) => intl(Intl.DateTimeFormat, options).format(new Date(value));
export const dateTime = (value) => date(value, { dateStyle: "medium", timeStyle: "short" });

/** "2 minutes ago", "in 3 days". */
export function relative(value) {
  const seconds = (new Date(value).getTime() - Date.now()) / 1000;
  const format = intl(Intl.RelativeTimeFormat, { numeric: "auto" });
  for (const [unit, size] of [["year", 31536000], ["month", 2592000], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]])
    if (Math.abs(seconds) >= size) return format.format(Math.round(seconds / size), unit);
  return format.format(Math.round(seconds), "second");
}

/** "1:04:09" or "4:09" of seconds. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((part, index) => (index ? String(part).padStart(2, "0") : part)).join(":");
}
