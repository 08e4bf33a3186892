"""Who may say that a round's policy became better, and what it takes."""

import pytest

from wuya.evals.round_gate import gate_round

GOOD = {"win_rate": {"mean": 0.6, "low": 0.55, "high": 0.65}}
SURE = {"mean": 0.7, "low": 0.65, "high": 0.75}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.51, 0.6, "held"), (0.5, 0.5, "not shown"), (0.49, 0.6, "not shown"), (0.4, 0.49, "failed")],
)
def test_only_an_interval_above_the_bound_opens_the_gate(low: float, high: float, verdict: str) -> None:
    rate = {"mean": (low + high) / 2, "low": low, "high": high}
    gate = gate_round({"win_rate": rate}, bound=0.5, judged_by="labelers")
    assert gate.verdict == verdict and gate.opens == (verdict == "held")


def test_the_reward_model_that_was_optimised_gates_nothing() -> None:
    gate = gate_round(GOOD, bound=0.5, judged_by="nobody")
    assert gate.verdict == "not gated" and "trained against" in gate.reason


def test_a_judge_that_guesses_shows_nothing_whatever_it_votes() -> None:
    guess = {"mean": 0.52, "low": 0.47, "high": 0.57}
    gate = gate_round(GOOD, bound=0.5, judged_by="held-out rankings", judge_accuracy=guess)
    assert gate.verdict == "not shown" and "chance" in gate.reason and not gate.opens
    assert gate_round(GOOD, bound=0.5, judged_by="held-out rankings", judge_accuracy=SURE).verdict == "held"
    assert gate_round(GOOD, bound=0.5, judged_by="held-out rankings").verdict == "not shown"


def test_without_evaluation_prompts_nothing_is_claimed() -> None:
    gate = gate_round({}, bound=0.5, judged_by="labelers")
    assert gate.verdict == "not gated" and gate.opens
