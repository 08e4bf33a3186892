"""engine.py and batch.py: the promises of the engine, each against the slow, obvious way."""

from typing import Any

import pytest
import torch
from scipy import stats

from tests.inference.naive import VOCAB, full_logprobs, naive_greedy, random_prompts, sharp_model
from wuya.errors import DataError
from wuya.inference.caches import cache_bytes_per_token
from wuya.inference.engine import Engine, Generation
from wuya.inference.sampling import SamplingParams
from wuya.models.gpt import GPT
from wuya.tokenizer.turn_end import TurnEnd


def flat(groups: list[list[Generation]]) -> list[Generation]:
    return [generation for group in groups for generation in group]


@pytest.mark.parametrize("num_kv_heads,positions", [(1, "rope"), (4, "learned")])
def test_greedy_equals_the_naive_loop(num_kv_heads: int, positions: str) -> None:
    model = sharp_model(3, num_kv_heads=num_kv_heads, positions=positions)
    prompts = random_prompts(11)
    groups = Engine(model, max_batch_size=4).generate(
        prompts, SamplingParams(max_tokens=15, temperature=0, stop_token_ids=(1, 5))
    )
    for prompt, [generation] in zip(prompts, groups, strict=True):
        wanted = naive_greedy(model, prompt, 15, (1, 5))
        assert list(generation.token_ids) == wanted
        assert generation.finish_reason == ("stop" if wanted[-1] in (1, 5) else "length")


def test_logprobs_equal_a_full_forward_at_the_sampling_temperature(model: GPT) -> None:
    prompts = random_prompts(13)
    groups = Engine(model, max_batch_size=7).generate(
        prompts, SamplingParams(max_tokens=20, temperature=0.7, stop_token_ids=(0, 1)), num_samples=3
    )
    for prompt, group in zip(prompts, groups, strict=True):
        for generation in group:
            table = full_logprobs(model, prompt, generation.token_ids, 0.7)
            wanted = table.gather(1, torch.tensor(generation.token_ids)[:, None])[:, 0]
            assert torch.allclose(torch.tensor(generation.logprobs), wanted, atol=1e-5)


def test_a_hundred_thousand_tokens_pass_a_chi_square_test_against_a_full_forward(model: GPT) -> None:
    """Rows retire at random (stop tokens), are compacted and refilled; every token must still follow its conditional.

    Given its own past, a token's count minus its probability is a martingale difference, so over all tokens
    (observed - expected)^T Cov^-1 (observed - expected) is chi-square with V - 1 degrees of freedom.
    """
    prompts = random_prompts(40, longest=6, seed=1)
    sampling = SamplingParams(max_tokens=24, stop_token_ids=(0, 1))
    groups = Engine(model, max_batch_size=512, seed=11).generate(prompts, sampling, num_samples=250)
    lengths = torch.tensor([len(generation.token_ids) for generation in flat(groups)])
    assert lengths.sum() > 100_000
    assert len(lengths.unique()) > 20  # they did retire at different times
    observed = torch.zeros(2, VOCAB, dtype=torch.float64)  # early and late tokens of a completion, tested apart
    expected = torch.zeros(2, VOCAB, dtype=torch.float64)
    covariance = torch.zeros(2, VOCAB, VOCAB, dtype=torch.float64)
    for prompt, group in zip(prompts, groups, strict=True):
        longest = max(len(generation.token_ids) for generation in group)
        ids = torch.tensor([[*prompt, *g.token_ids, *[0] * (longest - len(g.token_ids))] for g in group])
        with torch.no_grad():
            table = model.logits(model(ids)[:, len(prompt) - 1 : -1]).double().softmax(-1)
        sampled = ids[:, len(prompt) :]
        position = torch.arange(longest)
        kept = position < torch.tensor([len(g.token_ids) for g in group])[:, None]
        for late in (0, 1):
            chosen = kept & ((position >= 8) == bool(late))
            p = table[chosen]
            observed[late] += torch.bincount(sampled[chosen], minlength=VOCAB)
            expected[late] += p.sum(0)
            covariance[late] += torch.diag(p.sum(0)) - p.T @ p
    for late in (0, 1):
        difference = (observed - expected)[late, 1:]  # one token is implied by the others
        statistic = difference @ torch.linalg.solve(covariance[late, 1:, 1:], difference)
        assert stats.chi2.sf(float(statistic), VOCAB - 1) > 1e-3
        assert observed[late].sum() > 20_000


def test_same_seed_same_completions_whatever_the_batch(model: GPT) -> None:
    prompts = random_prompts(9)
    sampling = SamplingParams(max_tokens=12, stop_token_ids=(2,), seed=5)
    wanted = Engine(model, max_batch_size=64).generate(prompts, sampling, num_samples=4)
    for size in (1, 3, 10):  # also fewer rows than samples
        again = Engine(model, max_batch_size=size, seed=99).generate(prompts, sampling, num_samples=4)
        assert [g.token_ids for g in flat(again)] == [g.token_ids for g in flat(wanted)]
        assert torch.allclose(
            torch.tensor([x for g in flat(again) for x in g.logprobs]),
            torch.tensor([x for g in flat(wanted) for x in g.logprobs]),
            atol=1e-5,
        )


def test_the_generator_state_resumes_exactly(model: GPT) -> None:
    prompts, sampling = random_prompts(4), SamplingParams(max_tokens=10)
    engine = Engine(model, seed=3)
    first = engine.generate(prompts, sampling)
    state = engine.generator.get_state()
    second = engine.generate(prompts, sampling)
    assert first != second
    other = Engine(model, seed=77)
    other.generator.set_state(state)
    assert other.generate(prompts, sampling) == second


def test_samples_of_one_prompt_differ_and_it_is_read_once(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = GPT.forward

    def counting(self: GPT, ids: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        read.append(ids.numel())
        return forward(self, ids, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("wuya.inference.batch.native_decode", lambda model: None)
    monkeypatch.setattr(GPT, "forward", counting)
    [group] = Engine(model).generate([[3, 4, 5, 6, 7]], SamplingParams(max_tokens=6), num_samples=8)
    assert len({generation.token_ids for generation in group}) > 4
    assert read == [5, 8, 8, 8, 8, 8]


def test_finished_rows_cost_nothing(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = GPT.forward

    def counting(self: GPT, ids: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        read.append(ids.numel())
        return forward(self, ids, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("wuya.inference.batch.native_decode", lambda model: None)
    monkeypatch.setattr(GPT, "forward", counting)
    sampling = SamplingParams(max_tokens=20, stop_token_ids=(0, 1, 2))
    groups = Engine(model, seed=1).generate([[9]], sampling, num_samples=40)
    assert sum(read) == 1 + sum(len(generation.token_ids) - 1 for generation in flat(groups))


def test_the_context_ends_a_completion(model: GPT) -> None:
    [[generation]] = Engine(model, max_length=10).generate([[1, 2, 3]], SamplingParams(max_tokens=50))
    assert len(generation.token_ids) == 7
    assert generation.finish_reason == "length"


@pytest.mark.parametrize("prompts,what", [([[]], "no tokens"), ([[1], [1] * 64], "prompt 1 leaves no room")])
def test_prompts_that_cannot_be_answered_are_refused(model: GPT, prompts: list[list[int]], what: str) -> None:
    with pytest.raises(DataError, match=what):
        Engine(model).generate(prompts, SamplingParams())


def test_no_prompts_no_completions(model: GPT) -> None:
    assert Engine(model).generate([], SamplingParams()) == []


def test_returning_false_from_progress_stops_within_the_step_and_keeps_what_there_is(model: GPT) -> None:
    seen: list[tuple[int, int]] = []

    def stop_after_five(tokens: int, finished: int) -> bool:
        seen.append((tokens, finished))
        return len(seen) < 5

    engine = Engine(model)
    groups = engine.generate(random_prompts(6), SamplingParams(max_tokens=30), on_progress=stop_after_five)
    assert seen == [(6, 0)] * 5
    assert all(len(g.token_ids) == 5 and g.finish_reason == "cancelled" for g in flat(groups))


def test_a_model_in_training_mode_generates_without_dropout_and_stays_in_training_mode(model: GPT) -> None:
    wanted = Engine(model, seed=1).generate([[1, 2]], SamplingParams(max_tokens=8))
    model.train()
    try:
        assert Engine(model, seed=1).generate([[1, 2]], SamplingParams(max_tokens=8)) == wanted
        assert model.training
        loss = model.logits(model(torch.tensor([[1, 2, 3]]))).sum()  # gradients still work afterwards
        loss.backward()
    finally:
        model.eval()
        model.zero_grad()


def test_changed_weights_count_from_the_next_call() -> None:
    model = sharp_model(5)
    engine = Engine(model)
    sampling = SamplingParams(max_tokens=10, temperature=0)
    before = engine.generate([[1, 2, 3]], sampling)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.5)
    assert engine.generate([[1, 2, 3]], sampling) != before
    assert list(engine.generate([[1, 2, 3]], sampling)[0][0].token_ids) == naive_greedy(model, [1, 2, 3], 10)


def test_streamed_ids_are_those_of_generate(model: GPT) -> None:
    sampling = SamplingParams(max_tokens=12, seed=3, stop_token_ids=(4,))
    engine = Engine(model)
    assert tuple(engine.stream([5, 6], sampling)) == engine.generate([[5, 6]], sampling)[0][0].token_ids


def test_closing_a_stream_stops_the_work(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = GPT.forward

    def counting(self: GPT, ids: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        calls.append(ids.numel())
        return forward(self, ids, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("wuya.inference.batch.native_decode", lambda model: None)
    monkeypatch.setattr(GPT, "forward", counting)
    engine = Engine(model)
    stream = engine.stream([1, 2, 3], SamplingParams(max_tokens=50))
    for _ in range(4):
        next(stream)
    stream.close()
    assert calls == [3, 1, 1, 1]


def test_the_cache_keeps_to_its_budget_and_the_completions_do_not_notice(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = GPT.forward

    def counting(self: GPT, ids: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        rows.append(ids.shape[0])
        return forward(self, ids, **kwargs)  # type: ignore[arg-type]

    sampling = SamplingParams(max_tokens=10, seed=1)
    wanted = Engine(model).generate([[1, 2], [3]], sampling, num_samples=6)
    monkeypatch.setattr("wuya.inference.batch.native_decode", lambda model: None)
    monkeypatch.setattr(GPT, "forward", counting)
    token_bytes = 2 * 2 * 2 * 8 * 4  # keys and values, layers, key heads, channels, float32
    small = Engine(model, max_cache_bytes=5 * 12 * token_bytes)
    assert cache_bytes_per_token(small.model) == token_bytes
    again = small.generate([[1, 2], [3]], sampling, num_samples=6)
    assert [g.token_ids for g in flat(again)] == [g.token_ids for g in flat(wanted)]
    assert max(rows) == 5


def test_two_streams_at_once_do_not_disturb_each_other(model: GPT) -> None:
    engine = Engine(model)
    sampling = SamplingParams(max_tokens=10, temperature=0)
    first, second = engine.stream([1, 2], sampling), engine.stream([3, 4, 5], sampling)
    mixed = list(zip(first, second, strict=True))
    assert [a for a, _ in mixed] == naive_greedy(model, [1, 2], 10)
    assert [b for _, b in mixed] == naive_greedy(model, [3, 4, 5], 10)


def test_the_next_turn_of_a_chat_reads_only_what_is_new(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = GPT.forward

    def counting(self: GPT, ids: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        read.append(ids.numel())
        return forward(self, ids, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("wuya.inference.batch.native_decode", lambda model: None)
    monkeypatch.setattr(GPT, "forward", counting)
    engine, sampling = Engine(model), SamplingParams(max_tokens=6, temperature=0)
    first = [1, 2, 3]
    answer = list(engine.stream(first, sampling, reuse_prefix=True))
    second = [*first, *answer, 7, 8]
    read.clear()
    again = list(engine.stream(second, sampling, reuse_prefix=True))
    assert read[0] == 3  # the last token of the answer was sampled, never read; and 7, 8
    assert again == naive_greedy(model, second, 6)
    regenerated = list(engine.stream(first, sampling, reuse_prefix=True))  # back to an earlier turn
    assert regenerated == answer
    edited = list(engine.stream([1, 9, 3], sampling, reuse_prefix=True))
    assert edited == naive_greedy(model, [1, 9, 3], 6)


def test_long_prompts_are_read_in_chunks_and_can_be_cancelled_between_them(model: GPT) -> None:
    prompt = random_prompts(1, longest=1)[0] * 40
    sampling = SamplingParams(max_tokens=8, temperature=0)
    engine = Engine(model, prefill_tokens=16)
    assert list(engine.generate([prompt], sampling)[0][0].token_ids) == naive_greedy(model, prompt, 8)
    steps: list[int] = []

    def cancel(tokens: int, finished: int) -> bool:
        steps.append(tokens)
        return False

    [[generation]] = engine.generate([prompt], sampling, on_progress=cancel)
    assert steps == [0]
    assert generation == Generation((), (), "cancelled")


def test_the_tokenizers_end_token_stops_when_nothing_else_is_said(model: GPT) -> None:
    class Tokenizer:
        turn_end = TurnEnd(1, (1,))
        vocab_size = 10_000

    groups = Engine(model, Tokenizer()).generate([[2]], SamplingParams(max_tokens=40), num_samples=30)
    for generation in flat(groups):
        assert (generation.token_ids[-1] == 1) == (generation.finish_reason == "stop")
        assert 1 not in generation.token_ids[:-1]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"top_k": 600}, {"top_p": 0.95}])
def test_rows_beyond_the_vocabulary_are_never_sampled(model: GPT, sampling: dict[str, Any]) -> None:
    """Log-probs stay those of all rows, as training computes them."""

    class Tokenizer:
        turn_end = TurnEnd(1, (1,))
        vocab_size = 20

    assert model.config.vocab_size > 20
    engine = Engine(model, Tokenizer(), seed=3)
    prompt = [2, 3]
    for generation in flat(engine.generate([prompt], SamplingParams(max_tokens=12, **sampling), num_samples=12)):
        assert max(generation.token_ids) < 20
        ids = torch.tensor([[*prompt, *generation.token_ids]])
        with torch.no_grad():
            logprobs = model.logits(model(ids[:, :-1])).float().log_softmax(-1)[0, len(prompt) - 1 :]
        expected = logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0]
        assert torch.allclose(torch.tensor(generation.logprobs), expected, atol=1e-4)
