"""openvino.py keeps the rules of `protocol` on OpenVINO GenAI, and says what it cannot do. Loading it takes seconds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.inference.backends.helpers import collect, ids, reasons, request, run, text
from tests.inference.naive import full_logprobs, naive_greedy, sharp_model
from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.checkpoints.gguf_writer import save_gguf
from wuya.errors import CheckpointError, ConfigError
from wuya.inference.backends.local import LocalEngine
from wuya.inference.backends.protocol import (
    ContextTooLong,
    Delta,
    Done,
    Finished,
    Overloaded,
    Started,
    Unsupported,
)
from wuya.models.gpt import GPT
from wuya.tokenizer.bpe import Tokenizer

pytest.importorskip("openvino_genai", reason="needs `pip install wuya[openvino]`")

LONG: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory, small_model: GPT, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    save_gguf(path, small_model, tokenizer, precision="float16")
    return path


@asynccontextmanager
async def running(path: Path, **options: Any) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine({"tiny": path}, library="openvino", dtype="float32", **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def test_it_says_what_our_own_engine_would(gguf: Path, tokenizer: Tokenizer) -> None:
    model, _ = load_checkpoint(gguf)
    stops = tokenizer.turn_end.ids

    async def main() -> None:
        prompts = [[5, 6, 7], [40, 41], [9], *([n, n + 1, n + 2] for n in range(20, 25))]
        async with running(gguf, slots=3) as engine:
            assert engine.info().models[0].fingerprint.startswith("wuya-") and engine.info().ready
            many = await asyncio.gather(*(collect(engine, request(str(n), p)) for n, p in enumerate(prompts)))
            assert engine.info().slots_used == 0 and engine.info().queue_length == 0
            for prompt, events in zip(prompts, many, strict=True):
                greedy = naive_greedy(model, prompt, 16, stops)
                stopped = greedy[-1] in stops
                assert ids(events) == (greedy[:-1] if stopped else greedy)
                assert text(events) == tokenizer.decode(greedy, skip_special=True)
                assert reasons(events) == {0: "stop" if stopped else "length"}
                assert isinstance(events[0], Started) and events[-1] == Finished(
                    events[0].job, len(prompt), len(greedy)
                )

            sampled: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "top_k": 50, "seed": 3, "ignore_eos": True}
            alone = await collect(engine, request("s", [5, 6], n=2, logprobs=0, max_tokens=24, **sampled))
            crowd = [collect(engine, request(f"c{n}", [7 + n], temperature=1.0)) for n in range(4)]
            again, *_ = await asyncio.gather(
                collect(engine, request("t", [5, 6], n=2, logprobs=0, max_tokens=24, **sampled)), *crowd
            )
            assert [ids(again, n) for n in (0, 1)] == [ids(alone, n) for n in (0, 1)] and ids(alone, 0) != ids(alone, 1)
            oracle = full_logprobs(model, [5, 6], tuple(ids(alone)))
            records = [r for event in alone if isinstance(event, Delta) and event.index == 0 for r in event.logprobs]
            assert [record.token_id for record in records] == ids(alone)
            for row, record in zip(oracle, records, strict=True):
                assert abs(record.logprob - float(row[record.token_id])) < 0.01 and record.top == ()

            whole = text(alone)
            for start, end in ((1, 2), (2, 5), (len(whole) - 3, len(whole))):
                wanted = request(f"x{start}", [5, 6], n=2, max_tokens=24, stop=(whole[start:end],), **sampled)
                events = await collect(engine, wanted)
                assert text(events) == whole[: whole.index(whole[start:end])] and reasons(events)[0] == "stop"
                assert whole[start:end] not in text(events, 1)

            with pytest.raises(Unsupported, match="logit_bias"):
                await anext(engine.submit(request("u", [5], logit_bias={3: 1.0})))
            with pytest.raises(Unsupported, match="top_logprobs"):
                await anext(engine.submit(request("u", [5], logprobs=2)))
            with pytest.raises(Unsupported, match="response_format"):
                await anext(engine.submit(request("u", [5], json_schema={})))
            with pytest.raises(Unsupported, match="embeddings"):
                await engine.embed("tiny", [[5]])
            with pytest.raises(Unsupported, match="score"):
                await engine.score("tiny", [5, 6], 1)
            assert await engine.tokenize("tiny", "the sea") == tokenizer.encode("the sea")

    run(main)


def test_jobs_can_be_stopped_at_any_place(gguf: Path) -> None:
    async def main() -> None:
        async with running(gguf, slots=1, queue_limit=1) as engine:

            async def idle() -> None:
                async with asyncio.timeout(20):
                    while engine.info().slots_used or engine.info().queue_length:
                        await asyncio.sleep(0.005)

            with pytest.raises(ContextTooLong):
                await anext(engine.submit(request("b", [5] * 60, max_tokens=10)))
            streams = [engine.submit(request(str(n), [5], **LONG)) for n in range(3)]
            await anext(streams[0]), await anext(streams[0])
            assert isinstance(await anext(streams[1]), Started)
            with pytest.raises(Overloaded):
                await anext(streams[2])
            await engine.cancel("1")
            await engine.cancel("1")
            rest = [event async for event in streams[1]]  # from the queue
            assert isinstance(rest[-2], Done) and rest[-2].finish_reason == "cancelled"
            await streams[0].aclose()
            await idle()
            async with aclosing(engine.submit(request("v", [5, 6], n=2, **LONG))) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        await engine.cancel("v")
                        break
                rest = [event async for event in events]
            assert set(reasons(rest).values()) <= {"cancelled", "length"} and isinstance(rest[-1], Finished)
            await idle()
            assert len(ids(await collect(engine, request("w", [5, 6], max_tokens=40, ignore_eos=True)))) == 40
            last = engine.submit(request("z", [5, 6], **LONG))
            await anext(last)
            await engine.close()
            assert isinstance([event async for event in last][-1], Finished)

    run(main)


def test_a_folder_is_exported_first_and_what_it_would_get_wrong_is_refused(
    checkpoint: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    config = sharp_model(vocab_size=tokenizer.vocab_size).config
    biased = replace(config, qk_norm=False, attention_bias=True, output_bias=True)
    save_checkpoint(tmp_path / "biased", GPT(biased), tokenizer)

    async def main() -> None:
        async with running(checkpoint, quantize="int8") as engine:
            assert len(ids(await collect(engine, request("a", [5, 6], max_tokens=5, ignore_eos=True)))) == 5
        with pytest.raises(CheckpointError, match="without biases"):
            async with running(tmp_path / "biased"):
                pass
        with pytest.raises(ConfigError, match="8-bit"):
            async with running(checkpoint, quantize="int4"):
                pass

    run(main)
