// One's own account: profile, what chats may be used for, password, signed-in browsers, deletion.

import { api } from "../api.js";
import { confirmDialog, openDialog, promptDialog, toast } from "../dialog.js";
import { $, boot, fill, h, url } from "../dom.js";
import { date, load, relative, t } from "../i18n.js";
import { singleKeys } from "../keys.js";
import { setLanguage, setTheme, theme, THEMES } from "../theme.js";

await load("accounts");
const root = $("#account");
let me = await api.get("/api/me");

async function change(values) {
  try {
    me = await api.patch("/api/me", values);
    toast(t("common.saved"), { kind: "good", ms: 2000 });
  } catch (error) {
    toast(error.message, { kind: "bad" });
  }
}

const select = (label, value, options, onchange) =>
  h("label", { class: "field" }, h("span", { class: "field-label" }, label),
    h("select", { class: "select", onchange: (event) => onchange(event.target.value) },
      options.map(([code, name]) => h("option", { value: code, selected: code === value }, name))));

function profile() {
  const name = h("input", { class: "input", value: me.name, maxlength: 60, autocomplete: "name", onchange: () => change({ name: name.value }) });
  return h("section", { class: "card" }, h("h2", {}, t("accounts.profile")),
    h("label", { class: "field" }, h("span", { class: "field-label" }, t("accounts.name")), name),
    me.email ? h("p", { class: "muted" }, me.email, " \u00b7 ", t(`accounts.role_${me.role}`), " \u00b7 ", t("accounts.since", { date: date(me.created_at) })) : null,
    select(t("common.language"), boot.language, Object.entries(boot.languages), setLanguage),
    select(t("common.theme"), theme(), THEMES.map((name) => [name, t(`common.theme_${name}`)]), setTheme),
    h("label", { class: "check" }, h("input", { type: "checkbox", checked: singleKeys(), onchange: (event) => singleKeys(event.target.checked) }), t("common.single_keys")));
}

function consent() {
  return h("section", { class: "card" }, h("h2", {}, t("accounts.training")),
    h("label", { class: "check" },
      h("input", { type: "checkbox", checked: me.data_use, onchange: (event) => change({ data_use: event.target.checked }) }),
      h("span", {}, t("accounts.data_use"), h("small", {}, t("accounts.data_use_hint")))));
}

function password() {
  if (!me.has_password) return h("section", { class: "card" }, h("h2", {}, t("accounts.password")), h("p", { class: "muted" }, t("accounts.no_password")));
  const field = (name, label, autocomplete) => h("label", { class: "field" }, h("span", { class: "field-label" }, label),
    h("input", { class: "input", type: "password", name, required: true, maxlength: 256, autocomplete }));
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(form));
    try {
      await api.post("/api/me/password", values);
      form.reset();
      toast(t("accounts.password_changed"), { kind: "good" });
      await drawSessions();
    } catch (error) {
      toast(t(`accounts.error_${error.code}`).startsWith("accounts.") ? error.message : t(`accounts.error_${error.code}`), { kind: "bad" });
    }
  } }, field("old", t("accounts.old_password"), "current-password"), field("new", t("accounts.new_password"), "new-password"),
    h("button", { class: "button" }, t("accounts.change_password")));
  return h("section", { class: "card" }, h("h2", {}, t("accounts.password")), form);
}

const explain = (error) => toast(t(`accounts.error_${error.code}`).startsWith("accounts.") ? error.message : t(`accounts.error_${error.code}`), { kind: "bad" });

/** The second factor: shown as a secret to type, for there is no picture of it that we could draw without more code. */
function factor() {
  const place = h("section", { class: "card" });
  const draw = () => fill(place, h("h2", {}, t("accounts.totp")), h("p", { class: "muted" }, t(me.totp ? "accounts.totp_on" : "accounts.totp_off")),
    h("div", {}, h("button", { type: "button", class: "button", dataset: { act: "totp" }, onclick: me.totp ? off : on }, t(me.totp ? "accounts.totp_disable" : "accounts.totp_enable"))));
  const done = (totp) => {
    me = { ...me, totp };
    draw();
    toast(t("common.saved"), { kind: "good", ms: 2000 });
  };
  const proofs = () => {
    const password = h("input", { class: "input", type: "password", name: "password", autocomplete: "current-password" });
    const code = h("input", { class: "input mono", inputmode: "numeric", autocomplete: "one-time-code", maxlength: 10, autofocus: true });
    const named = (label, input) => h("label", { class: "field" }, h("span", { class: "field-label" }, t(label)), input);
    return { code, password, fields: [named("accounts.totp_code", code), me.has_password ? named("accounts.password", password) : null] };
  };
  async function on() {
    try {
      const { secret, uri } = await api.post("/api/auth/totp/begin");
      const { code, password, fields } = proofs();
      const typed = await openDialog({
        title: t("accounts.totp"),
        body: () => [h("p", {}, t("accounts.totp_hint")), h("p", { class: "mono wrap", dataset: { secret } }, secret.match(/.{4}/g).join(" ")), h("p", { class: "muted small mono wrap" }, uri),
          ...fields],
        actions: (close) => h("button", { type: "submit", class: "button primary", onclick: () => close(code.value) }, t("accounts.totp_enable")),
      });
      if (!typed) return;
      await api.post("/api/auth/totp/enable", { secret, code: typed, password: password.value });
      done(true);
    } catch (error) {
      explain(error);
    }
  }
  async function off() {
    const { code, password, fields } = proofs();
    const typed = await openDialog({
      title: t("accounts.totp_disable"),
      body: () => fields,
      actions: (close) => h("button", { type: "submit", class: "button primary", onclick: () => close(code.value) }, t("accounts.totp_disable")),
    });
    if (!typed) return;
    try {
      await api.post("/api/auth/totp/disable", { code: typed, password: password.value });
      done(false);
    } catch (error) {
      explain(error);
    }
  }
  draw();
  return place;
}

const list = h("div", {});
async function drawSessions() {
  const { items } = await api.get("/api/me/sessions");
  fill(list, items.map((session) => h("div", { class: "session" },
    h("div", {}, h("div", { class: "wrap" }, session.ua || t("accounts.unknown_browser")),
      h("small", { class: "muted" }, session.ip_prefix, " \u00b7 ", relative(session.last_used_at))),
    session.current ? h("span", { class: "badge good" }, t("accounts.this_browser"))
      : h("button", { type: "button", class: "button small", onclick: async () => {
        await api.delete(`/api/me/sessions/${session.id}`);
        drawSessions();
      } }, t("common.sign_out")))));
}

async function remove() {
  const typed = await promptDialog({ title: t("accounts.delete_account"), label: t("accounts.delete_confirm", { word: me.name }), action: t("common.delete") });
  if (typed === null) return;
  if (typed !== me.name) return toast(t("accounts.delete_mismatch"), { kind: "bad" });
  try {
    await api.delete("/api/me");
    window.location.href = url("/login");
  } catch (error) {
    toast(error.message, { kind: "bad" });
  }
}

fill(root, profile(), me.data_use_offered ? consent() : null, ...(boot.accounts ? [
  password(),
  factor(),
  h("section", { class: "card" }, h("h2", {}, t("accounts.sessions")), list,
    h("div", {}, h("button", { type: "button", class: "button", onclick: async () => {
      if (!(await confirmDialog({ title: t("accounts.sign_out_others"), text: t("accounts.sign_out_others_hint"), action: t("common.sign_out") }))) return;
      await api.delete("/api/me/sessions/all");
      drawSessions();
    } }, t("accounts.sign_out_others")))),
  h("section", { class: "card" }, h("h2", {}, t("accounts.delete_account")), h("p", { class: "muted" }, t("accounts.delete_hint")),
    h("div", {}, h("button", { type: "button", class: "button danger", onclick: remove }, t("accounts.delete_account")))),
] : []));
root.removeAttribute("aria-busy");
if (boot.accounts) await drawSessions();
