"""Words to find: FTS5 on SQLite, tsvector on PostgreSQL, both over terms that are made here.

A term is a word in lower case, or a pair of neighbouring Chinese, Japanese or Korean characters; so a word of two
characters is found, which FTS5's own `trigram` can't. Each character of a run starts a term: one character is a prefix.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

MAX_QUERY = 100
"""Characters."""
MAX_INDEXED = 50_000
"""Characters of a message that can be searched for."""
_CJK = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_CJK += "\U00020000-\U0003ffff"
_RUN = re.compile(f"([{_CJK}]+)|([^\\W_{_CJK}]+)")
_CONTEXT = 60


@dataclass(frozen=True, slots=True)
class Phrase:
    """Terms that must follow one another; the last may be the beginning of a word."""

    terms: tuple[str, ...]
    prefix: bool


def terms(text: str) -> list[str]:
    """What a text is indexed under, in order."""
    found: list[str] = []
    for match in _RUN.finditer(fold(text[:MAX_INDEXED])):
        run, word = match.groups()
        if word:
            found.append(word[:64])
        else:
            found += [run[i : i + 2] for i in range(len(run))]  # the last one is a single character
    return found


def phrases(query: str) -> list[Phrase]:
    """What to look for: every word must occur; the last word may still be being typed."""
    found: list[Phrase] = []
    for match in _RUN.finditer(fold(query[:MAX_QUERY])):
        run, word = match.groups()
        if word:
            found.append(Phrase((word[:64],), prefix=match.end() == len(fold(query[:MAX_QUERY]))))
        elif len(run) == 1:
            found.append(Phrase((run,), prefix=True))
        else:
            found.append(Phrase(tuple(run[i : i + 2] for i in range(len(run) - 1)), prefix=False))
    return found


def fts5_query(wanted: Sequence[Phrase]) -> str:
    """For MATCH; terms hold only letters and digits, so quoting is safe."""
    return " AND ".join(f'"{" ".join(p.terms)}"' + ("*" if p.prefix else "") for p in wanted)


def ts_query(wanted: Sequence[Phrase]) -> str:
    """For to_tsquery('simple', ...)."""
    return " & ".join("(" + " <-> ".join(f"'{t}'" for t in p.terms) + ")" if len(p.terms) > 1
                      else f"'{p.terms[0]}'" + (":*" if p.prefix else "") for p in wanted)  # fmt: skip


def fold(text: str) -> str:
    """Case and width do not matter."""
    return unicodedata.normalize("NFKC", text).casefold()


def snippet(text: str, query: str) -> list[tuple[str, bool]]:
    """The neighbourhood of the first hit in pieces: (text, whether it matched)."""
    words = sorted({word for match in _RUN.finditer(query[:MAX_QUERY]) if (word := match.group())}, key=len)[::-1]
    if not words:
        return [(text[: 2 * _CONTEXT], False)] if text else []
    pattern = re.compile("|".join(map(re.escape, words)), re.IGNORECASE)
    first = pattern.search(text)
    start = max(0, first.start() - _CONTEXT) if first else 0
    window = " ".join(text[start : start + 3 * _CONTEXT].split())
    pieces: list[tuple[str, bool]] = [("\u2026", False)] if start else []
    end = 0
    for match in pattern.finditer(window):
        pieces += [(window[end : match.start()], False), (match.group(), True)]
        end = match.end()
    pieces.append((window[end:], False))
    if start + 3 * _CONTEXT < len(text):
        pieces.append(("\u2026", False))
    return [piece for piece in pieces if piece[0]]
