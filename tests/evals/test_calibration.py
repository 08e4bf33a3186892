"""Claims about how a reward model's probabilities are judged."""

import math
import random

import pytest

from wuya.evals.calibration import PairVote, calibrate, correlation


def votes_of_a_calibrated_model(count: int, *, sharpen: float = 1.0) -> list[PairVote]:
    """Outcomes drawn from sigmoid(margin); the model reports margin x sharpen."""
    rng = random.Random(0)
    votes = []
    for number in range(count):
        margin = rng.gauss(0, 1.5)
        first_wins = rng.random() < 1 / (1 + math.exp(-margin))
        shown = sharpen * margin
        votes.append(PairVote(f"p{number // 5}", shown if first_wins else -shown, 0.0))
    return votes


def test_a_calibrated_model_has_a_small_ece_and_an_overconfident_one_a_large() -> None:
    good = calibrate(votes_of_a_calibrated_model(4000))
    bold = calibrate(votes_of_a_calibrated_model(4000, sharpen=4.0))
    assert good.ece < 0.03 < 0.1 < bold.ece
    assert good.accuracy.mean == bold.accuracy.mean and good.brier < bold.brier and good.nats < bold.nats
    assert sum(bin.n for bin in bold.bins) == 4000


def test_equal_scores_are_half_right_and_cost_ln_2() -> None:
    result = calibrate([PairVote("p", 1.0, 1.0)] * 4)
    assert result.accuracy.mean == 0.5 and result.brier == 0.25 and result.nats == pytest.approx(math.log(2))
    assert result.ece == 0.0


def test_the_interval_counts_prompts_not_votes() -> None:
    """Ten votes that say the same thing about a prompt are one observation."""
    rng = random.Random(1)
    single = [PairVote(f"p{i}", float(rng.random() < 0.7), 0.5) for i in range(100)]
    tenfold = [vote for vote in single for _ in range(10)]
    narrow, wide = calibrate(single).accuracy, calibrate(tenfold).accuracy
    assert wide.n == 100
    assert wide.high - wide.low == pytest.approx(narrow.high - narrow.low, rel=0.2)


def test_no_votes_is_an_error() -> None:
    with pytest.raises(ValueError, match="no votes"):
        calibrate([])


def test_correlation_of_a_constant_is_zero() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0.0
