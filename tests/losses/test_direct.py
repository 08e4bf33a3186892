"""Claims about DPO, IPO, KTO, ORPO and SimPO (golden values: spec appendix A; the rest by hand)."""

import math

import pytest
import torch

from wuya.losses.direct import (
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    log_odds,
    log_ratio_margin,
    odds_ratio_loss,
    robust_dpo_loss,
    simpo_loss,
)
from wuya.losses.preference import ranking_loss


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_golden_dpo_and_ipo() -> None:
    assert math.isclose(float(dpo_loss(torch.tensor(2.0), beta=0.1)), 0.598139, abs_tol=1e-6)
    assert math.isclose(float(ipo_loss(torch.tensor(2.0), beta=0.1)), 9.0, rel_tol=1e-6)


def test_dpo_starts_at_ln_2_where_policy_is_reference() -> None:
    chosen, rejected = torch.randn(3), torch.randn(3)
    margin_B = log_ratio_margin(chosen, rejected, chosen, rejected)
    torch.testing.assert_close(dpo_loss(margin_B, beta=0.1), torch.full((3,), math.log(2)))


def test_dpo_and_ipo_gradients_push_the_chosen_up_and_the_rejected_down() -> None:
    """d/dh: -beta * sigmoid(-beta h) for DPO (below Eq. 7), 2 (h - 1/(2 beta)) for IPO."""
    margin_B = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    dpo_loss(margin_B, beta=0.2).sum().backward()
    torch.testing.assert_close(margin_B.grad, -0.2 * torch.sigmoid(-0.2 * margin_B.detach()))
    assert torch.autograd.gradcheck(lambda h: ipo_loss(h, beta=0.2), (margin_B,))
    assert float(ipo_loss(torch.tensor(2.5), beta=0.2)) == 0  # IPO stops at its target margin, DPO never does


def test_dpo_of_a_ranking_is_the_mean_over_its_pairs() -> None:
    scores_PK, ranks_PK = torch.randn(1, 4, dtype=torch.float64), torch.tensor([[2, 1, 2, 3]])
    loss, _ = ranking_loss(scores_PK, ranks_PK, pair_loss=lambda h: dpo_loss(h, beta=0.1))
    pairs = [(1, 0), (1, 2), (1, 3), (0, 3), (2, 3)]
    single = [dpo_loss(scores_PK[0, a] - scores_PK[0, b], beta=0.1) for a, b in pairs]
    torch.testing.assert_close(loss, torch.stack(single).mean())


MARGINS = [-30.0, -2.0, 0.0, 0.7, 2.0, 30.0]


@pytest.mark.parametrize("margin", MARGINS)
def test_smoothed_and_robust_dpo_are_their_definitions(margin: float) -> None:
    """As TRL writes them: e mixes in -log sigmoid(-beta h); the robust loss takes it off and divides by 1 - 2e."""
    beta, e = 0.3, 0.1
    right, swapped = -math.log(sigmoid(beta * margin)), -math.log(sigmoid(-beta * margin))
    h = torch.tensor(margin, dtype=torch.float64)
    assert float(dpo_loss(h, beta=beta, label_smoothing=e)) == pytest.approx((1 - e) * right + e * swapped)
    assert float(robust_dpo_loss(h, beta=beta, label_smoothing=e)) == pytest.approx(
        ((1 - e) * right - e * swapped) / (1 - 2 * e)
    )
    assert float(robust_dpo_loss(h, beta=beta, label_smoothing=0.0)) == pytest.approx(right)


def test_robust_dpo_is_unbiased_under_swapped_labels_and_conservative_dpo_is_not() -> None:
    h, e = torch.tensor(1.3, dtype=torch.float64), 0.2
    noisy = [
        float((1 - e) * loss(h, beta=0.5, label_smoothing=e) + e * loss(-h, beta=0.5, label_smoothing=e))
        for loss in (robust_dpo_loss, dpo_loss)
    ]
    clean = float(dpo_loss(h, beta=0.5))
    assert noisy[0] == pytest.approx(clean) and abs(noisy[1] - clean) > 0.05


def test_conservative_dpo_stops_where_the_label_is_wrong_as_often_as_assumed() -> None:
    stop = torch.tensor(math.log(0.9 / 0.1) / 0.5, dtype=torch.float64, requires_grad=True)
    dpo_loss(stop, beta=0.5, label_smoothing=0.1).backward()
    assert stop.grad is not None and abs(float(stop.grad)) < 1e-12


def test_kto_by_hand() -> None:
    """beta .5, z_0 = 1: a liked completion with h = 3 loses 1 - s(1), a disliked one 1 - s(-1)."""
    loss_B = kto_loss(
        torch.tensor([3.0, 3.0, -1.0]), torch.tensor([True, False, False]), torch.tensor(1.0), beta=0.5,
        desirable_weight=1.5, undesirable_weight=2.0,
    )  # fmt: skip
    wanted = [1.5 * (1 - sigmoid(1.0)), 2.0 * (1 - sigmoid(-1.0)), 2.0 * (1 - sigmoid(1.0))]
    assert loss_B.tolist() == pytest.approx(wanted)


def test_kto_starts_at_half_a_weight_and_its_gradient_vanishes_far_from_the_reference_point() -> None:
    h_B = torch.tensor([0.0, 0.0, 60.0, -60.0], dtype=torch.float64, requires_grad=True)
    liked_B = torch.tensor([True, False, True, True])
    loss_B = kto_loss(h_B, liked_B, torch.tensor(0.0).double(), beta=0.5)
    loss_B.sum().backward()
    assert loss_B[:2].tolist() == [0.5, 0.5] and h_B.grad is not None
    assert h_B.grad[0] == pytest.approx(-0.5 / 4) and h_B.grad[1] == pytest.approx(0.5 / 4)
    assert (h_B.grad[2:].abs() < 1e-12).all()  # also of a hopeless one: KTO gives up on what it cannot move


def test_the_reference_point_is_never_negative_and_carries_no_gradient() -> None:
    log_ratio_B = torch.tensor([1.0, 3.0], requires_grad=True)
    assert float(kto_reference_point(log_ratio_B)) == 2.0 and float(kto_reference_point(-log_ratio_B)) == 0.0
    assert not kto_reference_point(log_ratio_B).requires_grad


def test_log_odds_and_orpo_by_hand() -> None:
    """p = .8 against .5 a token: odds 4 and 1, ratio 4, loss -log(4 / 5)."""
    odds_B = log_odds(torch.tensor([0.8, 0.5], dtype=torch.float64).log())
    assert odds_B.exp().tolist() == pytest.approx([4.0, 1.0])
    assert float(odds_ratio_loss(odds_B[0] - odds_B[1])) == pytest.approx(math.log(5 / 4))


def test_log_odds_are_exact_where_the_naive_formula_is_not_and_finite_for_certainty() -> None:
    logprob_B = torch.tensor([-20.0, -1e-3, 0.0], requires_grad=True)
    odds_B = log_odds(logprob_B)
    assert odds_B[:2].tolist() == pytest.approx(
        [-20 - math.log1p(-math.exp(-20)), -1e-3 - math.log(-math.expm1(-1e-3))]
    )
    odds_B.sum().backward()
    assert odds_B.isfinite().all() and logprob_B.grad is not None and logprob_B.grad.isfinite().all()


def test_simpo_by_hand() -> None:
    """beta 2, gamma 1: mean log-probs -1 and -1.5 have a reward margin of 1, exactly the target: ln 2."""
    assert float(simpo_loss(torch.tensor(0.5), beta=2.0, target_margin=1.0)) == pytest.approx(math.log(2))
    assert float(simpo_loss(torch.tensor(1.0), beta=2.0, target_margin=1.0)) == pytest.approx(-math.log(sigmoid(1.0)))


def test_gradients_are_those_of_finite_differences() -> None:
    x_B = torch.tensor([-1.5, -0.2, -0.9], dtype=torch.float64, requires_grad=True)
    liked_B, kl = torch.tensor([True, False, True]), torch.tensor(0.3).double()
    assert torch.autograd.gradcheck(lambda x: dpo_loss(x, beta=0.4, label_smoothing=0.2), (x_B,))
    assert torch.autograd.gradcheck(lambda x: robust_dpo_loss(x, beta=0.4, label_smoothing=0.2), (x_B,))
    assert torch.autograd.gradcheck(lambda x: kto_loss(x, liked_B, kl, beta=0.4), (x_B,))
    assert torch.autograd.gradcheck(lambda x: odds_ratio_loss(log_odds(x) - 0.1), (x_B,))
    assert torch.autograd.gradcheck(lambda x: simpo_loss(x, beta=2.0, target_margin=1.0), (x_B,))
