"""Which prompts of an import are kept, as InstructGPT did it (arXiv:2203.02155, section 3.2 and appendix A.1).

Duplicates are found by long common prefixes, one author gives at most 200 prompts, personal data is filtered, and the
splits are by author: nobody who wrote a test prompt wrote a training prompt.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from wuya.records import Prompt

MAX_PER_AUTHOR = 200
"""InstructGPT, appendix A.1."""
PREFIX_CHARS = 40
"""Texts that differ within so many characters are never duplicates of each other."""
PREFIX_SHARE = 0.8
"""Two prompts are the same if they share a prefix of this share of the longer one."""
SPLITS = (("train", 0.90), ("val", 0.05), ("test", 0.05))

PersonalData = Literal["keep", "redact", "drop"]
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("email", re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")),
    ("url_secret", re.compile(r"(?i)\b(?:api[_-]?key|token|password)\s*[=:]\s*[\w-]{8,}")),
    ("card", re.compile(r"(?<!\d)(?:\d[ -]?){13,19}(?!\d)")),
    ("identity", re.compile(r"(?<!\d)\d{17}[\dXx](?!\d)|(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)")),
    (
        "phone",
        re.compile(r"(?<![\d.])(?:\+\d{1,3}[ -]?)?(?:\(\d{2,4}\)[ -]?)?(?:\d{3,4}[ -]?){2}\d{3,4}(?!\d|\.\d)"),
    ),
    ("ip", re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\d|\.\d)")),
)


@dataclass(slots=True)
class ImportReport:
    """What became of every prompt of an import."""

    added: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    over_limit: int = 0
    personal_data: int = 0
    dropped_personal_data: int = 0
    splits: Counter[str] = field(default_factory=Counter)


def personal_data(text: str) -> dict[str, list[str]]:
    """What looks like personal data in a text, by kind. Patterns: they miss names, and may see a phone in a number."""
    found: dict[str, list[str]] = {}
    rest = text
    for kind, pattern in _PATTERNS:
        hits = [m.group() for m in pattern.finditer(rest) if kind != "card" or _luhn(m.group())]
        for hit in hits:
            rest = rest.replace(hit, " " * len(hit))
        if hits:
            found[kind] = hits
    return found


def redacted(text: str) -> str:
    """The text with [email], [phone], ... where personal data stood."""
    for kind, hits in personal_data(text).items():
        for hit in sorted(hits, key=len, reverse=True):
            text = text.replace(hit, f"[{kind}]")
    return text


def split_of(author: str) -> str:
    """train, val or test: always the same for one author."""
    place = int(hashlib.sha256(f"split {author}".encode()).hexdigest()[:8], 16) / 16**8
    for name, share in SPLITS:
        if place < share:
            return name
        place -= share
    return SPLITS[0][0]


class PromptFilter:
    """Decides on prompts one after the other; knows what the store holds and what it let pass."""

    def __init__(
        self,
        known: Iterable[str] = (),
        per_author: Mapping[str, int] | None = None,
        *,
        personal: PersonalData = "redact",
        max_per_author: int = MAX_PER_AUTHOR,
    ) -> None:
        """Args: known: texts of prompts already kept; per_author: how many each author has among them."""
        self.report = ImportReport()
        self._personal, self._max_per_author = personal, max_per_author
        self._by_prefix: dict[str, list[str]] = {}
        self._per_author = Counter(per_author or {})
        for text in known:
            self._remember(_normal(text))

    def admit(self, prompt: Prompt) -> tuple[Prompt, str, str] | None:
        """(prompt perhaps redacted, its split, pii_state: clean, suspected or masked), or None if it is left out."""
        hits = any(personal_data(m.content) for m in prompt.messages)
        if hits and self._personal == "drop":
            self.report.dropped_personal_data += 1
            return None
        if hits and self._personal == "redact":
            prompt = replace(prompt, messages=tuple(replace(m, content=redacted(m.content)) for m in prompt.messages))
        text = _normal(text_of(prompt))
        twin = self._twin(text)
        if twin is not None:
            self.report.duplicates += twin == text
            self.report.near_duplicates += twin != text
            return None
        if prompt.author and self._per_author[prompt.author] >= self._max_per_author:
            self.report.over_limit += 1
            return None
        self._per_author[prompt.author] += 1
        self._remember(text)
        split = split_of(prompt.author or prompt.id)
        self.report.added += 1
        self.report.personal_data += hits
        self.report.splits[split] += 1
        return prompt, split, {"redact": "masked", "keep": "suspected"}[self._personal] if hits else "clean"

    def _twin(self, text: str) -> str | None:
        """A kept text that shares a long prefix with this one."""
        for other in self._by_prefix.get(text[:PREFIX_CHARS], ()):
            shared = _shared_prefix(text, other)
            if text == other or (shared >= PREFIX_CHARS and shared >= PREFIX_SHARE * max(len(text), len(other))):
                return other
        return None

    def _remember(self, text: str) -> None:
        self._by_prefix.setdefault(text[:PREFIX_CHARS], []).append(text)


def text_of(prompt: Prompt) -> str:
    """All turns as one text, to compare prompts; the system's words, which many prompts share, left out."""
    return "\n".join(f"{m.role}: {m.content}" for m in prompt.messages if m.role != "system")


def _shared_prefix(a: str, b: str) -> int:
    """Characters at the start that both texts have."""
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)


def _normal(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()


def _luhn(text: str) -> bool:
    """The checksum of card numbers."""
    digits = [int(c) for c in text if c.isdigit()][::-1]
    doubled = (d * 2 - 9 * (d > 4) if i % 2 else d for i, d in enumerate(digits))
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0
