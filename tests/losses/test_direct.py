"""Claims about DPO, IPO, RLOO and GRPO (golden values: spec appendix A)."""

import math

import pytest
import torch

from wuya.losses.direct import (
    dpo_loss,
    grpo_advantages,
    grpo_policy_loss,
    ipo_loss,
    log_ratio_margin,
    rloo_advantages,
    rloo_policy_loss,
)
from wuya.losses.preference import ranking_loss

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


def random_batch(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """logprobs (with gradient), old, reference, advantages, mask with completions of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    logprobs, old, ref = (-torch.rand(4, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = (torch.arange(6) < torch.tensor([[6], [2], [4], [1]])).double()
    return logprobs.requires_grad_(), old, ref, torch.randn(4, generator=generator, dtype=torch.float64), mask


def test_rloo_starts_with_the_gradient_of_reinforce_a_completion() -> None:
    logprobs_BT, _, _, advantages_B, mask_BT = random_batch()
    loss, stats = rloo_policy_loss(logprobs_BT, logprobs_BT.detach(), advantages_B, mask_BT, clip_range=0.2)
    loss.backward()
    torch.testing.assert_close(logprobs_BT.grad, -advantages_B[:, None] * mask_BT / 4)
    assert stats["val/ratio"] == 1 and stats["policy/clipfrac_avg"] == 0


def test_rloo_equals_its_definition_written_out() -> None:
    logprobs_BT, old_BT, _, advantages_B, mask_BT = random_batch()
    loss, _ = rloo_policy_loss(logprobs_BT, old_BT, advantages_B, mask_BT, clip_range=0.3)
    by_hand = 0.0
    for row in range(4):
        kept = mask_BT[row] > 0
        ratio = float((logprobs_BT.detach()[row][kept] - old_BT[row][kept]).sum().exp())
        advantage = float(advantages_B[row])
        by_hand -= min(ratio * advantage, min(max(ratio, 0.7), 1.3) * advantage) / 4
    assert float(loss.detach()) == pytest.approx(by_hand)


@pytest.mark.parametrize("constant_length", [0.0, 6.0])
def test_grpo_equals_its_definition_written_out(constant_length: float) -> None:
    logprobs_BT, old_BT, ref_BT, advantages_B, mask_BT = random_batch()
    loss, stats = grpo_policy_loss(
        logprobs_BT, old_BT, ref_BT, advantages_B, mask_BT, clip_range=0.2, kl_coef=0.5, constant_length=constant_length
    )
    by_hand = 0.0
    for row in range(4):
        length = int(mask_BT[row].sum())
        for t in range(length):
            new, old, ref = (float(x.detach()[row, t]) for x in (logprobs_BT, old_BT, ref_BT))
            ratio, advantage = math.exp(new - old), float(advantages_B[row])
            surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            k3 = math.exp(ref - new) - 1 - (ref - new)
            by_hand += (-surrogate + 0.5 * k3) / (constant_length or length) / 4
    assert float(loss.detach()) == pytest.approx(by_hand)
    assert stats["loss/kl_avg"] >= 0


@pytest.mark.parametrize("kind", ["rloo", "grpo", "dr_grpo"])
def test_gradients_are_those_of_finite_differences_and_padding_changes_nothing(kind: str) -> None:
    logprobs_BT, old_BT, ref_BT, advantages_B, mask_BT = random_batch(1)

    def loss(x_BT: torch.Tensor) -> torch.Tensor:
        if kind == "rloo":
            return rloo_policy_loss(x_BT, old_BT, advantages_B, mask_BT, clip_range=5.0)[0]
        length = 6.0 if kind == "dr_grpo" else 0.0
        return grpo_policy_loss(
            x_BT, old_BT, ref_BT, advantages_B, mask_BT, clip_range=5.0, kl_coef=0.1, constant_length=length
        )[0]

    assert torch.autograd.gradcheck(loss, (logprobs_BT,))
    changed_BT = torch.where(mask_BT > 0, logprobs_BT, torch.nan)
    torch.testing.assert_close(loss(changed_BT), loss(logprobs_BT))


def test_microbatches_add_up_to_the_whole() -> None:
    logprobs_BT, old_BT, ref_BT, advantages_B, mask_BT = random_batch()
    whole = grpo_policy_loss(logprobs_BT, old_BT, ref_BT, advantages_B, mask_BT, clip_range=0.2, kl_coef=0.1)[0]
    parts = [
        grpo_policy_loss(
            logprobs_BT[i],
            old_BT[i],
            ref_BT[i],
            advantages_B[i],
            mask_BT[i],
            clip_range=0.2,
            kl_coef=0.1,
            num_episodes=4,
        )[0]
        for i in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


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
