/** What the server said, in the reader's words where we have them. */
import { url } from "../dom.js";
import { t } from "../i18n.js";

/** @param {any} problem an ApiError; somebody who is not signed in any more is sent to do so */
export function explain(problem) {
  if (problem?.status === 401) window.location.assign(url(`/login?next=${encodeURIComponent(window.location.pathname)}`));
  const known = t(`chat.error_${problem?.code}`);
  return known.startsWith("chat.") ? problem?.message || t("chat.error_other") : known;
}
