"""ChatGPT's private marks in a text, for citations and names of things, as people saw them."""

import json
import re
from collections.abc import Mapping
from typing import Any

_MARK = re.compile("(?P<space> ?)\ue200(?P<body>[^\ue200\ue201]*)\ue201")
_UNCLOSED = re.compile(" ?\ue200[^\ue200\ue201]*$")
_ANY_MARK = re.compile("[\ue200-\ue202]")


def without_marks(text: str, metadata: Mapping[str, Any]) -> str:
    """The text with its marks for citations and names as people saw them: a link, a name, or nothing.

    A mark is U+E200 kind U+E202 argument ... U+E201; `content_references` says what was shown in place of some.
    """
    if not _ANY_MARK.search(text):
        return text
    references = metadata.get("content_references")
    for reference in references if isinstance(references, list) else ():
        mark, shown = (
            (reference.get(key) for key in ("matched_text", "alt")) if isinstance(reference, dict) else ("", "")
        )
        if isinstance(mark, str) and _MARK.fullmatch(mark) and isinstance(shown, str) and shown:
            text = text.replace(mark, shown)
    text = _MARK.sub(_shown, _UNCLOSED.sub("", text))
    return _ANY_MARK.sub("", text)


def _shown(match: re.Match[str]) -> str:
    """What people saw of a mark: a name, or nothing; the space before it stays where a word follows."""
    name, following = _name_in(match["body"]), match.string[match.end() : match.end() + 1]
    return match["space"] + name if name or following.isalnum() else ""


def _name_in(mark: str) -> str:
    """The name in a mark of an entity: `entity U+E202 ["people", "Ada Lovelace", 0]`; empty for every other mark."""
    kind, _, argument = mark.partition("\ue202")
    try:
        value = json.loads(argument) if kind == "entity" else None
    except ValueError:
        return ""
    return value[1] if isinstance(value, list) and len(value) > 1 and isinstance(value[1], str) else ""
