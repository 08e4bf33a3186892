"""upstream.py: OpenAI's stream becomes our events, whatever the server sends."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.inference.backends.helpers import collect, ids, reasons, request, run, text
from wuya.inference.backends.protocol import (
    Delta,
    EngineLost,
    Failed,
    Finished,
    Overloaded,
    Started,
    UnknownModel,
    Unsupported,
)
from wuya.inference.backends.upstream import UpstreamEngine

Handler = Callable[[httpx.Request], httpx.Response]


class Stream(httpx.AsyncByteStream):
    def __init__(self, chunks: list[dict[str, Any]], *, breaks: bool = False) -> None:
        self.chunks, self.breaks, self.closed = chunks, breaks, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            data = f"data: {json.dumps(chunk)}\n\n".encode()
            yield data[:5]  # cut anywhere
            yield data[5:]
        if self.breaks:
            raise httpx.ReadError("gone")
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        self.closed = True


def server(answer: Handler) -> httpx.MockTransport:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m", "created": 5, "max_model_len": 77}]})
        if request.url.path == "/tokenize":
            return httpx.Response(404)
        return answer(request)

    return httpx.MockTransport(handle)


async def engine_for(answer: Handler) -> UpstreamEngine:
    engine = UpstreamEngine("http://upstream.test/v1", transport=server(answer))
    await engine.start()
    return engine


def test_a_chat_is_sent_as_messages_and_comes_back_as_events() -> None:
    seen: list[dict[str, Any]] = []
    logprobs = {"content": [{"token": "Hi", "bytes": [72, 105], "logprob": -0.5, "top_logprobs": []}]}
    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant"}}]},
        {"choices": [{"index": 1, "delta": {"content": "\u68af"}}]},
        {"choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": logprobs}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(200, stream=Stream(chunks))

    async def main() -> None:
        engine = await engine_for(answer)
        assert engine.info().models[0].context_length == 77
        prompt = await engine.encode_chat("m", [{"role": "user", "content": "hello there, model"}])
        assert len(prompt) > 3
        events = await collect(engine, request("a", prompt, model="m", n=2, logprobs=1, top_k=5, stop=("x",)))
        assert text(events, 0) == "Hi" and text(events, 1) == "\u68af"
        assert reasons(events) == {0: "stop", 1: "length"} and ids(events) == [-1]
        assert isinstance(events[0], Started) and events[-1] == Finished("a", 9, 4)
        assert seen[0]["messages"][0]["content"] == "hello there, model" and seen[0]["top_k"] == 5
        assert seen[0]["n"] == 2 and seen[0]["stop"] == ["x"] and "min_p" not in seen[0]
        await engine.close()

    run(main)


def test_refusals_failures_and_what_such_servers_cannot_do() -> None:
    answers = iter([
        httpx.Response(429, json={"error": {"message": "slow down"}}, headers={"retry-after": "7"}),
        httpx.Response(200, stream=Stream([{"choices": [{"index": 0, "text": "a"}]}], breaks=True)),
        httpx.Response(200, stream=Stream([{"choices": [{"index": 0, "text": "a"}]}, {"error": {"message": "bug"}}])),
    ])  # fmt: skip

    async def main() -> None:
        engine = await engine_for(lambda _: next(answers))
        prompt = await engine.tokenize("m", "once upon")
        assert await engine.decode("m", prompt) == "once upon"
        with pytest.raises(Overloaded) as refusal:
            await anext(engine.submit(request("a", prompt, model="m")))
        assert refusal.value.retry_after == 7
        for _ in range(2):
            events = await collect(engine, request("b", prompt, model="m"))
            assert text(events) == "a" and isinstance(events[-1], Failed)
        with pytest.raises(UnknownModel):
            await anext(engine.submit(request("c", prompt, model="other")))
        with pytest.raises(Unsupported):
            await anext(engine.submit(request("d", [1, 2, 3], model="m")))
        assert engine.info().slots_used == 0 and engine.info().queue_length == 0
        await engine.close()

    run(main)


def test_leaving_closes_the_connection() -> None:
    stream = Stream([{"choices": [{"index": 0, "text": "a"}]}] * 50)

    async def main() -> None:
        engine = await engine_for(lambda _: httpx.Response(200, stream=stream))
        prompt = await engine.tokenize("m", "once")
        events = engine.submit(request("a", prompt, model="m"))
        while not isinstance(await anext(events), Delta):
            pass
        await events.aclose()
        assert engine.info().slots_used == 0 and stream.closed
        await engine.close()

    run(main)


def test_a_server_that_is_not_there_is_told_at_start() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async def main() -> None:
        engine = UpstreamEngine("http://upstream.test/v1", transport=httpx.MockTransport(refuse))
        with pytest.raises(EngineLost):
            await engine.start()

    run(main)
