"""Markdown to a tree of JSON nodes from a closed list; the page draws it node by node, and no HTML string ever exists.

    render("**hi** $x$")   ->   [{"type": "paragraph", "children": [{"type": "strong", ...}, " ", {"type": "math"}]}]

A child is a string or a node. Raw HTML stays text, images become links, links are http, https or mailto, characters
that hide or turn text around become marks. The list of nodes is in docs/concepts/generation-jobs.md.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from wuya.web.markdown.highlight import code_tokens, language
from wuya.web.markdown.math_rules import math_plugin
from wuya.web.markdown.mathml import math_node

Node = dict[str, Any]
Child = str | Node
MAX_NESTING = 40
MAX_HREF = 2000
MAX_TEXT = 400_000
"""Characters parsed as Markdown; more is shown as plain text."""
MAX_REMEMBERED = 10_000
"""Characters of a text whose drawing is kept for the next reader; nodes take up to 70 bytes a character."""
MAX_BRACKETS = 4000
"""Opening brackets; a text with more has no links (finding them takes time with the square)."""
HIDDEN = re.compile(
    "[\u202a-\u202e\u2066-\u2069\u061c\U000e0000-\U000e007f\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # turn, tag, control
    "|[\u200b\u2060-\u2064\ufeff]"  # no width and no use inside a text
    "|[\u200c-\u200f]{2,}"  # joiners and direction marks have their use, in a run they hide something
)


def _parser(*, links: bool = True) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    parser.disable(["reference", "html_block", "html_inline"])  # a reference could change a block drawn long ago
    if not links:
        parser.disable(["link", "image"])
    return parser.use(math_plugin)


_PARSER = _parser()
_PARSER_WITHOUT_LINKS = _parser(links=False)


def render(text: str) -> list[Node]:
    """The blocks of a text. The result is shared: never change it."""
    return _remembered(text) if len(text) <= MAX_REMEMBERED else _drawn(text)


def _drawn(text: str) -> list[Node]:
    return [block for block, _ in blocks_with_lines(text)]


_remembered = lru_cache(maxsize=512)(_drawn)


def blocks_with_lines(text: str) -> list[tuple[Node, int]]:
    """Top-level blocks, each with the line (from 0) on which it starts."""
    if len(text) > MAX_TEXT:
        return [({"type": "paragraph", "children": marked(text)}, 0)]
    tokens = (_PARSER if text.count("[") <= MAX_BRACKETS else _PARSER_WITHOUT_LINKS).parse(text)
    found: list[tuple[Node, int]] = []
    position = 0
    while position < len(tokens):
        node, after = _block(tokens, position)
        if node is not None:
            found.append((node, (tokens[position].map or [0])[0]))
        position = after
    return found


def marked(text: str) -> list[Child]:
    """A text with its invisible characters made visible."""
    children: list[Child] = []
    end = 0
    for match in HIDDEN.finditer(text):
        if match.start() > end:
            children.append(text[end : match.start()])
        children += [{"type": "mark", "code": f"U+{ord(character):04X}"} for character in match.group()]
        end = match.end()
    return [*children, text[end:]] if end < len(text) else children


def safe_link(href: str) -> tuple[str, str] | None:
    """(address, host) of a link that may be clicked, None for any other."""
    if len(href) > MAX_HREF or re.search(r"[\x00-\x20\x7f-\xa0\\<>\"]", href) or HIDDEN.search(href):
        return None
    try:
        parts = urlsplit(href)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return None
    if parts.scheme == "mailto":
        return (href, "") if not parts.netloc and "@" in parts.path else None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or "%" in parts.netloc:
        return None
    return href, host


def _block(tokens: Sequence[Token], start: int) -> tuple[Node | None, int]:
    """The block that begins at `start`, and where the next one does."""
    token = tokens[start]
    kind = token.type
    if kind == "fence" or kind == "code_block":
        return _code(token), start + 1
    if kind == "hr":
        return {"type": "rule"}, start + 1
    if kind == "math_block":
        return _math(token.content, display=True), start + 1
    if kind in ("paragraph_open", "heading_open"):
        node: Node = {"type": "paragraph", "children": _inline(tokens[start + 1].children or [])}
        if kind == "heading_open":
            node = {"type": "heading", "level": int(token.tag[1]), "children": node["children"]}
        return node, start + 3
    end = _closing(tokens, start)
    inside = tokens[start + 1 : end]
    if kind == "blockquote_open":
        return {"type": "quote", "children": _blocks(inside)}, end + 1
    if kind in ("bullet_list_open", "ordered_list_open"):
        return _list(token, inside), end + 1
    if kind == "table_open":
        return _table(inside), end + 1
    return None, end + 1


def _blocks(tokens: Sequence[Token]) -> list[Node]:
    nodes, position = [], 0
    while position < len(tokens):
        node, position = _block(tokens, position)
        if node is not None:
            nodes.append(node)
    return nodes


def _closing(tokens: Sequence[Token], start: int) -> int:
    """Index of the token that closes the one at `start` (itself, if it opens nothing)."""
    depth = 0
    for index in range(start, len(tokens)):
        depth += tokens[index].nesting
        if depth <= 0:
            return index
    return len(tokens) - 1


def _list(token: Token, inside: Sequence[Token]) -> Node:
    items, position, tight = [], 0, True
    while position < len(inside):
        end = _closing(inside, position)
        content = inside[position + 1 : end]
        level = inside[position].level + 1
        tight = tight and all(t.hidden for t in content if t.type == "paragraph_open" and t.level == level)
        items.append(_blocks(content))
        position = end + 1
    start = token.attrGet("start")
    ordered = token.type == "ordered_list_open"
    return {"type": "list", "ordered": ordered, "start": int(start) if start is not None else 1, "tight": tight,
            "items": items}  # fmt: skip


def _table(inside: Sequence[Token]) -> Node:
    rows: list[list[list[Child]]] = []
    align: list[str | None] = []
    for index, token in enumerate(inside):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append(_inline(inside[index + 1].children or []))
            if token.type == "th_open":
                side = str(token.attrGet("style") or "").removeprefix("text-align:")
                align.append(side if side in ("left", "right", "center") else None)
    return {"type": "table", "align": align, "head": rows[0] if rows else [], "rows": rows[1:]}


def _code(token: Token) -> Node:
    lang = language(token.info) if token.type == "fence" else ""
    tokens: list[list[str]] = []
    for kind, text in code_tokens(token.content.removesuffix("\n"), lang):
        for part in marked(text):
            tokens.append([kind, part] if isinstance(part, str) else ["mark", part["code"]])
    return {"type": "code", "lang": lang, "tokens": tokens}


def _math(source: str, *, display: bool) -> Node:
    source = source.strip()
    node: Node = {"type": "math", "display": display, "source": _shown(source)}
    return node | {"mathml": None if HIDDEN.search(source) else math_node(source, display=display)}


def _shown(text: str) -> str:
    """Plain text in which hidden characters are spelled out."""
    return HIDDEN.sub(lambda match: "".join(f"[U+{ord(c):04X}]" for c in match.group()), text)


def _inline(tokens: Sequence[Token]) -> list[Child]:
    """Inline tokens as children; neighbouring texts are joined."""
    children: list[Child] = []
    stack: list[tuple[Node | None, list[Child]]] = []
    for token in tokens:
        if token.nesting == 1:
            stack.append((_opened(token), children))
            children = []
        elif token.nesting == -1 and stack:
            node, outer = stack.pop()
            if node is None:
                outer += children  # a link that may not be clicked is only its text
            else:
                outer.append(node | {"children": _joined(children)})
            children = outer
        else:
            children += _leaf(token)
    return _joined(children)


def _opened(token: Token) -> Node | None:
    if token.type == "link_open":
        link = safe_link(str(token.attrGet("href") or ""))
        title = token.attrGet("title")
        return {"type": "link", "href": link[0], "host": link[1], "title": _shown(str(title)) if title else None} \
            if link else None  # fmt: skip
    kinds = {"em_open": "em", "strong_open": "strong", "s_open": "del"}
    return {"type": kinds[token.type]} if token.type in kinds else None


def _leaf(token: Token) -> list[Child]:
    if token.type == "softbreak":
        return ["\n"]
    if token.type == "hardbreak":
        return [{"type": "break"}]
    if token.type == "code_inline":
        return [{"type": "codespan", "text": _shown(token.content)}]
    if token.type in ("math_inline", "math_inline_display"):
        return [_math(token.content, display=token.type == "math_inline_display")]
    if token.type == "image":
        link = safe_link(str(token.attrGet("src") or ""))
        text = _shown(token.content)
        return [{"type": "image", "href": link[0], "host": link[1], "alt": text}] if link else marked(token.content)
    return marked(token.content)


def _joined(children: list[Child]) -> list[Child]:
    joined: list[Child] = []
    for child in children:
        if isinstance(child, str) and joined and isinstance(joined[-1], str):
            joined[-1] += child
        elif child != "":
            joined.append(child)
    return joined
