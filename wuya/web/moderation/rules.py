"""Rules on texts, without regular expressions: lists of words, or a scorer loaded from a checkpoint.

A word matches as a whole word where the script has such (`ass` is not in `class`), anywhere in Chinese, Japanese or
Korean text. Capitals, full-width forms, accents, invisible characters and runs of spaces make no difference.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: which texts it reads, what it looks for, what happens then."""

    id: str
    name: str
    """Shown to moderators, and the category of `/v1/moderations`."""
    stages: tuple[Stage, ...]
    action: Literal["flag", "block"]
    """`flag`: a moderator looks at it later. `block`: it is refused, or the answer ends there."""
    words: tuple[str, ...] = ()
    """Words and phrases; or"""
    scorer: str = ""
    """a reward model's folder in the workspace, which scores the turn."""
    threshold: float = 0.0
    """Scores above it fire the rule,"""
    below: bool = False
    """or scores below it."""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rule that fired, and why."""

    rule: Rule
    found: str = ""
    """The word, as the rule spells it."""
    score: float | None = None


class WordRules:
    """The rules that have words, ready to be asked; those that block come first."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        chosen = [rule for rule in rules if rule.enabled and rule.words]
        chosen.sort(key=lambda rule: rule.action != "block")
        self._rules = [(rule, [(word, fold(word)) for word in rule.words]) for rule in chosen]

    def check(self, text: str, stage: Stage) -> Verdict | None:
        """The strictest rule that fires on a text, None if none does."""
        candidates = [(rule, words) for rule, words in self._rules if stage in rule.stages]
        if not candidates:
            return None
        folded = fold(text)
        for rule, words in candidates:
            for word, folded_word in words:
                if _holds(folded, folded_word):
                    return Verdict(rule, found=word)
        return None


def fold(text: str) -> str:
    """A text as rules read it."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    visible = (c for c in decomposed if c.isascii() or unicodedata.category(c) not in ("Cf", "Mn"))
    return " ".join(unicodedata.normalize("NFC", "".join(visible)).split())


def _holds(text: str, word: str) -> bool:
    """Whether a text holds a word or phrase; both folded."""
    at = text.find(word) if word else -1
    while at >= 0:
        end = at + len(word)
        if not (_joined(text[at - 1 : at], word[0]) or _joined(word[-1], text[end : end + 1])):
            return True
        at = text.find(word, at + 1)
    return False


def _joined(left: str, right: str) -> bool:
    """Whether two characters belong to one word."""
    return left.isalnum() and right.isalnum() and not (_is_cjk(left) or _is_cjk(right))


def _is_cjk(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3" or character >= "\U00020000"
