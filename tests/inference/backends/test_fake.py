"""The fake keeps the rules of the protocol, so that what works with it works with the real ones."""

import asyncio
from contextlib import aclosing
from itertools import pairwise

import pytest

from wuya.inference.backends.fake import FakeEngine
from wuya.inference.backends.protocol import (
    ContextTooLong,
    Delta,
    Done,
    Event,
    Failed,
    Finished,
    GenerationParams,
    GenerationRequest,
    Overloaded,
    Started,
    UnknownModel,
)


def request(job: str = "a", model: str = "fake", **params: object) -> GenerationRequest:
    settings = GenerationParams(**{"max_tokens": 64, "seed": 0} | params)  # type: ignore[arg-type]
    return GenerationRequest(job=job, model=model, prompt_ids=(5, 6, 7), params=settings)


async def collect(engine: FakeEngine, wanted: GenerationRequest) -> list[Event]:
    async with aclosing(engine.submit(wanted)) as events:
        return [event async for event in events]


def text(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def test_the_same_seed_gives_the_same_words_in_the_promised_order() -> None:
    async def main() -> None:
        engine = FakeEngine()
        first, second = await collect(engine, request()), await collect(engine, request("b"))
        assert text(first) == text(second) != ""
        assert isinstance(first[0], Started) and isinstance(first[-2], Done) and isinstance(first[-1], Finished)
        assert engine.slots_used == 0

    asyncio.run(main())


def test_stop_n_length_and_logprobs() -> None:
    async def main() -> None:
        engine = FakeEngine(script="one two three four")
        stopped = await collect(engine, request(stop=("thr",)))
        assert text(stopped) == "one two " and isinstance(stopped[-2], Done) and stopped[-2].finish_reason == "stop"
        short = await collect(engine, request(max_tokens=2, logprobs=3))
        assert text(short) == "one two" and isinstance(short[-2], Done) and short[-2].finish_reason == "length"
        assert all(len(event.logprobs[0].top) == 3 for event in short if isinstance(event, Delta))
        many = await collect(engine, request(n=3))
        order = [event.index for event in many if isinstance(event, Delta)]
        assert [text(many, index) for index in range(3)] == ["one two three four"] * 3
        assert any(a != b for a, b in pairwise(order)) and sum(isinstance(event, Done) for event in many) == 3

    asyncio.run(main())


@pytest.mark.parametrize("where", ["queue", "prefill", "decode", "left"])
def test_cancel_frees_the_slot_wherever_the_job_is(where: str) -> None:
    async def main() -> None:
        engine = FakeEngine(tokens_per_second=20, prefill_seconds=60.0 if where == "prefill" else 0, slots=1)
        blocker = engine.submit(request("blocker"))
        if where == "queue":
            await anext(blocker)
            waiting = asyncio.create_task(anext(blocker))
            await asyncio.sleep(0)
        events = engine.submit(request())
        started = await anext(events)
        assert isinstance(started, Started) and started.position == (where == "queue")
        if where == "left":
            await anext(events)
            await events.aclose()
            assert engine.slots_used == 0 and engine.cancelled == ["a"]
            return
        rest = asyncio.create_task(asyncio.wait_for(last(events), 1))
        await asyncio.sleep(0.01)
        await engine.cancel("a")
        done, finished = await rest
        assert isinstance(done, Done) and done.finish_reason == "cancelled" and isinstance(finished, Finished)
        assert engine.slots_used == (where == "queue") and engine.info().queue_length == 0
        if where == "queue":
            await waiting
        await blocker.aclose()
        assert engine.slots_used == 0

    async def last(events: object) -> list[Event]:
        return [event async for event in events][-2:]  # type: ignore[attr-defined]

    asyncio.run(main())


def test_refusals_come_before_the_first_event() -> None:
    async def main() -> None:
        engine = FakeEngine(slots=1, queue_limit=1, tokens_per_second=1)
        with pytest.raises(UnknownModel):
            await anext(engine.submit(request(model="other")))
        with pytest.raises(ContextTooLong):
            await anext(engine.submit(request(max_tokens=5000)))
        running, waiting = engine.submit(request("r")), engine.submit(request("w"))
        await anext(running)
        await anext(running)
        await anext(waiting)
        task = asyncio.create_task(anext(waiting))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await anext(engine.submit(request("x")))
        await running.aclose()
        assert isinstance(await task, Delta) and engine.slots_used == 1
        await waiting.aclose()

    asyncio.run(main())


def test_it_fails_when_told_and_writes_json_when_asked() -> None:
    async def main() -> None:
        failed = await collect(FakeEngine(fail_after=3), request())
        assert isinstance(failed[-1], Failed) and failed[-1].code == "engine_lost"
        schema = {"type": "object", "properties": {"name": {"type": "string"}, "size": {"enum": ["s", "m"]}}}
        assert text(await collect(FakeEngine(), request(json_schema=schema))) == '{"name": "text", "size": "s"}'

    asyncio.run(main())


def test_text_survives_encoding_and_specials_stay_text() -> None:
    async def main() -> None:
        engine = FakeEngine()
        words = "Hello <|im_end|> \u68af\u5ea6 x\n"
        assert await engine.decode("fake", await engine.tokenize("fake", words)) == words
        ids = await engine.encode_chat("fake", [{"role": "user", "content": "hi <|im_start|>"}])
        assert ids.count(1) == 2

    asyncio.run(main())
