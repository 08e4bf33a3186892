"""A chat of the API as token ids, in the model's own template, with tools and tool calls where it knows them.

Dumb and safe: whatever text of the request spells a special token, or its beginning, is replaced by private-use
characters before the template sees it and put back afterwards, between the special tokens of the template itself. So
text never becomes a control token, and templates that look into messages still find what they look for.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import jinja2
from jinja2 import meta

from wuya.errors import DataError
from wuya.inference.backends.protocol import Unsupported
from wuya.records import ROLES, Message, Role
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import chat_environment, encode_prompt, render_rows

OPEN, CLOSE = "\U0010fff2", "\U0010fff3"


def knows_tools(template: str) -> bool:
    """Whether a chat template has a place for tools."""
    return "tools" in _variables(template)


@lru_cache(maxsize=16)
def _variables(template: str) -> frozenset[str]:
    try:
        return frozenset(meta.find_undeclared_variables(chat_environment().parse(template)))
    except jinja2.TemplateSyntaxError:
        return frozenset()


def encode_messages(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
) -> list[int]:
    """Ids of the chat up to where the assistant goes on."""
    rows = [_row(message) for message in messages]
    if not rows:
        raise DataError("a chat needs at least one message")
    if tools and not knows_tools(tokenizer.chat_template):
        raise Unsupported("this model's chat template has no place for tools", param="tools")
    goes_on = rows[-1]["role"] == "assistant" and not rows[-1].get("tool_calls")
    begun = rows.pop()["content"] if goes_on else ""
    if goes_on and not rows:
        raise DataError("a chat cannot begin with the assistant")
    plain = not tools and all(set(row) == {"role", "content"} and row["role"] != "tool" for row in rows)
    if plain:  # as in training
        ids = encode_prompt(tokenizer, [Message(cast(Role, row["role"]), row["content"]) for row in rows])
    else:
        ids = _encode_rows(tokenizer, rows, tools)
    return ids + (tokenizer.encode(begun) if begun else [])


def _row(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates know it."""
    row = {key: value for key, value in message.items() if value is not None}
    role = row.get("role")
    row["role"] = {"developer": "system", "function": "tool"}.get(str(role), role)
    if row["role"] not in ROLES:
        raise DataError("a message has an unknown role", found=repr(role), hint=f"use one of: {', '.join(ROLES)}")
    row.setdefault("content", "")
    if not isinstance(row["content"], str):
        raise DataError("the content of a message is not text", found=type(row["content"]).__name__)
    if row.get("tool_calls"):
        row["tool_calls"] = [_call(call) for call in row["tool_calls"]]
    return row


def _call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool call with its arguments as an object: OpenAI's API has JSON in a string, which templates would quote."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def _encode_rows(
    tokenizer: Tokenizer, rows: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> list[int]:
    hidden: list[str] = []
    pattern = _special_pattern(tuple(tokenizer.special_ids))

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: _mark(hidden, match.group()), value)
        if isinstance(value, Mapping):
            return {key: hide(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [hide(item) for item in value]
        return value

    text = render_rows(tokenizer, hide(rows), tools=hide(tools) if tools else None)
    ids: list[int] = []
    pending = ""
    for piece in [*tokenizer.split_special(text), -1]:
        if isinstance(piece, str):
            pending += piece
            continue
        shown = re.sub(f"{OPEN}(\\d+){CLOSE}", lambda match: hidden[int(match.group(1))], pending)
        ids += tokenizer.encode(shown) if shown else []
        ids += [piece] if piece >= 0 else []
        pending = ""
    return ids


def _mark(hidden: list[str], text: str) -> str:
    hidden.append(text)
    return f"{OPEN}{len(hidden) - 1}{CLOSE}"


@lru_cache(maxsize=16)
def _special_pattern(specials: tuple[str, ...]) -> re.Pattern[str]:
    """Special tokens, beginnings of one at the end of a text, and our own marks."""
    longest_first = sorted(specials, key=len, reverse=True)
    whole = [re.escape(token) for token in longest_first]
    starts = sorted({token[:n] for token in specials for n in range(1, len(token))}, key=len, reverse=True)
    partial = [re.escape(start) + r"\Z" for start in starts]
    return re.compile("|".join([*whole, *partial, f"[{OPEN}{CLOSE}]"]))
