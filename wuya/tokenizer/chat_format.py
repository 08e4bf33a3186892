"""Chats as token ids: rendering a chat template, the prompt the assistant answers, and the loss mask.

A template (Jinja source, stored with the tokenizer) turns messages into text; `render_chat` gives byte for byte what
`transformers.apply_chat_template` gives, without importing it. Two rules make the ids safe to train and sample with:

1. What people type is text. A `<|im_end|>` in a message is encoded as the characters it is made of, never as the token.
2. Answers stand alone. The ids of an answer do not depend on the text before it, so the ids of a chat start with the
ids of its prompt, and training sees the tokens that sampling produces.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wuya.errors import DataError
from wuya.records import ROLES, Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.templates import CHATML, PLAIN

__all__ = [
    "CHATML",
    "PLAIN",
    "EncodedChat",
    "encode_chat",
    "encode_prompt",
    "fit_prompt",
    "render_chat",
    "show_example",
]

PLACEHOLDER = re.compile("\U0010fff0(\\d+)\U0010fff1")
"""Stands for a message's content while the template is rendered: private-use characters no template looks at."""


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A chat as token ids, with which of them are learned."""

    ids: list[int]
    mask: list[int]
    """1 on the assistant's tokens and the end token after them, else 0. It belongs to the token itself: a loss on
    targets shifted by one shifts the mask too."""

    def __len__(self) -> int:
        return len(self.ids)


def render_chat(
    messages: Sequence[Message],
    template: str,
    *,
    add_generation_prompt: bool = False,
    bos_token: str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
) -> str:
    """The chat as one string, as `transformers.apply_chat_template(tokenize=False)` renders it."""
    check_roles(messages)
    return _render(
        [{"role": message.role, "content": message.content} for message in messages],
        template,
        add_generation_prompt=add_generation_prompt,
        special={"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token},
    )


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a chat that ends where the assistant begins to write."""
    return _encode(tokenizer, messages, add_generation_prompt=True).ids


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message], *, last_only: bool = False) -> EncodedChat:
    """Ids of a whole chat and its loss mask.

    Args:
        last_only: learn only the last message if it is the assistant's, for chats whose earlier answers a model wrote.
    """
    return _encode(tokenizer, messages, add_generation_prompt=False, last_only=last_only)


def fit_prompt(tokenizer: Tokenizer, messages: Sequence[Message], *, max_tokens: int) -> list[int]:
    """`encode_prompt` of the newest turns that fit: the oldest are left out first, a system message at the start stays.

    Raises DataError when the last message alone is too long.
    """
    system = list(messages[:1]) if messages and messages[0].role == "system" else []
    for start in range(len(system), len(messages)):
        if start > len(system) and messages[start].role != "user":
            continue  # a chat begins with the user
        ids = encode_prompt(tokenizer, [*system, *messages[start:]])
        if len(ids) <= max_tokens:
            return ids
    ids = encode_prompt(tokenizer, [*system, *messages[-1:]])
    raise DataError(
        f"the last message is longer than the context: at most {max_tokens} tokens fit",
        found=f"{len(ids)} tokens with the chat format" + (" and the system message" if system else ""),
        hint="shorten the message, or use a model with a longer context",
    )


def show_example(tokenizer: Tokenizer, encoded: EncodedChat) -> str:
    """A chat decoded with its mask, readable without colour: learned stretches stand between [[ and ]]."""
    parts = []
    for start, stop, learned in _stretches(encoded.mask):
        text = tokenizer.decode(encoded.ids[start:stop])
        parts.append(f"[[{text}]]" if learned else text)
    count = sum(encoded.mask)
    heading = f"{len(encoded.ids)} tokens, {count} learned (between [[ and ]]); end token {tokenizer.eos_token}:"
    return heading + "\n" + "".join(parts)


def check_roles(messages: Sequence[Message]) -> None:
    """Refuse what no template can render: no message, an unknown role, a content that is not text."""
    if not messages:
        raise DataError("a chat needs at least one message")
    for number, message in enumerate(messages, start=1):
        if message.role not in ROLES:
            raise DataError(
                f"message {number} has an unknown role",
                found=repr(message.role),
                hint=f"use one of: {', '.join(ROLES)}",
            )
        if not isinstance(message.content, str):
            raise DataError(f"the content of message {number} is not text", found=type(message.content).__name__)


# -- encoding


def _encode(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool, last_only: bool = False
) -> EncodedChat:
    """Fill the template's text with the contents; specials count in the former only; cut around each answer."""
    check_roles(messages)
    learned = {n for n, message in enumerate(messages) if message.role == "assistant"}
    if last_only:
        learned &= {len(messages) - 1}
    encoded = EncodedChat([], [])
    pending: list[str] = []  # text between two special tokens is encoded in one piece, as transformers does

    def add(ids: list[int], mask: int) -> None:
        encoded.ids.extend(ids)
        encoded.mask.extend([mask] * len(ids))

    def flush() -> None:
        add(tokenizer.encode("".join(pending)), 0)
        pending.clear()

    wants_end = False  # the first special token after a learned answer is its end token
    for text, message in _filled(tokenizer, messages, add_generation_prompt):
        if message is not None and messages[message].role == "assistant":
            flush()
            add(tokenizer.encode(text), int(message in learned))
            wants_end = message in learned
        elif message is not None:
            pending.append(text)
        else:
            for piece in tokenizer.split_special(text):
                if isinstance(piece, int):
                    flush()
                    add([piece], int(wants_end))
                    wants_end = False
                else:
                    pending.append(piece)
                    wants_end = wants_end and not piece.strip()
    flush()
    return encoded


def _filled(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool
) -> Iterator[tuple[str, int | None]]:
    """The rendered chat in pieces: (text of the template, None) and (content as rendered, index of its message)."""
    rows = [{"role": message.role, "content": message.content} for message in messages]
    marked = [row | {"content": f"\U0010fff0{number}\U0010fff1"} for number, row in enumerate(rows)]
    rendered = _render_with(tokenizer, rows, add_generation_prompt)
    pieces = PLACEHOLDER.split(_render_with(tokenizer, marked, add_generation_prompt))
    end = 0
    for number, piece in enumerate(pieces):
        if number % 2:
            text = _content_at(rendered, end, messages[int(piece)].content, followed_by=pieces[number + 1])
            yield text, int(piece)
        else:
            text = piece
            yield text, None
        end += len(text)
        if rendered[end - len(text) : end] != text:
            break
    if end != len(rendered) or "".join(pieces[::2]) == "":
        raise DataError(
            "the chat template rewrites these messages in a way that cannot be followed",
            found=repr(rendered[max(0, end - 60) : end + 60]),
            hint="leave reasoning blocks and control tokens out of the messages, or use a simpler chat template",
        )


def _content_at(rendered: str, start: int, content: str, *, followed_by: str) -> str:
    """What the template made of a content: templates may strip it (Llama) or drop the reasoning in it (Qwen3)."""
    for candidate in (content, content.strip(), content.lstrip("\n"), content.strip("\n")):
        if rendered.startswith(candidate + followed_by, start):
            return candidate
    stop = rendered.find(followed_by, start) if followed_by else len(rendered)
    candidate = rendered[start : max(start, stop)]
    return candidate if candidate in content else content


def _render_with(tokenizer: Tokenizer, rows: list[dict[str, str]], add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template",
            hint="start from a model that has one, or add `chat_template` to its tokenizer_config.json",
        )
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token}
    return _render(rows, tokenizer.chat_template, add_generation_prompt=add_generation_prompt, special=special)


def render_rows(
    tokenizer: Tokenizer, rows: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """A chat of free-form messages (tool calls and all), tools offered, up to the assistant's turn. Nothing in it is
    made safe: special tokens in a message are special tokens."""
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template")
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token}
    return _render(rows, tokenizer.chat_template, add_generation_prompt=True, special=special, tools=tools)


def _stretches(mask: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, learned) of the runs of equal mask values."""
    start = 0
    for stop in range(1, len(mask) + 1):
        if stop == len(mask) or mask[stop] != mask[start]:
            yield start, stop, bool(mask[start])
            start = stop


# -- rendering: the environment of transformers' chat templates


class GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant writes; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 reads this class attribute

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _render(
    rows: Sequence[Mapping[str, Any]],
    template: str,
    *,
    add_generation_prompt: bool,
    special: Mapping[str, str | None],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    known = {name: token for name, token in special.items() if token is not None}
    try:
        return _compiled(template).render(
            messages=rows, tools=tools, documents=None, add_generation_prompt=add_generation_prompt, **known
        )
    except jinja2.TemplateError as error:
        raise DataError(
            "the chat template refuses these messages",
            found=str(error),
            hint="check the order of the roles: most templates want user and assistant in turn, a system message first",
        ) from error


def chat_environment() -> ImmutableSandboxedEnvironment:
    """What chat templates may use: the tags, filters and functions `transformers` gives them."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    try:
        return chat_environment().from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise DataError(
            "the chat template is not valid Jinja", found=f"line {error.lineno}: {error.message}"
        ) from error


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
