"""sampling.py: truncation against obvious loops, distributions, edge cases."""

import pytest
import torch
from scipy import stats

from wuya.errors import ConfigError
from wuya.inference import sampling
from wuya.inference.sampling import SamplingParams, draw_seeds, sample, sample_rows, uniforms


def allowed(logits: torch.Tensor, *, top_k: int, top_p: float, min_p: float, temperature: float) -> set[int]:
    """Oracle: which tokens may come, in plain Python."""
    probs = (logits.double() / temperature).softmax(-1).tolist()
    order = sorted(range(len(probs)), key=lambda token: -probs[token])
    if top_k:
        order = order[:top_k]
    kept, total, mass = [], sum(probs[token] for token in order), 0.0
    for token in order:
        if mass >= top_p * total and top_p < 1:
            break
        kept.append(token)
        mass += probs[token]
    return {token for token in kept if probs[token] >= min_p * max(probs)}


@pytest.mark.parametrize("top_k", [0, 1, 5])
@pytest.mark.parametrize("top_p", [1.0, 0.6, 0.05])
@pytest.mark.parametrize("min_p", [0.0, 0.2])
def test_truncation_keeps_exactly_the_tokens_of_the_plain_loop(top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(top_k)) * 2
    params = SamplingParams(temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p)
    tokens, _ = sample(logits.expand(20_000, -1), params, torch.Generator().manual_seed(1))
    wanted = allowed(logits, top_k=top_k, top_p=top_p, min_p=min_p, temperature=0.8)
    probs = (logits / 0.8).softmax(-1)
    likely = {token for token in wanted if probs[token] / probs[list(wanted)].sum() > 1e-3}
    assert likely <= set(tokens.tolist()) <= wanted


def test_samples_follow_the_softmax() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 1.5
    tokens, _ = sample(logits.expand(100_000, -1), SamplingParams(temperature=0.7), torch.Generator().manual_seed(2))
    expected = (logits.double() / 0.7).softmax(-1) * 100_000
    assert stats.chisquare(torch.bincount(tokens, minlength=50).double(), expected).pvalue > 1e-3


def test_samples_after_top_p_follow_the_renormalised_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    tokens, _ = sample(logits.expand(50_000, -1), SamplingParams(top_p=0.8), torch.Generator().manual_seed(3))
    probs = logits.double().softmax(-1)[:3]  # .563 + .207 < .8 <= .563 + .207 + .126
    counts = torch.bincount(tokens, minlength=5)
    assert counts[3:].sum() == 0
    assert stats.chisquare(counts[:3].double(), probs / probs.sum() * 50_000).pvalue > 1e-3


@pytest.mark.parametrize("params", [SamplingParams(temperature=0.7), SamplingParams(temperature=0.7, top_k=3)])
def test_logprobs_are_of_the_full_distribution_at_the_temperature(params: SamplingParams) -> None:
    logits = torch.randn(64, 300, generator=torch.Generator().manual_seed(4)) * 3
    tokens, logprobs = sample(logits, params, torch.Generator().manual_seed(5))
    expected = (logits / 0.7).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert torch.allclose(logprobs, expected, atol=2e-6)


def test_temperature_zero_is_the_likeliest_token() -> None:
    logits = torch.randn(10, 40, generator=torch.Generator().manual_seed(6))
    tokens, logprobs = sample(logits, SamplingParams(temperature=0), torch.Generator())
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.allclose(logprobs, logits.log_softmax(-1).max(-1).values, atol=1e-6)


def test_rows_may_want_different_things() -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(7)).expand(4000, -1)
    temperature = torch.tensor([0.0, 1.0, 1.0, 0.5]).repeat(1000)
    top_k = torch.tensor([0, 2, 0, 0]).repeat(1000)
    tokens, _ = sample_rows(logits, torch.rand(4000), temperature_B=temperature, top_k_B=top_k)
    best = logits[0].topk(2).indices.tolist()
    assert set(tokens[0::4].tolist()) == {best[0]}
    assert set(tokens[1::4].tolist()) == set(best)
    assert len(set(tokens[2::4].tolist())) > 10


def test_a_token_of_probability_zero_never_comes_at_the_edges_of_the_uniform() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, -torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 1 - 2.0**-24, 1.0):
        token, _ = sample_rows(logits, torch.tensor([uniform]))
        assert int(token) in (1, 3)


def test_huge_logits_and_tiny_temperatures_stay_finite() -> None:
    logits = torch.tensor([[3e4, -3e4, 2e4], [-1e30, -1e30, -1e30]])
    tokens, logprobs = sample(logits, SamplingParams(temperature=1e-3), torch.Generator())
    assert int(tokens[0]) == 0
    assert torch.isfinite(logprobs).all()


def test_uniforms_are_uniform_and_independent_between_counts_and_seeds() -> None:
    seeds = draw_seeds(2000, torch.Generator().manual_seed(0))
    table = torch.stack([uniforms(seeds, torch.full_like(seeds, count)) for count in range(50)])
    assert stats.kstest(table.flatten().double(), "uniform").pvalue > 1e-3
    assert abs(torch.corrcoef(table)[0, 1:]).max() < 0.1
    assert (
        stats.kstest(uniforms(torch.arange(5000), torch.zeros(5000, dtype=torch.int64)).double(), "uniform").pvalue
        > 1e-3
    )
    assert float(table.max()) < 1.0


@pytest.mark.parametrize("bad", [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")},
                                 {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": 2.0}])  # fmt: skip
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SamplingParams(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_few_candidates_give_the_tokens_of_a_full_sort(sharpness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    rows, words = 400, 300
    logits = (torch.randn(rows, words, generator=generator) * sharpness * 4).round() / 4  # with ties
    uniform = torch.rand(rows, generator=generator)
    top_k = torch.randint(0, 60, (rows,), generator=generator) * (torch.rand(rows, generator=generator) < 0.5)
    top_p = torch.where(torch.rand(rows, generator=generator) < 0.5, torch.rand(rows, generator=generator) + 1e-3, 1.0)
    min_p = torch.where(torch.rand(rows, generator=generator) < 0.3, 0.1, 0.0)
    temperature = torch.where(torch.rand(rows, generator=generator) < 0.1, 0.0, 1.0)
    results = []
    for candidates in (words, 40):
        monkeypatch.setattr(sampling, "CANDIDATES", candidates)
        for columns in ((top_k, top_p, min_p), (None, top_p, None), (top_k, None, None), (None, None, min_p)):
            k, p, m = columns
            results.append(sample_rows(logits, uniform, temperature_B=temperature, top_k_B=k, top_p_B=p, min_p_B=m)[0])
    for full, short in zip(results[:4], results[4:], strict=True):
        assert torch.equal(full, short)
