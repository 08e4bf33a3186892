"""Facts about a chat template, learned by rendering probe chats: what ends an answer, what stands before one.

A probe's contents are single private-use characters, so that the template's own text is what lies between them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from wuya.errors import DataError
from wuya.tokenizer.rendering import render

SYSTEM, USER, ANSWER, NEXT = "\U0010ffa1", "\U0010ffa2", "\U0010ffa3", "\U0010ffa4"


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a template does with a plain chat."""

    refused: str = ""
    """Why the probe could not be rendered; then the other facts are unknown."""
    end: str = ""
    """The control token that the template writes after an answer."""
    role_mark: str = ""
    """The control token that opens the user's next turn, where answers have no end of their own (GLM)."""
    tail: str = ""
    """The template's text after the last answer, where it holds no control token."""
    header: str = ""
    """The template's text before an answer that its generation prompt lacks, as it has none."""
    default_system: str = ""
    """The system message that the template writes into chats without one."""
    control: frozenset[str] = frozenset()
    """Added tokens that the template writes."""


def template_facts(template: str, variables: Mapping[str, str], added: Collection[str]) -> TemplateFacts:
    """The facts about a template, given the spelling of all added tokens; computed once."""
    return _facts(template, tuple(sorted(variables.items())), tuple(added))


@lru_cache(maxsize=16)
def _facts(template: str, variables: tuple[tuple[str, str], ...], added: tuple[str, ...]) -> TemplateFacts:
    written = {token for token in added if _is_mark(token) and not token.isalnum() and token in template}
    user, answer, following = _row("user", USER), _row("assistant", ANSWER), _row("user", NEXT)

    def text(*rows: dict[str, Any], ask: bool = False) -> str:
        return render(template, rows, add_generation_prompt=ask, variables=dict(variables))

    opening: tuple[dict[str, Any], ...] = (user,)
    try:
        try:
            text(user, answer)
        except DataError:
            opening = (_row("system", SYSTEM), user)
        asked, unasked, whole = text(*opening, ask=True), text(*opening), text(*opening, answer)
    except DataError as error:
        return TemplateFacts(refused=error.found or error.what, control=frozenset(written))
    written |= {token for token in added if _is_mark(token) and token in asked + whole}
    place = whole.find(ANSWER)
    if place < 0:
        return TemplateFacts(refused="it does not write the assistant's answer", control=frozenset(written))
    tail = whole[place + 1 :]
    end, role_mark = _first(tail, added), ""
    if not end:
        try:
            between = text(*opening, answer, following).partition(ANSWER)[2].partition(NEXT)[0]
        except DataError:
            between = ""
        role_mark = _first(between, added)
    header = ""
    if asked == unasked and whole.startswith(unasked) and whole[len(unasked) : place].strip():
        header = whole[len(unasked) : place]
    default_system = _default_system(text, unasked) if len(opening) == 1 else ""
    return TemplateFacts("", end, role_mark, "" if end else tail, header, default_system, frozenset(written))


def _first(text: str, tokens: Collection[str]) -> str:
    """The first of the tokens in a text, the longest of those that begin there."""
    found = [(place, -len(token), token) for token in tokens if token and (place := text.find(token)) >= 0]
    return min(found)[2] if found else ""


def _is_mark(token: str) -> bool:
    """False for added tokens that are white space (Gemma has runs of it), which every template writes."""
    return bool(token.strip("\u2581 \t\r\n"))


def _default_system(text: Any, without: str) -> str:
    """What stands in a chat without a system message where a system message would stand."""
    try:
        before, found, after = text(_row("system", SYSTEM), _row("user", USER)).partition(SYSTEM)
    except DataError:
        return ""
    inside = len(without) - len(before) - len(after)
    if not found or inside <= 0 or not (without.startswith(before) and without.endswith(after)):
        return ""
    return without[len(before) : len(before) + inside]


def _row(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}
