"""Texts in the reader's language, from the JSON catalogues that the pages use too (static/locales/LANGUAGE/AREA.json).

A text may hold names (`{count}`) and plurals (`{count, plural, one {# token} other {# tokens}}`). Keys are
`area.key`, and `area` is the file.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

LOCALES = Path(__file__).parent / "static" / "locales"
LANGUAGES = {"en": "English", "zh-CN": "\u4e2d\u6587"}
DEFAULT = "en"
_PLURAL = re.compile(r"\{(\w+), plural,((?:\s*\w+\s*\{[^{}]*\})+)\s*\}")
_CASE = re.compile(r"(\w+)\s*\{([^{}]*)\}")


@cache
def catalogue(language: str, area: str) -> Mapping[str, str]:
    """The texts of one area; empty if the area has none."""
    path = LOCALES / language / f"{area}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def translate(language: str, key: str, **values: object) -> str:
    """A text with its values; English where a language lacks it, the key itself where nobody has it."""
    area, _, name = key.partition(".")
    text = catalogue(language, area).get(name) or catalogue(DEFAULT, area).get(name)
    return fill(text, language, values) if text is not None else key


def fill(text: str, language: str, values: Mapping[str, object]) -> str:
    """Put values into a text."""

    def plural(match: re.Match[str]) -> str:
        count = values.get(match[1], 0)
        cases: dict[str, str] = dict(_CASE.findall(match[2]))
        which = "one" if language == "en" and count == 1 else "other"
        return cases.get(which, cases.get("other", "")).replace("#", str(count))

    text = _PLURAL.sub(plural, text)
    return re.sub(r"\{(\w+)\}", lambda match: str(values.get(match[1], match[0])), text)


def negotiate(accept_language: str) -> str:
    """The best language we have for an Accept-Language header."""
    wanted = []
    for part in accept_language.split(",")[:20]:
        tag, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), tag.lower()))
        except ValueError:
            continue
    for _, tag in sorted(wanted):
        for language in LANGUAGES:
            if tag.split("-")[0] == language.lower().split("-")[0]:
                return language
    return DEFAULT
