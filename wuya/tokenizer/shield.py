"""Keeps text that people write from becoming control tokens while a chat template is rendered.

Whatever spells a control token, or could complete one beside text of the template, is replaced by private-use
characters before the template sees it and put back once the template's own control tokens are found. So no text turns
into a control token, and templates that look into messages still find what they look for.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

OPEN, CLOSE = "\U0010fff2", "\U0010fff3"
RESERVED = "\U0010ffa0-\U0010ffff"
"""Private-use characters that this package gives a meaning; in a message they are text like any other."""

REASONING = re.compile(r"\A\s*(?:<think>)?(.*?)</think>", re.DOTALL)
"""The reasoning at the beginning of an answer, which many templates look for."""


class Shield:
    """Hides the control tokens in the texts of one chat, and shows them again."""

    def __init__(self, tokens: Collection[str]) -> None:
        """Args: tokens: the spelling of every control token."""
        self._pattern, self._starts, self._ends, self._longest = _patterns(tuple(tokens))
        self._hidden: list[str] = []

    def hide(self, value: Any) -> Any:
        """The same value with no control token in any string of it, keys of objects included."""
        if isinstance(value, str):
            return self._hide_text(value)
        if isinstance(value, Mapping):
            return {self._pattern.sub(self._mark, str(key)): self.hide(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.hide(item) for item in value]
        return value

    def hide_answer(self, text: str) -> str:
        """An assistant's content: the tags around its reasoning stay, for the template to handle."""
        match = REASONING.match(text)
        if match is None:
            return self._hide_text(text)
        opened, closed = text[: match.start(1)], text[match.end(1) : match.end()]
        return opened + self._hide_text(match.group(1)) + closed + self._hide_text(text[match.end() :])

    def show(self, text: str) -> str:
        """Put back what was hidden."""
        return re.sub(f"{OPEN}(\\d+){CLOSE}", lambda match: self._hidden[int(match.group(1))], text)

    def _hide_text(self, text: str) -> str:
        text = self._pattern.sub(self._mark, text)
        for size in range(min(self._longest, len(text)), 0, -1):
            if text[:size] in self._ends:  # "im_end|>" after a template's "<|"
                text = self._put(text[:size]) + text[size:]
                break
        for size in range(min(self._longest, len(text)), 0, -1):
            if text[-size:] in self._starts:
                text = text[:-size] + self._put(text[-size:])
                break
        return text

    def _mark(self, match: re.Match[str]) -> str:
        return self._put(match.group())

    def _put(self, text: str) -> str:
        self._hidden.append(text)
        return f"{OPEN}{len(self._hidden) - 1}{CLOSE}"


@lru_cache(maxsize=16)
def _patterns(tokens: tuple[str, ...]) -> tuple[re.Pattern[str], frozenset[str], frozenset[str], int]:
    """Whole tokens and our own marks; beginnings and ends of tokens; the length of the longest of those."""
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, longest_first), f"[{RESERVED}]"]))
    starts = {token[:n] for token in tokens for n in range(1, len(token))}
    ends = {token[n:] for token in tokens for n in range(1, len(token))}
    # a word that a token happens to begin with ("e" of "end_turn") may be a key that templates look for
    starts, ends = ({part for part in parts if not part.isalnum()} for parts in (starts, ends))
    return pattern, frozenset(starts), frozenset(ends), max(map(len, (*starts, *ends)), default=0)
