"""OpenAI's stream of chunks as our events, and its errors as ours."""

import itertools
import json
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

    def started(self) -> Event:
        """The first event."""
        return Started(self.request.job, self.prompt_tokens)

    def take(self, line: str) -> list[Event]:
        """What one chunk makes known."""
        chunk = json.loads(line)
        if error := chunk.get("error"):
            told = error if isinstance(error, dict) else {"message": str(error)}
            return [Failed(self.request.job, str(told.get("code") or "engine_lost"), str(told.get("message", "")))]
        if usage := chunk.get("usage"):
            self.prompt_tokens = usage.get("prompt_tokens", self.prompt_tokens)
            self.completion_tokens = usage.get("completion_tokens", self.completion_tokens)
        events: list[Event] = []
        for choice in chunk.get("choices") or ():
            events += self._choice(choice)
        return events

    def _choice(self, choice: Mapping[str, Any]) -> list[Event]:
        index, delta = int(choice.get("index", 0)), choice.get("delta") or {}
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
                         tuple(TopToken(-1, top["token"], _bytes(top), top["logprob"]) for top in item["top_logprobs"]))
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


def refusal(response: httpx.Response, model: str) -> Exception:
    """The server's error as one of ours."""
    try:
        told = response.json()["error"]
        message, code = str(told.get("message", "")), str(told.get("code", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = response.text[:300], ""
    if response.status_code in (429, 503):
        return Overloaded(found=message, retry_after=float(response.headers.get("retry-after", 1) or 1))
    if code == "context_length_exceeded" or "context" in message.lower():
        return ContextTooLong(prompt_tokens=0, max_tokens=0, context_length=0)
    if response.status_code == 404:
        return UnknownModel(model)
    if response.status_code >= 500:
        return EngineLost("the upstream server failed", found=message)
    return DataError("the upstream server refuses this request", found=message)
