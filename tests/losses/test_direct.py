"""Claims about DPO, IPO, RLOO and GRPO (golden values: spec appendix A)."""

import math

import pytest
import torch

from wuya.losses.direct import dpo_loss, grpo_advantages, ipo_loss, log_ratio_margin, rloo_advantages

SCORES_PG = torch.tensor([[1.0, 0, 0, 1, 0]])


def test_golden_dpo_and_ipo() -> None:
    assert math.isclose(float(dpo_loss(torch.tensor(2.0), beta=0.1)), 0.598139, abs_tol=1e-6)
    assert math.isclose(float(ipo_loss(torch.tensor(2.0), beta=0.1)), 9.0, rel_tol=1e-6)


def test_dpo_starts_at_ln_2_where_policy_is_reference() -> None:
    chosen, rejected = torch.randn(3), torch.randn(3)
    margin_B = log_ratio_margin(chosen, rejected, chosen, rejected)
    torch.testing.assert_close(dpo_loss(margin_B, beta=0.1), torch.full((3,), math.log(2)))


def test_golden_rloo_is_score_minus_mean_of_the_others() -> None:
    torch.testing.assert_close(rloo_advantages(SCORES_PG), torch.tensor([[0.75, -0.5, -0.5, 0.75, -0.5]]))


@pytest.mark.parametrize(("unbiased", "one", "zero"), [(False, 1.22474, -0.81650), (True, 1.09545, -0.73030)])
def test_golden_grpo(unbiased: bool, one: float, zero: float) -> None:
    advantages = grpo_advantages(SCORES_PG, unbiased_std=unbiased)
    torch.testing.assert_close(advantages, torch.where(SCORES_PG > 0, one, zero), atol=1e-5, rtol=0)


def test_a_group_of_equal_scores_has_advantage_exactly_zero() -> None:
    assert (grpo_advantages(torch.full((2, 7), 0.1)) == 0).all()


def test_dr_grpo_does_not_divide() -> None:
    torch.testing.assert_close(grpo_advantages(SCORES_PG, divide_by_std=False), SCORES_PG - 0.4)
