"""upstream.py: OpenAI's stream becomes our events, whatever the server sends."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.inference.backends.helpers import collect, ids, reasons, request, run, text
from wuya.errors import DataError
from wuya.inference.backends import upstream
from wuya.inference.backends.protocol import (
    ContextTooLong,
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
    def __init__(self, chunks: list[dict[str, Any]], *, breaks: bool = False, done: bool = True) -> None:
        self.chunks, self.breaks, self.done, self.closed = chunks, breaks, done, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            data = f"data: {json.dumps(chunk)}\n\n".encode()
            yield data[:5]  # cut anywhere
            yield data[5:]
        if self.breaks:
            raise httpx.ReadError("gone")
        yield b"data: [DONE]\n\n" if self.done else b": nothing more\n\n"

    async def aclose(self) -> None:
        self.closed = True


def server(answer: Handler) -> httpx.MockTransport:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m", "created": 5, "max_model_len": 77}]})
        if request.url.path in ("/tokenize", "/apply-template"):
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
    chunks: list[dict[str, Any]] = [
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


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (Stream([{"choices": [{"index": 0, "text": "a"}]}], done=False), "engine_lost"),  # closed without an error
        (Stream([{"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}]), "internal_error"),  # n ignored
        (Stream([{"error": {"message": "bug", "type": "Internal Server Error", "code": 500}}]), "internal_error"),
        (Stream([{"error": {"message": "bad", "code": "bad_thing"}}]), "bad_thing"),
    ],
)
def test_an_answer_that_is_not_whole_is_a_failure_not_a_short_answer(stream: Stream, code: str) -> None:
    async def main() -> None:
        engine = await engine_for(lambda _: httpx.Response(200, stream=stream))
        events = await collect(engine, request("a", await engine.tokenize("m", "once"), model="m", n=2))
        assert isinstance(events[-1], Failed) and events[-1].code == code
        assert events[-1].retryable == (code == "engine_lost")
        await engine.close()

    run(main)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"error": {"message": "maximum context length is 8 tokens", "type": "BadRequestError", "code": 400}},
         ContextTooLong),  # vLLM
        (400, {"error": {"message": "request too large", "type": "exceed_context_size_error"}}, ContextTooLong),
        (400, {"object": "error", "message": "top_p must be in (0, 1]", "code": 400}, DataError),  # without a wrapper
        (400, {"error": {"message": "max_tokens=50 cannot be greater than max_model_len=8."}}, ContextTooLong),
        (422, {"detail": "in this context: no"}, DataError),
        (401, {"error": {"message": "Unauthorized"}}, EngineLost),
        (503, {"error": {"message": "Loading model", "code": 503}}, Overloaded),
        (500, "Internal Server Error", EngineLost),
    ],
)  # fmt: skip
def test_refusals_of_other_servers_are_ours(status: int, body: Any, error: type[Exception]) -> None:
    async def main() -> None:
        headers = {"retry-after": "Sun, 22 Nov 2026 10:00:00 GMT"}
        engine = await engine_for(lambda _: httpx.Response(status, json=body, headers=headers))
        prompt = await engine.tokenize("m", "once")
        with pytest.raises(error) as raised:
            await anext(engine.submit(request("a", prompt, model="m")))
        if isinstance(raised.value, ContextTooLong):
            assert (raised.value.max_tokens, raised.value.context_length) == (16, 77)
        with pytest.raises(ContextTooLong):  # known before it is sent
            await anext(engine.submit(request("b", prompt, model="m", max_tokens=77)))
        await engine.close()

    run(main)


def test_chats_are_counted_by_the_server_and_missing_embeddings_are_said() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        if request.url.path == "/tokenize" and "messages" in json.loads(request.content):  # as vLLM
            return httpx.Response(200, json={"count": 34, "max_model_len": 1024, "tokens": [1] * 34})
        return httpx.Response(404, json={"detail": "Not Found"})

    async def main() -> None:
        engine = UpstreamEngine("http://upstream.test/v1", transport=httpx.MockTransport(handle))
        await engine.start()
        assert len(await engine.encode_chat("m", [{"role": "user", "content": "Name three rivers."}])) == 34
        prompt = await engine.tokenize("m", "once upon")
        assert len(prompt) == 3  # estimated
        with pytest.raises(Unsupported, match="embeddings"):
            await engine.embed("m", [prompt])
        await engine.close()

    run(main)


def test_what_llama_server_sends_for_two_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As recorded (xllamacpp 2026.10.11549): 503 while it loads, its template on demand, one usage a completion."""
    monkeypatch.setattr(upstream, "ASK_AGAIN_SECONDS", 0.0)
    usage = {
        "completion_tokens": 4,
        "prompt_tokens": 32,
        "total_tokens": 36,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    role = {"role": "assistant", "content": None}
    chunks: list[dict[str, Any]] = [
        *({"choices": [{"finish_reason": None, "index": index, "delta": role}]} for index in (1, 0)),
        *({"choices": [{"finish_reason": None, "index": index, "delta": {"content": "Hello"}}]} for index in (1, 0)),
        {"choices": [{"finish_reason": "length", "index": 1, "delta": {}}]},
        {"choices": [], "usage": usage, "timings": {"cache_n": 0, "prompt_n": 32}},
        {"choices": [{"finish_reason": None, "index": 0, "delta": {"content": " there"}}]},
        {"choices": [{"finish_reason": "length", "index": 0, "delta": {}}]},
        {"choices": [], "usage": usage, "timings": {"cache_n": 0, "prompt_n": 32}},
    ]
    loading = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path == "/v1/models":
            told = {"data": [{"id": "m", "meta": {"n_ctx": 512, "n_ctx_train": 8192}}]}
            return httpx.Response(503, json=loading) if len(asked) < 3 else httpx.Response(200, json=told)
        if request.url.path == "/apply-template":
            return httpx.Response(200, json={"prompt": "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n"})
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"tokens": [1] * len(json.loads(request.content)["content"].split("|"))})
        return httpx.Response(200, stream=Stream(chunks))

    async def main() -> None:
        engine = UpstreamEngine("http://upstream.test/v1", transport=httpx.MockTransport(handle))
        await engine.start()
        assert engine.info().models[0].context_length == 512
        prompt = await engine.encode_chat("m", [{"role": "user", "content": "Say hi"}])
        assert len(prompt) == 7  # of the template, not of the two words
        events = await collect(engine, request("a", prompt, model="m", n=2, max_tokens=4))
        assert (text(events, 0), text(events, 1)) == ("Hello there", "Hello")
        assert reasons(events) == {0: "length", 1: "length"}
        assert events[-1] == Finished("a", 32, 8)
        await engine.close()

    run(main)


def test_an_answer_that_was_begun_goes_on() -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(200, stream=Stream([{"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}]))

    async def main() -> None:
        engine = await engine_for(answer)
        chat = [{"role": "user", "content": "count"}, {"role": "assistant", "content": "1, 2,"}]
        for messages in (chat, chat[:1]):
            await collect(engine, request("a", await engine.encode_chat("m", messages), model="m"))
        assert seen[0]["continue_final_message"] and not seen[0]["add_generation_prompt"]
        assert "continue_final_message" not in seen[1]
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


def test_over_a_real_socket_death_is_told_and_a_cancel_is_seen() -> None:
    """A server that speaks vLLM's recorded protocol for a while, then hangs up or waits to be left."""
    first = b'data: {"id":"c1","object":"text_completion","choices":[{"index":0,"text":" Paris","logprobs":null}]}\n\n'
    left: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head.startswith(b"get /v1/models"):
            body = b'{"object":"list","data":[{"id":"m","object":"model","max_model_len":64}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        elif head.startswith(b"post /v1/completions"):
            asked = json.loads(await reader.readexactly(int(head.split(b"content-length: ")[1].split()[0])))
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(first), first))
            await writer.drain()
            if asked["prompt"] == "wait":
                left.append(await reader.read(1) == b"")
            else:
                writer.transport.abort()
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def main() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        engine = UpstreamEngine(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1")
        await engine.start()
        events = await collect(engine, request("a", await engine.tokenize("m", "die"), model="m"))
        assert text(events) == " Paris" and isinstance(events[-1], Failed) and events[-1].code == "engine_lost"
        stream = engine.submit(request("b", await engine.tokenize("m", "wait"), model="m"))
        seen = [await anext(stream), await anext(stream)]
        await engine.cancel("b")
        seen += [event async for event in stream]
        assert reasons(seen) == {0: "cancelled"} and isinstance(seen[-1], Finished)
        async with asyncio.timeout(10):
            while not left:
                await asyncio.sleep(0.01)
        assert left == [True] and engine.info().slots_used == 0
        await engine.close()
        listening.close()

    run(main)
