"""The rule by which a checkpoint ships: the best score within the KL limit, the first of equals."""

from typing import Any

import pytest

from wuya.training.early_choice import Choice


def chosen(choice: Choice, *evaluations: tuple[float, float]) -> int:
    """Step of the choice among (score, KL) of steps 1, 2, ..."""
    for step, (score, kl) in enumerate(evaluations, start=1):
        choice.consider(step, {"eval/score": score, "eval/kl": kl})
    return int(choice.best["step"])


@pytest.mark.parametrize(
    ("max_kl", "evaluations", "step"),
    [
        (0.0, [(1, 1), (3, 50), (2, 2)], 2),
        (5.0, [(1, 1), (3, 50), (2, 2)], 3),
        (0.0, [(2, 1), (2, 0.5)], 1),  # ties go to the earlier
        (0.5, [(9, 4), (1, 2), (5, 3)], 2),  # none within the limit: the nearest
        (0.5, [(9, 4), (1, 0.4), (0, 0.1)], 2),  # the limit comes before the score
    ],
)
def test_the_rule(max_kl: float, evaluations: list[tuple[float, float]], step: int) -> None:
    assert chosen(Choice(max_kl=max_kl), *evaluations) == step


def test_the_other_judge_decides_where_there_is_one() -> None:
    choice = Choice()
    choice.consider(1, {"eval/score": 1.0, "eval/judged": 2.0, "eval/kl": 1.0})
    assert not choice.consider(2, {"eval/score": 9.0, "eval/judged": 1.0, "eval/kl": 1.0})
    assert "evaluation reward" in choice.rule()


def test_the_starting_policy_is_compared_with_but_never_chosen() -> None:
    choice = Choice(max_kl=1.0)
    assert not choice.consider(0, {"eval/score": 5.0, "eval/kl": 0.0}) and not choice.best
    assert choice.consider(10, {"eval/score": 4.0, "eval/kl": 3.0})
    low_kl, before = choice.warnings()
    assert "within 1 nats" in low_kl and "before training" in before
    assert "step 10 ships" in choice.verdict() and "+5.000" in choice.verdict()


def test_it_round_trips() -> None:
    choice, twin = Choice(), Choice()
    state: dict[str, Any] = {}
    for step, score in enumerate((0.0, 2.0, 1.0)):
        choice.consider(step, {"eval/score": score, "eval/kl": 1.0})
    state = choice.state_dict()
    twin.load_state_dict(state)
    assert twin.best == choice.best and twin.start == choice.start
    choice.consider(3, {"eval/score": 7.0, "eval/kl": 1.0})
    assert twin.best["step"] == 1 and state["best"]["step"] == 1
