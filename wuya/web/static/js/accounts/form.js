// The account forms: the secret of a link goes from the fragment into its field; passwords can be shown.

import { $, $$ } from "../dom.js";

const secret = window.location.hash.slice(1);
const field = $("input[name=token]");
if (field && /^[\w-]{20,100}$/.test(secret)) {
  field.value = secret;
  field.closest("[data-token]").hidden = true;
  history.replaceState(null, "", window.location.pathname);
}
for (const button of $$("[data-show]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const input = $("input", button.parentElement);
    const shown = input.type === "text";
    input.type = shown ? "password" : "text";
    button.setAttribute("aria-pressed", String(!shown));
  });
}
$$("input:not([type=hidden]):not([type=radio]):not([type=checkbox])").find((input) => !input.value && input.offsetParent)?.focus();
