"""The trend over rounds: a rise, a fall and no change are told apart, and prompts are the unit."""

import numpy as np
import pytest

from wuya.evals.rounds import rounds_trend


def votes(rates: list[list[float]], prompts: int = 800) -> np.ndarray:
    rng = np.random.default_rng(0)
    liking_P = rng.normal(0, 0.1, size=prompts)  # some prompts favour every round
    return np.array([[rng.random(prompts) < rate + liking_P for rate in seed] for seed in rates], dtype=float)


def test_a_rise_has_a_slope_above_zero_and_no_fall() -> None:
    trend = rounds_trend(votes([[0.55, 0.62, 0.70], [0.54, 0.63, 0.69]]))
    assert trend.rises and not trend.falls
    assert trend.slope.low < 0.075 < trend.slope.high
    assert [rate.mean for rate in trend.rates] == pytest.approx([0.545, 0.625, 0.695], abs=0.03)


def test_no_change_is_not_called_a_rise() -> None:
    assert not rounds_trend(votes([[0.6, 0.6, 0.6]])).rises


def test_a_fall_after_a_rise_is_named() -> None:
    assert rounds_trend(votes([[0.55, 0.75, 0.60]])).falls == (3,)


def test_the_slope_is_least_squares_and_seeds_are_pooled() -> None:
    given = votes([[0.5, 0.6, 0.8], [0.6, 0.6, 0.6]])
    trend = rounds_trend(given)
    expected = [np.polyfit([1, 2, 3], seed.mean(axis=1), 1)[0] for seed in given]
    assert [slope.mean for slope in trend.slope_by_seed] == pytest.approx(expected)
    assert trend.slope.mean == pytest.approx(np.mean(expected))


def test_two_seeds_with_the_same_votes_are_not_twice_the_evidence() -> None:
    once, twice = votes([[0.5, 0.6]]), np.repeat(votes([[0.5, 0.6]]), 2, axis=0)
    assert rounds_trend(twice).slope == rounds_trend(once).slope


@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 5), (1, 2, 0)])
def test_a_single_round_or_no_prompt_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="need votes"):
        rounds_trend(np.zeros(shape))
