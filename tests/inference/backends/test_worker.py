"""worker.py: the engine behind a socket is the engine; when it is killed nobody waits for ever."""

import asyncio
import math
import os
import signal
import time
from pathlib import Path

import pytest

from tests.inference.backends.helpers import collect, ids, reasons, request, run, text
from wuya.inference.backends import wire
from wuya.inference.backends.local import LocalEngine
from wuya.inference.backends.protocol import (
    ContextTooLong,
    Delta,
    EngineLost,
    Failed,
    GenerationParams,
    GenerationRequest,
    Overloaded,
    TokenLogprob,
    TopToken,
    UnknownModel,
)
from wuya.inference.backends.worker import WorkerEngine

OPTIONS = {"device": "cpu", "dtype": "float32", "threads": 1, "slots": 2}


def through_the_wire(value: object) -> object:
    async def main() -> object:
        reader = asyncio.StreamReader()
        reader.feed_data(wire.pack(value))
        reader.feed_eof()
        return await wire.read(reader)

    return asyncio.run(main())


def test_records_and_errors_cross_the_wire_whole() -> None:
    token = TokenLogprob("\ufffd", b"\xe6\x00", 7, -0.5, (TopToken(1, "a", b"a", -1.0),))
    params = GenerationParams(max_tokens=3, logit_bias={5: -100.0}, stop=("x",), json_schema={"!": "map", "a": [1]})
    for value in (
        [Delta("j", 0, "\u68af\U0001f600", (1, 2), (token,)), Failed("j", "c", "m", retryable=True)],
        GenerationRequest(job="j", model="m", prompt_ids=(1, 2), params=params),
        {"!": "bytes", "data": [None, True, 1.5, {"deep": {}}]},
        [[1, 2], [True, 1], [], [1, None], [1, "a"]],
    ):
        assert through_the_wire(value) == value
    error = through_the_wire(ContextTooLong(prompt_tokens=9, max_tokens=2, context_length=10))
    assert isinstance(error, ContextTooLong) and error.prompt_tokens == 9 and error.code == "context_length_exceeded"
    error = through_the_wire(Overloaded(retry_after=3.5))
    assert isinstance(error, Overloaded) and error.retry_after == 3.5 and error.hint
    assert "boom" in str(through_the_wire(ValueError("boom")))


def test_a_long_prompt_crosses_the_wire_while_nobody_waits_long() -> None:
    """A quarter of a million ids took a second at each end, and all streams share that event loop."""
    ids = list(range(262_144))
    began = time.perf_counter()
    assert through_the_wire({"tokens": ids}) == {"tokens": ids}
    assert time.perf_counter() - began < 0.5


def test_a_killed_engine_fails_its_streams_and_answers_again(checkpoint: Path) -> None:
    async def main() -> None:
        local = LocalEngine({"tiny": checkpoint}, device="cpu", dtype="float32")
        await local.start()
        engine = WorkerEngine({"tiny": checkpoint}, **OPTIONS)
        await engine.start()
        try:
            wanted = request("a", [5, 6, 7], n=2, temperature=0.9, seed=3, logprobs=2)
            mine, theirs = await collect(local, wanted), await collect(engine, wanted)
            for index in (0, 1):
                assert text(mine, index) == text(theirs, index) and ids(mine, index) == ids(theirs, index)
            assert sorted(map(repr, mine)) == sorted(map(repr, theirs))
            assert await engine.tokenize("tiny", "river \u68af") == await local.tokenize("tiny", "river \u68af")
            assert math.isnan((await engine.score("tiny", [5, 6], 1))[0].logprob)
            with pytest.raises(UnknownModel):
                await anext(engine.submit(request("b", [5], model="other")))
            assert engine.info().models[0].alias == "tiny" and engine.info().ready

            assert engine.pid is not None
            stream = engine.submit(request("t", [5, 6], max_tokens=60, ignore_eos=True))
            await anext(stream)
            for number in (signal.SIGTERM, signal.SIGINT):  # as to a whole process group: for the service to obey
                os.kill(engine.pid, number)
            assert len(ids([event async for event in stream])) == 60
            stream = engine.submit(request("c", [5, 6], max_tokens=60, ignore_eos=True))
            first = await anext(stream)
            os.kill(engine.pid, signal.SIGKILL)
            rest = [event async for event in stream]
            assert first and isinstance(rest[-1], Failed) and rest[-1].code == "engine_lost" and rest[-1].retryable
            with pytest.raises(EngineLost):
                await engine.tokenize("tiny", "x")
            assert not engine.info().ready
            async with asyncio.timeout(400):
                while not engine.restarts:
                    await asyncio.sleep(0.05)
            again = await collect(engine, request("d", [5, 6, 7], n=2, temperature=0.9, seed=3, logprobs=2))
            assert ids(again) == ids(mine)

            leaving = engine.submit(request("e", [5, 6], max_tokens=60, ignore_eos=True))
            await anext(leaving), await anext(leaving)
            await leaving.aclose()
            ending = engine.submit(request("f", [5, 6], max_tokens=60, ignore_eos=True))
            await anext(ending)
            await engine.cancel("f")
            assert reasons([event async for event in ending])[0] in ("cancelled", "length")
        finally:
            await engine.close()
            await local.close()

    run(main)


def test_a_model_that_cannot_be_loaded_is_told_at_start(tmp_path: Path) -> None:
    async def main() -> None:
        engine = WorkerEngine({"tiny": tmp_path / "nothing"}, **OPTIONS)
        with pytest.raises(Exception, match="no checkpoint"):
            await engine.start()
        await engine.close()

    run(main)
