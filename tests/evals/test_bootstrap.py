import numpy as np
import pytest

from wuya.evals.bootstrap import (
    difference_interval,
    jackknife_interval,
    mean_interval,
    order_interval,
    ratio_interval,
    share_interval,
    sums_interval,
)


def test_interval_covers_the_true_mean_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        interval = mean_interval(rng.normal(3.0, 2.0, size=100), seed=seed)
        covered += interval.low <= 3.0 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_interval_of_a_constant_has_no_width() -> None:
    interval = mean_interval([0.5] * 20)
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.5, 0.5, 0.5, 20)


def test_ratio_weights_units_by_their_denominator() -> None:
    assert ratio_interval([1, 9], [1, 3]).mean == pytest.approx(2.5)  # not the mean of the ratios, 2


def test_nothing_to_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        mean_interval([])


def test_pairing_takes_out_what_the_prompts_share() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(0.0, 5.0, size=300)
    ours, theirs = prompts + rng.normal(0.2, 0.1, size=300), prompts + rng.normal(0.0, 0.1, size=300)
    paired = difference_interval(ours, theirs)
    assert 0.15 < paired.low < paired.high < 0.25
    assert mean_interval(ours).high - mean_interval(ours).low > 10 * (paired.high - paired.low)


def test_a_figure_of_two_sums_is_resampled_together() -> None:
    top = np.arange(1.0, 101.0)
    exact = sums_interval([top, 2 * top], lambda sums_SC: sums_SC[:, 0] / sums_SC[:, 1])
    assert (exact.mean, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_of_a_median_covers_it() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        sample = rng.exponential(1.0, size=80)
        interval = order_interval(lambda rows, sample=sample: float(np.median(sample[rows])), 80, seed=seed)
        covered += interval.low <= np.log(2) <= interval.high
    assert covered >= 52


def test_the_jackknife_covers_a_share_of_distinct_items_that_the_bootstrap_cannot_estimate() -> None:
    """Words drawn from 2,000: their distinct share in 200 texts. A bootstrap repeats texts and finds far fewer."""

    def texts(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(2_000, size=(200, 5))

    def distinct(rows: np.ndarray, words: np.ndarray) -> float:
        return len(np.unique(words[rows])) / words[rows].size

    everything = np.arange(200)
    true = np.mean([distinct(everything, texts(seed)) for seed in range(200)])
    covered = 0
    for seed in range(1000, 1060):
        words = texts(seed)
        interval = jackknife_interval(lambda rows, words=words: distinct(rows, words), 200, seed=seed)
        covered += interval.low <= true <= interval.high
    assert covered >= 52
    words = texts(1)
    drawn = np.random.default_rng(0).integers(200, size=200)
    assert distinct(drawn, words) < true - 0.1


def test_a_share_of_nothing_seen_still_has_an_upper_bound() -> None:
    """Golden values of Wilson's interval (Brown, Cai and DasGupta 2001 give the formula)."""
    none, two = share_interval(0, 600), share_interval(2, 600)
    assert (none.low, none.high) == pytest.approx((0.0, 0.00636), abs=1e-4)
    assert (two.low, two.high) == pytest.approx((0.00091, 0.01207), abs=1e-4)
