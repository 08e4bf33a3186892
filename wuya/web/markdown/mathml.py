r"""LaTeX maths to MathML, as JSON nodes {tag, attrs, children}. Only elements and attributes on the lists below pass.

latex2mathml does the conversion. What it can't convert, or what is too long, gives None: the page shows the source.
"""

import html
import re
from functools import lru_cache
from typing import Any
from xml.etree.ElementTree import Element

MAX_SOURCE = 1000
"""Longest formula in characters: the converter's time grows with the square (a thousand letters: 0.2 s)."""
MAX_DEPTH = 40
MAX_NODES = 2000
TAGS = frozenset(
    "math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts "
    "mprescripts none mtable mtr mtd menclose mpadded mphantom mstyle".split()
)
ATTRIBUTES = frozenset(
    "display mathvariant stretchy fence separator form lspace rspace minsize maxsize linethickness columnalign "
    "rowalign columnspacing rowspacing columnlines rowlines notation width height depth voffset accent accentunder "
    "displaystyle scriptlevel largeop movablelimits symmetric".split()
)
_VALUE = re.compile(r"[A-Za-z0-9.+\- %]{0,60}")
Node = dict[str, Any]


class _TooMuch(ValueError):
    """The formula nests too deep or has too many parts."""


@lru_cache(maxsize=1024)
def math_node(source: str, *, display: bool) -> Node | None:
    """The tree of a formula, or None if it can't be drawn. The result is shared: never change it."""
    if not source.strip() or len(source) > MAX_SOURCE:
        return None
    from latex2mathml import exceptions  # a tenth of a second, and most chats have no maths
    from latex2mathml.converter import convert_to_element

    refusals = tuple(k for k in vars(exceptions).values() if isinstance(k, type) and issubclass(k, Exception))
    slips: tuple[type[Exception], ...] = (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        StopIteration,
        RecursionError,
    )
    try:
        element = convert_to_element(source, display="block" if display else "inline")
        counter = [0]
        nodes = _nodes(element, 0, counter)
    except (*refusals, *slips):  # it parses what people and models type: any slip means "show the source"
        return None
    return nodes[0] if nodes and isinstance(nodes[0], dict) and nodes[0]["tag"] == "math" else None


def _nodes(element: Element, depth: int, counter: list[int]) -> list[str | Node]:
    """The element as a node; an element that is not on the list is replaced by its children."""
    counter[0] += 1
    if depth > MAX_DEPTH or counter[0] > MAX_NODES:
        raise _TooMuch
    children: list[str | Node] = [html.unescape(element.text)] if element.text else []
    for child in element:
        children += _nodes(child, depth + 1, counter)
    tag = str(element.tag).rpartition("}")[2]
    if tag not in TAGS:
        return children
    attributes = {k: v for k, v in element.attrib.items() if k in ATTRIBUTES and _VALUE.fullmatch(v)}
    return [{"tag": tag, "attrs": attributes, "children": children}]
