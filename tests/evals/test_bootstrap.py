import numpy as np
import pytest

from wuya.evals.bootstrap import mean_interval, ratio_interval


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
