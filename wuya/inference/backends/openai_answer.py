"""OpenAI's stream of chunks as our events, and its errors as ours."""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import httpx

from wuya.errors import DataError
from wuya.inference.backends.protocol import (
    ContextTooLong,
    Delta,
    Done,
    EngineLost,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Overloaded,
    Started,
    TokenLogprob,
    TopToken,
    UnknownModel,
)


class Answer:
    """Chunks of OpenAI's stream to our events."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.counts = [0] * request.params.n
        self.live = set(range(request.params.n))
        self.prompt_tokens = len(request.prompt_ids)
        self.completion_tokens: int | None = None
        self._ends_told = 0

    def started(self) -> Event:
        """The first event."""
        return Started(self.request.job, self.prompt_tokens)

    def take(self, line: str) -> list[Event]:
        """What one line of data makes known; `[DONE]` is the end."""
        if line.strip() == "[DONE]":
            return self.whole()
        try:
            chunk = json.loads(line)
        except ValueError:
            return [self._failed("internal_error", f"the upstream server sent no JSON: {line[:100]}")]
        if error := chunk.get("error"):
            told = error if isinstance(error, dict) else {"message": str(error)}
            code = str(told.get("code") or told.get("type") or "")  # some send HTTP's number, which says nothing
            return [self._failed(code if code.isidentifier() else "internal_error", str(told.get("message", "")))]
        if usage := chunk.get("usage"):
            self._count(usage, at_end=not chunk.get("choices"))
        events: list[Event] = []
        for choice in chunk.get("choices") or ():
            events += self._choice(choice)
        return events

    def _count(self, usage: Mapping[str, Any], *, at_end: bool) -> None:
        """llama-server ends each of n completions with a chunk of its own usage; others send one for all at the end."""
        self.prompt_tokens = usage.get("prompt_tokens", self.prompt_tokens)
        told = usage.get("completion_tokens")
        if told is None:
            return
        self.completion_tokens = told + ((self.completion_tokens or 0) if at_end and self._ends_told else 0)
        self._ends_told += at_end

    def whole(self) -> list[Event]:
        """The stream came to its own end, where every completion should have had one."""
        if not self.live:
            return self.end("stop")
        missing = ", ".join(str(index) for index in sorted(self.live))
        return [self._failed("internal_error", f"the upstream server ended its answer without completion {missing}")]

    def broken(self) -> list[Event]:
        """The stream stopped before its end."""
        if not self.live:  # all is there but the last line
            return self.end("stop")
        return [self._failed("engine_lost", "the upstream server's answer broke off")]

    def _failed(self, code: str, message: str) -> Event:
        return Failed(self.request.job, code, message, retryable=code == "engine_lost")

    def _choice(self, choice: Mapping[str, Any]) -> list[Event]:
        index, delta = int(choice.get("index") or 0), choice.get("delta") or {}
        if index >= len(self.counts):
            return []  # nobody asked for it
        text = choice.get("text") or delta.get("content") or ""
        if calls := delta.get("tool_calls"):
            text += "".join(f"<tool_call>{json.dumps(call['function'])}</tool_call>" for call in calls)
        logprobs = _logprobs(choice.get("logprobs"))
        events: list[Event] = []
        if text or logprobs:
            self.counts[index] += max(1, len(logprobs))
            events.append(Delta(self.request.job, index, text, tuple(p.token_id for p in logprobs), logprobs))
        if (reason := choice.get("finish_reason")) and index in self.live:
            self.live.discard(index)
            ended: FinishReason = "length" if reason == "length" else "stop"
            events.append(Done(self.request.job, index, ended, self.counts[index]))
        return events

    def end(self, reason: FinishReason) -> list[Event]:
        """The stream is over: whatever had no end has it now."""
        done = [Done(self.request.job, index, reason, self.counts[index]) for index in sorted(self.live)]
        total = sum(self.counts) if self.completion_tokens is None else self.completion_tokens
        return [*done, Finished(self.request.job, self.prompt_tokens, total)]


def _logprobs(told: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """Both of OpenAI's forms: `content` of chats, lists of completions. Such APIs tell no ids: -1."""
    if not told:
        return ()
    if content := told.get("content"):
        return tuple(
            TokenLogprob(item["token"], _bytes(item), -1, item["logprob"],
                         tuple(TopToken(-1, top["token"], _bytes(top), top["logprob"])
                               for top in item.get("top_logprobs") or ()))
            for item in content
        )  # fmt: skip
    tops = told.get("top_logprobs") or itertools.repeat({})
    return tuple(
        TokenLogprob(token, token.encode(), -1, logprob or 0.0,
                     tuple(TopToken(-1, text, text.encode(), value) for text, value in (top or {}).items()))
        for token, logprob, top in zip(told.get("tokens") or (), told.get("token_logprobs") or (), tops, strict=False)
    )  # fmt: skip


def _bytes(item: Mapping[str, Any]) -> bytes:
    data = item.get("bytes")
    return bytes(data) if data is not None else str(item["token"]).encode()


TOO_LONG = re.compile(
    r"context (length|size|window)|max_model_len|maximum (input|sequence|model) (length|len)", re.IGNORECASE
)


def refusal(response: httpx.Response, model: str) -> Exception:
    """The server's error as one of ours."""
    message, code = _told(response)
    if response.status_code in (429, 503):
        return Overloaded(found=message, retry_after=_seconds(response.headers.get("retry-after", "")))
    if response.status_code in (401, 403):
        hint = "is its key in $WUYA_UPSTREAM_KEY?"
        return EngineLost("the upstream server does not let us in", found=message, hint=hint)
    if code in ("context_length_exceeded", "exceed_context_size_error") or TOO_LONG.search(message):
        return ContextTooLong(prompt_tokens=0, max_tokens=0, context_length=0)
    if response.status_code == 404:
        return UnknownModel(model)
    if response.status_code >= 500:
        return EngineLost("the upstream server failed", found=message)
    return DataError("the upstream server refuses this request", found=message)


def _told(response: httpx.Response) -> tuple[str, str]:
    """Message and code of an error: OpenAI's form, that form without its wrapper, FastAPI's `detail`, or plain text."""
    try:
        data = response.json()
    except ValueError:
        return response.text[:300], ""
    told = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(told, dict):
        return str(told)[:300], ""
    code = str(told.get("code") or "")
    return str(told.get("message") or told.get("detail") or "")[:300], code if code.isidentifier() else str(
        told.get("type") or ""
    )


def _seconds(retry_after: str) -> float:
    """Of the header, which may also be a date."""
    try:
        return max(0.1, float(retry_after))
    except ValueError:
        return 1.0
