"""From the engine's events to pieces of choices: the one generator that streamed and blocking answers are made of."""

import codecs
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wuya.inference.backends.protocol import Delta, Done, Event, Failed, TokenLogprob, TopToken
from wuya.web.api import refusals
from wuya.web.api.jobs import Jobs
from wuya.web.api.schema import FinishReason
from wuya.web.api.tools import Call, ToolCallReader

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a token that cannot be: JSON knows no infinity."""


@dataclass(slots=True)
class Piece:
    """More of one choice. The last one of a choice has a finish reason."""

    index: int
    text: str = ""
    calls: Sequence[Call] = ()
    logprobs: Sequence[TokenLogprob] = ()
    finish_reason: FinishReason | None = None


class Watch(Protocol):
    """What looks at answers as they grow (screening.py)."""

    def stops(self, index: int, text: str) -> bool:
        """Note more text of a choice; whether the choice must end before it is shown."""
        ...

    async def ends(self, index: int) -> bool:
        """A choice is whole; whether its last piece must not be shown."""
        ...


async def pieces(
    jobs: Jobs,
    *,
    choices_per_prompt: int,
    readers: Mapping[int, ToolCallReader] | None = None,
    watch: Watch | None = None,
) -> AsyncIterator[Piece]:
    """Pieces of all choices, interleaved as they come; raises `ApiError` where the engine fails.

    Args:
        readers: of the choices whose text may hold tool calls.
    """
    ended: set[int] = set()
    called: set[int] = set()
    async for prompt, event in jobs:
        if isinstance(event, Failed):
            raise refusals.of_failure(event, streaming=True)
        piece = _piece(event, prompt * choices_per_prompt, readers or {})
        if piece is None or piece.index in ended:
            continue
        if watch is not None:
            stopped = watch.stops(piece.index, piece.text)
            if (stopped or piece.finish_reason) and await watch.ends(piece.index):
                piece = Piece(piece.index, finish_reason="content_filter")
        if piece.calls:
            called.add(piece.index)
        if piece.finish_reason == "stop" and piece.index in called:
            piece.finish_reason = "tool_calls"
        if piece.text or piece.calls or piece.logprobs or piece.finish_reason:
            yield piece
        if piece.finish_reason is not None:
            ended.add(piece.index)
            if len(ended) == jobs.num_prompts * choices_per_prompt:
                return


def _piece(event: Event, first_choice: int, readers: Mapping[int, ToolCallReader]) -> Piece | None:
    match event:
        case Delta(index=index, text=text, logprobs=logprobs):
            reader = readers.get(first_choice + index)
            shown, calls = reader.push(text) if reader else (text, [])
            return Piece(first_choice + index, shown, calls, logprobs)
        case Done(finish_reason="cancelled"):
            raise refusals.overloaded("the engine ended this request before it was whole")
        case Done(index=index, finish_reason=reason):
            reader = readers.get(first_choice + index)
            shown, calls = reader.finish() if reader else ("", [])
            return Piece(first_choice + index, shown, calls, finish_reason="length" if reason == "length" else "stop")
    return None


def finite(logprob: float) -> float | None:
    """A log-prob that JSON can hold."""
    return None if math.isnan(logprob) else max(logprob, LEAST_LOGPROB)


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Entries of a chat choice's `logprobs.content`."""
    return [_entry(token) | {"top_logprobs": [_entry(other) for other in token.top]} for token in tokens]


def _entry(token: TokenLogprob | TopToken) -> dict[str, Any]:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.bytes)}


def legacy_token(token: TokenLogprob | TopToken) -> str:
    r"""A token's name in the legacy arrays: its text, or `bytes:\xe6\xa2` for a part of a character."""
    try:
        return token.bytes.decode() or token.token
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


class LegacyLogprobs:
    """The four parallel lists of the legacy endpoint, in pieces; `text_offset` counts characters."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Sequence[TokenLogprob]) -> dict[str, list[Any]]:
        """The lists for some more tokens."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.bytes))
        return {
            "tokens": [legacy_token(token) for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": offsets,
        }


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """The alternatives by name, the token itself always among them (OpenAI's logprobs + 1)."""
    own = finite(token.logprob)
    if own is None:
        return None
    named = {legacy_token(other): finite(other.logprob) or 0.0 for other in reversed(token.top)}
    named = dict(reversed(named.items()))
    named.setdefault(legacy_token(token), own)
    return named
