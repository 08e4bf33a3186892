"""Golden values and the ends of every schedule."""

import pytest

from wuya.training.schedule import constant_with_warmup, trapezoid, warmup_cosine, warmup_linear


def test_trapezoid_has_nanochats_values() -> None:
    values = [trapezoid(step, 1000, 40, 650, 0.05) for step in (0, 39, 350, 675, 1000)]
    assert values == pytest.approx([0.025, 1, 1, 0.525, 0.05])


def test_gpt1_fine_tuning_rule_has_its_published_values() -> None:
    values = [warmup_linear(progress) for progress in (0, 0.001, 0.002, 0.5, 1)]
    assert values == pytest.approx([0, 0.4995, 0.998, 0.5, 0])


def test_cosine_without_warmup_goes_from_one_to_a_tenth() -> None:
    values = [warmup_cosine(step, 100, 0, 0.1) for step in (0, 50, 100, 200)]
    assert values == pytest.approx([1, 0.55, 0.1, 0.1])


def test_cosine_rises_linearly_over_the_warmup() -> None:
    assert [warmup_cosine(step, 100, 4, 0.0) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_ppo_starts_at_a_tenth_and_stays_at_the_peak() -> None:
    values = [constant_with_warmup(step, 10) for step in (0, 5, 10, 500)]
    assert values == pytest.approx([0.1, 0.55, 1, 1])


def test_no_warmup_and_no_warmdown_is_a_constant() -> None:
    assert {trapezoid(step, 10, 0, 0, 0.0) for step in range(10)} == {1.0}
    assert {constant_with_warmup(step, 0) for step in range(10)} == {1.0}
