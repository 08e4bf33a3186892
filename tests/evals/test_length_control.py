"""The win rate at equal length: the raw one where lengths are equal, free of a bias for length elsewhere."""

import numpy as np
import pytest
import torch

from wuya.evals.length_control import RIDGE, length_controlled_rate


def test_answers_of_equal_length_keep_their_raw_win_rate() -> None:
    votes = [1.0, 0.0, 1.0, 0.5, 1.0]
    rate = length_controlled_rate(votes, [7] * 5, [7] * 5)
    assert rate.mean == pytest.approx(0.7) and rate.low < 0.7 < rate.high and rate.n == 5


def test_a_judge_of_length_alone_prefers_nobody_at_equal_length() -> None:
    rng = np.random.default_rng(0)
    lengths, others = rng.integers(80, 240, 600), rng.integers(20, 220, 600)
    chance = 1 / (1 + np.exp(-(lengths - others) / 30))
    votes = (rng.random(600) < chance).astype(float)
    rate = length_controlled_rate(votes, lengths, others)
    assert votes.mean() > 0.65 and abs(rate.mean - 0.5) < 0.05 and rate.low - 0.01 < 0.5 < rate.high


def test_a_better_model_stays_better_and_its_mirror_image_loses_as_much() -> None:
    rng = np.random.default_rng(1)
    lengths, others = rng.normal(120, 30, 600), rng.normal(100, 30, 600)
    chance = 1 / (1 + np.exp(-(1.0 + 0.01 * (lengths - others))))
    votes = (rng.random(600) < chance).astype(float)
    rate, mirror = length_controlled_rate(votes, lengths, others), length_controlled_rate(1 - votes, others, lengths)
    assert rate.low < 1 / (1 + np.exp(-1.0)) < rate.high and rate.mean < votes.mean()
    assert rate.mean + mirror.mean == pytest.approx(1.0)


def test_the_fit_is_the_minimum_that_a_general_optimiser_finds() -> None:
    rng = np.random.default_rng(2)
    lengths, others, votes = rng.normal(90, 40, 200), rng.normal(70, 40, 200), rng.choice([0.0, 0.5, 1.0], 200)
    difference = torch.tensor(lengths - others)
    longer, wanted = torch.tanh(difference / difference.std(correction=0)), torch.tensor(votes)
    fit = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([fit], max_iter=200, tolerance_grad=1e-12)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = fit[0] + fit[1] * longer
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted) + RIDGE * fit[1] ** 2
        value.backward()
        return value

    optimizer.step(loss)
    assert length_controlled_rate(votes, lengths, others).mean == pytest.approx(fit[0].sigmoid().item(), abs=1e-5)


def test_votes_that_are_all_for_one_side_stay_finite() -> None:
    rate = length_controlled_rate([1.0] * 40, list(range(40)), [5] * 40)
    assert 0.97 < rate.mean <= 1.0 and rate.low <= rate.mean <= rate.high
    with pytest.raises(ValueError):
        length_controlled_rate([], [], [])
