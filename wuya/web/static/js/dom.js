// Building the page without HTML strings: every text becomes a text node, every link is checked.
//
//   h("button", { class: "button", onclick: send, "aria-label": t("chat.send") }, icon("send"), " ", label)
//
// Props: on<event> functions, `dataset` and `style` objects, boolean attributes (false, null, undefined leave the
// attribute out), `value`/`checked`/... of form fields as properties, anything else as an attribute.

const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "indeterminate", "readOnly", "textContent", "hidden", "open"]);
const LINKS = new Set(["href", "src", "action", "formaction", "xlink:href"]);
const FORBIDDEN = /^(on|srcdoc$|innerhtml$|outerhtml$|style$)/i;
const SVG = "http://www.w3.org/2000/svg";
const MATHML = "http://www.w3.org/1998/Math/MathML";

/** @type {{base: string, language: string, languages: Record<string, string>, accounts: boolean, viewer: any, data: any}} */
export const boot = JSON.parse(document.getElementById("boot")?.textContent || '{"base":"","language":"en","languages":{},"data":{}}');

/** What the handler gave to the page. */
export const pageData = () => boot.data;

/** Whether the person may do something: `may("label:lead")`. */
export const may = (permission) => Boolean(boot.viewer?.permissions.includes(permission));

/** A path of this server, behind whatever prefix a proxy shows it. */
export const url = (path) => (path.startsWith("/") ? boot.base + path : path);

/** The address if it is safe to follow, else null: http, https, mailto, or a place on this server. */
export function safeLink(address) {
  const text = String(address).trim();
  if (/[\u0000-\u001f\u007f]/.test(text)) return null;
  if (/^(https?:|mailto:)/i.test(text) || /^[#?]/.test(text) || /^\/(?![/\\])/.test(text) || /^\.\.?\//.test(text)) return text;
  if (/^blob:/i.test(text) || /^data:image\/(png|jpeg|gif|webp);/i.test(text)) return text;
  return /^[\w%-]+([/?#]|$)/.test(text) ? text : null;
}

function create(namespace, tag, props, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) setProp(node, name, value);
  append(node, children);
  return node;
}

function setProp(node, name, value) {
  if (typeof value === "function" && name.startsWith("on")) node.addEventListener(name.slice(2).toLowerCase(), value);
  else if (name === "dataset") Object.assign(node.dataset, value);
  else if (name === "style" && typeof value === "string") throw new Error("give styles as an object: the policy forbids style attributes");
  else if (name === "style") for (const [key, item] of Object.entries(value || {})) node.style.setProperty(key, String(item));
  else if (FORBIDDEN.test(name)) throw new Error(`not a safe property: ${name}`);
  else if (PROPERTIES.has(name)) node[name] = value;
  else if (value === false || value === null || value === undefined) node.removeAttribute(name);
  else if (LINKS.has(name)) {
    const link = safeLink(value);
    if (link !== null) node.setAttribute(name, link);
  } else node.setAttribute(name, value === true ? "" : String(value));
}

/** Add children: nodes, texts, numbers, arrays of them; null, undefined, false and true are nothing. */
export function append(node, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === true) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export const h = (tag, props, ...children) => create(null, tag, props, children);
export const svg = (tag, props, ...children) => create(SVG, tag, props, children);
export const mathml = (tag, props, ...children) => create(MATHML, tag, props, children);

/** A symbol of static/icons.svg. */
export const icon = (name, extra = "") =>
  svg("svg", { class: `icon ${extra}`.trim(), "aria-hidden": "true" }, svg("use", { href: url(`/static/icons.svg#${name}`) }));

/** A square button that shows only an icon; its name is spoken and shown on hover. */
export const iconButton = (name, label, props = {}) =>
  h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, ...props }, icon(name));

/** Replace all children. */
export function fill(node, ...children) {
  node.replaceChildren();
  return append(node, ...children);
}

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Call at most once in `ms`, with the last arguments, `ms` after the last call. */
export function debounce(action, ms) {
  let timer = 0;
  const later = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), ms);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** Say something to screen readers without moving the focus. */
export function announce(text) {
  const region = document.getElementById("announcer");
  if (region) region.textContent = text;
}

/** Whether a key press belongs to a text field. */
export function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}
