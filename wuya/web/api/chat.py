"""`POST /v1/chat/completions`: a chat in, the assistant's turn out."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from wuya.inference.backends.protocol import ModelInfo, TokenLogprob
from wuya.web.api import params, refusals, sse
from wuya.web.api.answering import Head, Plan, answer, new_head
from wuya.web.api.desk import Caller, find_model
from wuya.web.api.jobs import Jobs
from wuya.web.api.pieces import Piece, chat_logprobs, pieces
from wuya.web.api.schema import ChatRequest
from wuya.web.api.screening import Watch, screen_chat, watch_of
from wuya.web.api.tools import Call, ToolCallReader
from wuya.web.service import Service

CHUNK = "chat.completion.chunk"


async def complete_chat(request: Request, service: Service, caller: Caller, body: ChatRequest) -> Response:
    """Check, encode, and answer as a stream or at once."""
    model = find_model(service, caller, body.model)
    await screen_chat(service, caller, body)
    ids = await encode_chat(service, model, body)
    head = new_head("chatcmpl", model)
    plan = Plan(service, caller, body, head, [ids], [params.chat_params(body, prompt_tokens=len(ids), model=model)])
    watch = await watch_of(service, caller)
    return await answer(
        request,
        plan,
        encode=lambda jobs: encode(head, body, jobs, watch),
        collect=lambda jobs: collect(head, body, jobs, watch),
    )


async def encode_chat(service: Service, model: ModelInfo, body: ChatRequest) -> list[int]:
    """The chat in the model's own template."""
    if not model.has_chat:
        raise refusals.unsupported(
            f"`{model.alias}` has no chat template; send its text to /v1/completions", "messages"
        )
    tools = params.engine_tools(params.called_tools(body))
    if tools and not model.has_tools:
        raise refusals.unsupported(f"the chat template of `{model.alias}` knows no tools", "tools")
    return await service.engine.encode_chat(model.alias, params.engine_messages(body.messages), tools=tools)


def _readers(body: ChatRequest) -> dict[int, ToolCallReader]:
    names = [tool.function.name for tool in params.called_tools(body)]
    limit = 1 if body.parallel_tool_calls is False else None
    return {index: ToolCallReader(names, limit=limit) for index in range(body.n or 1)} if names else {}


# ---- as a stream


async def encode(head: Head, body: ChatRequest, jobs: Jobs, watch: Watch | None) -> AsyncGenerator[bytes, None]:
    """Role chunks, pieces of all choices as they come, their ends, and the usage if asked for."""
    before = {"usage": None} if body.wants_usage else {}
    with_logprobs = bool(body.logprobs)
    num_calls = [0] * (body.n or 1)

    def chunk(index: int, delta: dict[str, Any], **more: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | more
        return sse.event(head.of(CHUNK, [choice]) | before)

    for index in range(body.n or 1):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
    async for piece in pieces(jobs, choices_per_prompt=body.n or 1, readers=_readers(body), watch=watch):
        logprobs = {"content": chat_logprobs(piece.logprobs), "refusal": None} if with_logprobs else None
        if piece.text or (with_logprobs and piece.logprobs):
            yield chunk(piece.index, {"content": piece.text}, logprobs=logprobs)
        for call in piece.calls:
            delta = {"tool_calls": [{"index": num_calls[piece.index], **call.as_json()}]}
            num_calls[piece.index] += 1
            yield chunk(piece.index, delta)
        if piece.finish_reason:
            yield chunk(piece.index, {}, finish_reason=piece.finish_reason)
    if body.wants_usage:
        yield sse.event(head.of(CHUNK, []) | {"usage": jobs.usage.as_json()})


# ---- at once


async def collect(head: Head, body: ChatRequest, jobs: Jobs, watch: Watch | None) -> dict[str, Any]:
    """The whole object."""
    choices = [_Choice(index) for index in range(body.n or 1)]
    async for piece in pieces(jobs, choices_per_prompt=body.n or 1, readers=_readers(body), watch=watch):
        choices[piece.index].add(piece)
    whole = [choice.as_json(with_logprobs=bool(body.logprobs)) for choice in choices]
    return head.of("chat.completion", whole) | {"usage": jobs.usage.as_json()}


class _Choice:
    """One answer as it fills."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.text: list[str] = []
        self.calls: list[Call] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        self.text.append(piece.text)
        self.calls += piece.calls
        self.logprobs += piece.logprobs
        self.finish_reason = piece.finish_reason or self.finish_reason

    def as_json(self, *, with_logprobs: bool) -> dict[str, Any]:
        text = "".join(self.text)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not self.calls else None,
            "refusal": None,
        }
        if self.calls:
            message["tool_calls"] = _as_json(self.calls)
        logprobs = {"content": chat_logprobs(self.logprobs), "refusal": None} if with_logprobs else None
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}


def _as_json(calls: Sequence[Call]) -> list[dict[str, Any]]:
    return [call.as_json() for call in calls]
