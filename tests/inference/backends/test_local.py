"""local.py, hosted.py: what a request gets does not depend on who else is served; it can be stopped at any place."""

import asyncio
import random
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.inference.backends.helpers import collect, ids, reasons, request, run, running, text
from tests.inference.naive import full_logprobs, naive_greedy
from wuya.inference.backends.hosted import HostedModel
from wuya.inference.backends.protocol import (
    ContextTooLong,
    Delta,
    Done,
    Finished,
    Overloaded,
    Started,
    UnknownModel,
)
from wuya.inference.batch import StepOutput
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.gpt import GPT
from wuya.tokenizer.bpe import Tokenizer


def prompts(count: int, vocab_size: int, longest: int = 30) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(3, vocab_size) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def slow_down(hosted: HostedModel) -> None:
    """Chunks of 32 tokens, and 20 ms a step, so that a test is quicker than the model."""
    step = hosted.batch.step

    def slow_step() -> StepOutput | None:
        hosted._prefill_speed = 1.0
        time.sleep(0.02)
        return step()

    hosted.batch.step = slow_step  # type: ignore[method-assign]


def test_greedy_tokens_are_those_of_the_naive_loop_whatever_else_runs(
    checkpoint: Path, small_model: GPT, tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        wanted = prompts(12, tokenizer.vocab_size)
        async with running(checkpoint, slots=4) as engine:
            many = await asyncio.gather(*(collect(engine, request(str(n), p)) for n, p in enumerate(wanted)))
            assert engine.info().slots_used == 0 and engine.info().queue_length == 0
        for prompt, events in zip(wanted, many, strict=True):
            greedy = naive_greedy(small_model, prompt, 16, tokenizer.turn_end.ids)
            stopped = greedy[-1] in tokenizer.turn_end.ids
            assert ids(events) == (greedy[:-1] if stopped else greedy)
            assert text(events) == tokenizer.decode(greedy, skip_special=True)
            assert reasons(events) == {0: "stop" if stopped else "length"}
            assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
            assert events[-1].completion_tokens == len(greedy)

    run(main)


def test_seeds_give_what_the_rollout_engine_gives_alone_or_in_company(
    checkpoint: Path, small_model: GPT, tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        [prompt] = prompts(1, tokenizer.vocab_size)
        params = {"temperature": 1.3, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 7, "n": 3, "ignore_eos": True}
        async with running(checkpoint, slots=3) as engine:  # n = 3 and company: they wait for each other
            alone = await collect(engine, request("alone", prompt, **params))
            crowd = [request(str(n), p, temperature=1.0) for n, p in enumerate(prompts(5, tokenizer.vocab_size))]
            both = await asyncio.gather(
                *(collect(engine, r) for r in crowd[:3]),
                collect(engine, request("again", prompt, **params)),
                *(collect(engine, r) for r in crowd[3:]),
            )
        sampling = SamplingParams(max_tokens=16, temperature=1.3, top_p=0.9, top_k=40, min_p=0.01, seed=7)
        [wanted] = Engine(small_model).generate([prompt], sampling, num_samples=3)
        for index in range(3):
            assert ids(alone, index) == ids(both[3], index) == list(wanted[index].token_ids)

    run(main)


def test_the_next_turn_reads_only_what_is_new_and_says_the_same(
    checkpoint: Path, small_model: GPT, tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        [first] = prompts(1, tokenizer.vocab_size)
        first = (first * 20)[:20]
        async with running(checkpoint) as engine:
            answer = ids(await collect(engine, request("1", first, max_tokens=8, ignore_eos=True)))
            hosted = engine._models["tiny"]
            before = hosted.batch.num_prefilled
            second = [*first, *answer, 5, 6]
            events = await collect(engine, request("2", second, max_tokens=8, ignore_eos=True))
            assert hosted.batch.num_prefilled - before == 3  # the last token of the answer was never read
            again = await collect(engine, request("3", second, max_tokens=8, ignore_eos=True))
            assert ids(events) == ids(again) == naive_greedy(small_model, second, 8)

    run(main)


def test_a_small_cache_puts_the_youngest_back_and_nobody_notices(
    checkpoint: Path, small_model: GPT, tokenizer: Tokenizer
) -> None:
    async def main() -> None:
        wanted = prompts(6, tokenizer.vocab_size, longest=8)
        async with running(checkpoint, slots=6, cache_bytes=1, prefix_bytes=0) as engine:  # one context for all
            hosted = engine._models["tiny"]
            sizes = []
            original = hosted.cache.resize

            def resize(rows: int, length: int, *, live_rows: int) -> None:
                sizes.append(rows * length)
                original(rows, length, live_rows=live_rows)

            hosted.cache.resize = resize  # type: ignore[method-assign]
            params = {"max_tokens": 40, "ignore_eos": True, "temperature": 0.7, "seed": 3, "frequency_penalty": 0.2}
            many = await asyncio.gather(*(collect(engine, request(str(n), p, **params)) for n, p in enumerate(wanted)))
            alone = [await collect(engine, request("a", p, **params)) for p in wanted]
            assert [ids(events) for events in many] == [ids(events) for events in alone]
            assert max(sizes) <= 64 and sizes[-1] == 1  # within the bound, and nothing when idle

    run(main)


@pytest.mark.parametrize("where", ["queue", "prefill", "decode"])
def test_cancel_frees_the_slot_within_a_step(checkpoint: Path, tokenizer: Tokenizer, where: str) -> None:
    async def main() -> None:
        async with running(checkpoint, slots=1) as engine:
            hosted = engine._models["tiny"]
            slow_down(hosted)
            blocker = engine.submit(request("b", [5], max_tokens=60, ignore_eos=True))
            prompt = prompts(1, tokenizer.vocab_size)[0] * 40
            victim = engine.submit(request("v", prompt[:50], max_tokens=10))
            if where == "queue":
                await anext(blocker), await anext(blocker)
            started = await anext(victim)
            assert isinstance(started, Started)
            if where == "decode":
                await anext(victim)
            await engine.cancel("v")
            await engine.cancel("v")
            rest = [event async for event in victim]
            assert isinstance(rest[-2], Done) and rest[-2].finish_reason == "cancelled"
            assert isinstance(rest[-1], Finished)
            await blocker.aclose()
            async with asyncio.timeout(5):
                while engine.info().slots_used or engine.info().queue_length:
                    await asyncio.sleep(0.005)
            assert not hosted.jobs and not hosted._by_sequence

    run(main)


def test_leaving_the_iterator_frees_the_slot(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            async with aclosing(engine.submit(request("x", [5, 6], max_tokens=60, ignore_eos=True, n=2))) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        break
            async with asyncio.timeout(5):
                while engine.info().slots_used:
                    await asyncio.sleep(0.005)

    run(main)


def test_refusals_come_before_the_first_event(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint, slots=1, queue_limit=1) as engine:
            with pytest.raises(UnknownModel):
                await anext(engine.submit(request("a", [5], model="gpt-5")))
            with pytest.raises(ContextTooLong):
                await anext(engine.submit(request("b", [5] * 60, max_tokens=10)))
            streams = [engine.submit(request(str(n), [5], max_tokens=60, ignore_eos=True)) for n in range(3)]
            await anext(streams[0]), await anext(streams[0])
            await anext(streams[1])
            with pytest.raises(Overloaded):
                await anext(streams[2])
            for stream in streams:
                await stream.aclose()

    run(main)


def test_stop_strings_end_the_text_before_them(checkpoint: Path, tokenizer: Tokenizer) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            for number, prompt in enumerate(prompts(6, tokenizer.vocab_size)):
                params = {"temperature": 1.0, "seed": number, "max_tokens": 24, "ignore_eos": True}
                whole = text(await collect(engine, request(f"w{number}", prompt, **params)))
                for start, end in ((1, 2), (2, 5), (len(whole) - 3, len(whole))):
                    stop = whole[start:end]
                    events = await collect(engine, request(f"s{number}.{start}", prompt, stop=(stop,), **params))
                    assert text(events) == whole[: whole.index(stop)] and reasons(events) == {0: "stop"}

    run(main)


def test_logprobs_are_those_of_a_full_forward(checkpoint: Path, small_model: GPT, tokenizer: Tokenizer) -> None:
    async def main() -> None:
        [prompt] = prompts(1, tokenizer.vocab_size)
        async with running(checkpoint) as engine:
            params = {"logprobs": 4, "temperature": 0.8, "seed": 1, "frequency_penalty": 1.0, "ignore_eos": True}
            events = await collect(engine, request("a", prompt, **params))
            scored = await engine.score("tiny", [*prompt, *ids(events)], 2)
        records = [record for event in events if isinstance(event, Delta) for record in event.logprobs]
        oracle = full_logprobs(small_model, prompt, tuple(ids(events)))
        assert [record.token_id for record in records] == ids(events)
        for row, record in zip(oracle, records, strict=True):
            assert abs(record.logprob - float(row[record.token_id])) < 1e-3
            assert [top.token_id for top in record.top] == row.topk(4).indices.tolist()
        joined = b"".join(record.bytes for record in records)
        assert joined == tokenizer.decode_bytes(ids(events))
        for record, again in zip(records, scored[len(prompt) :], strict=True):
            assert abs(record.logprob - again.logprob) < 1e-3 and len(again.top) == 2
        assert scored[0].logprob != scored[0].logprob  # NaN

    run(main)


def test_hot_switch_lets_running_streams_finish(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            stream = engine.submit(request("a", [5, 6], max_tokens=40, ignore_eos=True))
            events = [await anext(stream), await anext(stream)]
            await engine.load("tiny", str(checkpoint))
            await engine.load("other", str(checkpoint))
            events += [event async for event in stream]
            assert reasons(events) == {0: "length"} and len(ids(events)) == 40
            assert {model.alias for model in engine.info().models} == {"tiny", "other"}
            await engine.unload("other")
            with pytest.raises(UnknownModel):
                await engine.tokenize("other", "x")
            assert len(ids(await collect(engine, request("b", [5, 6], max_tokens=40, ignore_eos=True)))) == 40
            assert len(engine._hosted) == 1

    run(main)


def test_closing_ends_streams(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            stream = engine.submit(request("a", [5, 6], max_tokens=60, ignore_eos=True))
            await anext(stream)
            await engine.close()
            events = [event async for event in stream]
            assert reasons(events)[0] in ("cancelled", "length") and isinstance(events[-1], Finished)

    run(main)


def test_embeddings_are_unit_vectors_of_the_mean_hidden_state(checkpoint: Path, small_model: GPT) -> None:
    async def main() -> None:
        import torch

        async with running(checkpoint) as engine:
            [one, two] = await engine.embed("tiny", [[5, 6, 7], [8]])
        mean = small_model(torch.tensor([[5, 6, 7]]))[0].mean(0)
        assert torch.allclose(torch.tensor(one), mean / mean.norm(), atol=1e-5) and len(two) == len(one)

    run(main)


def test_greedy_tokens_are_those_of_transformers(checkpoint: Path, tokenizer: Tokenizer) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    async def main() -> None:
        [prompt] = prompts(1, tokenizer.vocab_size)
        async with running(checkpoint) as engine:
            ours = ids(await collect(engine, request("a", prompt, ignore_eos=True)))
        theirs = AutoModelForCausalLM.from_pretrained(checkpoint)
        sequence = list(prompt)
        with torch.no_grad():
            for _ in range(16):
                sequence.append(int(theirs(torch.tensor([sequence])).logits[0, -1].argmax()))
        assert ours == sequence[len(prompt) :]

    run(main)
