/**
 * Draws the server's node tree of Markdown (wuya/web/markdown/nodes.py) element by element.
 *
 * Nothing here parses HTML. A node whose type, tag or attribute is not listed below is drawn as nothing, so a model
 * can write whatever it likes. The server's tree is checked again on this side: two locks, two keys.
 */
import { t } from "./i18n.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const DEPTH = 48;
const MATH_TAGS = new Set(
  ("math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts " +
    "mprescripts none mtable mtr mtd menclose mpadded mphantom mstyle").split(" "),
);
const MATH_ATTRIBUTES = new Set(
  ("display mathvariant stretchy fence separator form lspace rspace minsize maxsize linethickness columnalign rowalign " +
    "columnspacing rowspacing columnlines rowlines notation width height depth voffset accent accentunder displaystyle " +
    "scriptlevel largeop movablelimits symmetric").split(" "),
);
const TOKEN_CLASS = /^[a-z][a-z0-9]{0,3}$/;
const SAFE_HREF = /^(https?:\/\/|mailto:)/i;
const ALIGN = new Set(["left", "right", "center"]);

/** @typedef {string | {type: string, [key: string]: any}} Node_ one node of the tree, or plain text */

/** @param {string} tag @param {string} [className] @param {...(Node|string)} children */
function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** @param {unknown} children @param {number} depth @param {(node: Node_, depth: number) => Node | null} draw */
function drawAll(children, depth, draw) {
  const made = [];
  for (const child of Array.isArray(children) ? children : []) {
    const drawn = depth < DEPTH ? draw(child, depth + 1) : null;
    if (drawn) made.push(drawn);
  }
  return made;
}

/** @param {any} node @param {number} depth @returns {Node | null} */
function drawMath(node, depth) {
  if (typeof node === "string") return document.createTextNode(node);
  if (!node || !MATH_TAGS.has(node.tag)) return null;
  const made = document.createElementNS(MATHML, node.tag);
  for (const [key, value] of Object.entries(node.attrs ?? {})) {
    if (MATH_ATTRIBUTES.has(key)) made.setAttribute(key, String(value));
  }
  made.append(...drawAll(node.children, depth, drawMath));
  return made;
}

/** @param {any} node */
function formula(node) {
  const drawn = node.mathml ? drawMath(node.mathml, 0) : null;
  if (drawn instanceof Element && node.display) drawn.setAttribute("display", "block");
  const box = element(node.display ? "div" : "span", node.display ? "math math-block" : "math");
  if (node.display) box.tabIndex = 0; // wide formulas scroll sideways, by keyboard too
  box.append(drawn ?? element("code", "math-source", String(node.source ?? "")));
  return box;
}

/** @param {any} node @param {(string|Node)[]} inside */
function link(node, inside) {
  if (typeof node.href !== "string" || !SAFE_HREF.test(node.href)) return element("span", "", ...inside);
  const made = element("a", "external", ...inside);
  made.href = node.href;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  made.title = node.host || node.href;
  return made;
}

/** @param {Node_} node @param {number} depth @returns {Node | null} */
function drawInline(node, depth) {
  if (typeof node === "string") return document.createTextNode(node);
  switch (node?.type) {
    case "em":
    case "strong":
    case "del":
      return element(node.type, "", ...drawAll(node.children, depth, drawInline));
    case "codespan":
      return element("code", "", String(node.text ?? ""));
    case "break":
      return element("br");
    case "link":
      return link(node, drawAll(node.children, depth, drawInline));
    case "image":
      return link(node, [element("span", "image-link", t("chat.image", { alt: node.alt || node.host || "" }))]);
    case "math":
      return formula(node);
    case "mark":
      return element("span", "invisible-mark", String(node.code ?? ""));
    default:
      return null;
  }
}

/** @param {any} node */
function codeBlock(node) {
  const code = element("code");
  for (const [name, text] of node.tokens ?? []) {
    code.append(TOKEN_CLASS.test(name) ? element("span", `tok-${name}`, String(text)) : String(text));
  }
  const bar = element("figcaption", "code-bar", element("span", "code-lang", String(node.lang || t("chat.code"))));
  for (const action of ["wrap", "copy"]) {
    const button = element("button", "code-action", t(`chat.code_${action}`));
    button.type = "button";
    button.dataset.code = action;
    if (action === "wrap") button.setAttribute("aria-pressed", "false");
    bar.append(button);
  }
  const pre = element("pre", "", code);
  pre.tabIndex = 0;
  return element("figure", "code", bar, pre);
}

/** @param {any} node @param {number} depth */
function table(node, depth) {
  const row = (cells, tag) => {
    const made = element("tr");
    (Array.isArray(cells) ? cells : []).forEach((cell, column) => {
      const align = node.align?.[column];
      made.append(element(tag, ALIGN.has(align) ? `align-${align}` : "", ...drawAll(cell, depth, drawInline)));
    });
    return made;
  };
  const body = element("tbody", "", ...(node.rows ?? []).map((cells) => row(cells, "td")));
  const box = element("div", "table-scroll", element("table", "", element("thead", "", row(node.head, "th")), body));
  box.tabIndex = 0;
  return box;
}

/** @param {any} node @param {number} depth */
function list(node, depth) {
  const made = element(node.ordered ? "ol" : "ul", node.tight ? "tight" : "");
  if (node.ordered && Number.isInteger(node.start)) made.start = node.start;
  for (const item of node.items ?? []) made.append(element("li", "", ...drawAll(item, depth, drawBlock)));
  return made;
}

/** @param {Node_} node @param {number} [depth] @returns {Node | null} one top-level block, or null where its type is unknown */
export function drawBlock(node, depth = 0) {
  if (typeof node === "string") return element("p", "", node);
  switch (node?.type) {
    case "paragraph":
      return element("p", "", ...drawAll(node.children, depth, drawInline));
    case "heading":
      // the page's own h1 and h2 stay above: an answer's first level is h3 to screen readers
      return element(`h${Math.min(6, 2 + (Number(node.level) || 1))}`, `h-${Number(node.level) || 1}`, ...drawAll(node.children, depth, drawInline));
    case "quote":
      return element("blockquote", "", ...drawAll(node.children, depth, drawBlock));
    case "list":
      return list(node, depth);
    case "rule":
      return element("hr");
    case "code":
      return codeBlock(node);
    case "table":
      return table(node, depth);
    case "math":
      return formula(node);
    default:
      return drawInline(node, depth);
  }
}

/**
 * Keep the first blocks, redraw the others: what one event of a stream changes.
 * @param {Element} host @param {Node_[]} nodes @param {number} [from] how many blocks at the start stay
 */
export function drawBlocks(host, nodes, from = 0) {
  while (host.childNodes.length > from) host.lastChild?.remove();
  host.append(...drawAll(nodes, 0, (node) => drawBlock(node) ?? document.createComment("unknown")));
}

/**
 * Show text whose nodes have not come yet at the end of what is drawn, where it most likely belongs.
 * @param {Element} host @param {string} text @returns {Node[]} what was added, to take away when the nodes come
 */
export function appendText(host, text) {
  const made = document.createTextNode(text);
  let at = /** @type {Element | null} */ (host.lastElementChild);
  if (at?.matches("figure.code")) at = at.querySelector("code");
  else while (at?.lastElementChild && at.matches("ul, ol, li, blockquote")) at = at.lastElementChild;
  if (at && !at.matches("hr, .math-block, .table-scroll, ul, ol, blockquote")) {
    at.append(made);
    return [made];
  }
  if (!text.trim()) return [];
  const paragraph = element("p", "", made);
  host.append(paragraph);
  return [paragraph];
}

/**
 * Buttons in code blocks, by delegation: one listener for any number of messages.
 * @param {Element} root @param {{copied: (button: Element) => void, external: (anchor: HTMLAnchorElement) => void}} then
 */
export function listenToMarkdown(root, then) {
  root.addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    const button = target.closest("button[data-code]");
    const anchor = /** @type {HTMLAnchorElement | null} */ (target.closest("a.external"));
    if (anchor) {
      event.preventDefault();
      then.external(anchor);
    } else if (button?.getAttribute("data-code") === "wrap") {
      const wrapped = button.closest("figure")?.classList.toggle("wrapped");
      button.setAttribute("aria-pressed", String(Boolean(wrapped)));
    } else if (button) {
      navigator.clipboard?.writeText(button.closest("figure")?.querySelector("code")?.textContent ?? "");
      then.copied(button);
    }
  });
}
