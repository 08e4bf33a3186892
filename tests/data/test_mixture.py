import numpy as np
import pytest

from wuya.data.mixture import document_order, interleaved, natural_shares, weighted_shares
from wuya.errors import ConfigError

GPT3_TOKENS = {"common_crawl": 410_000, "webtext2": 19_000, "books1": 12_000, "books2": 55_000, "wikipedia": 3_000}
GPT3_WEIGHTS = {"common_crawl": 60, "webtext2": 22, "books1": 8, "books2": 8, "wikipedia": 3}


def test_gpt3_shares_and_epochs() -> None:
    """Table 2.2, tokens in millions. Printed values are rounded: the epochs that follow agree within 20 %."""
    shares = weighted_shares(GPT3_TOKENS, GPT3_WEIGHTS, total_tokens=300_000)
    epochs = {share.name: share.epochs for share in shares}
    printed = {"common_crawl": 0.44, "webtext2": 2.9, "books1": 1.9, "books2": 0.43, "wikipedia": 3.4}
    assert epochs == pytest.approx(printed, rel=0.2)
    assert epochs["common_crawl"] == pytest.approx(0.6 / 1.01 * 300 / 410, rel=1e-4)
    assert sum(share.share for share in shares) == pytest.approx(1)


def test_natural_shares_see_everything_once() -> None:
    shares = natural_shares({"a": 300, "b": 100})
    assert [(share.share, share.epochs) for share in shares] == [(0.75, 1.0), (0.25, 1.0)]


def test_a_limit_on_epochs_hands_the_rest_to_the_others() -> None:
    shares = weighted_shares(
        {"big": 1000, "small": 10, "mid": 1000},
        {"big": 1, "small": 1, "mid": 1},
        total_tokens=900,
        max_epochs={"small": 4.0},
    )
    assert [share.tokens for share in shares] == [430, 40, 430]
    with_all_limited = weighted_shares(
        {"a": 10, "b": 10}, {"a": 1, "b": 1}, total_tokens=100, max_epochs={"a": 2, "b": 1}
    )
    assert [share.tokens for share in with_all_limited] == [20, 10]


def test_weights_without_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="positive weight"):
        weighted_shares({"a": 10, "b": 0}, {"a": 0, "b": 1}, total_tokens=5)


def test_empirical_shares_over_1e5_draws_are_within_half_a_percent() -> None:
    """Spec section 3, Verify (b)."""
    total = sum(GPT3_WEIGHTS.values())
    counts = [weight * 10_000 for weight in GPT3_WEIGHTS.values()]
    order_N = interleaved(counts, seed=0)
    for start in (0, 500_000):
        drawn = np.bincount(order_N[start : start + 100_000], minlength=5) / 100_000
        assert np.abs(drawn - np.array(list(GPT3_WEIGHTS.values())) / total).max() < 0.005
    assert np.bincount(order_N).tolist() == counts


def test_nothing_repeats_within_an_epoch_and_targets_are_met() -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.integers(50, 150, 40), rng.integers(50, 150, 300)]
    targets = [int(2.5 * tokens[0].sum()), int(0.5 * tokens[1].sum())]
    sources_N, documents_N = document_order(tokens, targets, seed=1)
    first = documents_N[sources_N == 0]
    assert sorted(first[:40].tolist()) == sorted(first[40:80].tolist()) == list(range(40))
    assert first[:40].tolist() != first[40:80].tolist()
    assert len(set(first[80:].tolist())) == len(first[80:])
    second = documents_N[sources_N == 1]
    assert len(set(second.tolist())) == len(second)
    for source, target in enumerate(targets):
        drawn = int(tokens[source][documents_N[sources_N == source]].sum())
        assert target <= drawn < target + 150


def test_the_order_depends_on_the_seed_only() -> None:
    tokens = [np.full(50, 10), np.full(70, 10)]
    one, two = document_order(tokens, [500, 700], seed=1), document_order(tokens, [500, 700], seed=1)
    other = document_order(tokens, [500, 700], seed=2)
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert not np.array_equal(one[1], other[1])
