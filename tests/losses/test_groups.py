"""Claims about RLOO, GRPO, Dr. GRPO and DAPO (golden values: spec appendix A)."""

import math

import pytest
import torch

from wuya.losses.groups import (
    equal_groups,
    grpo_advantages,
    grpo_policy_loss,
    rloo_advantages,
    rloo_policy_loss,
)

SCORES_PG = torch.tensor([[1.0, 0, 0, 1, 0]])


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


def test_rounding_in_scores_is_no_advantage() -> None:
    """The same completion scored at two places of a batch: dividing by its std of 1e-7 made advantages of +- 1."""
    scores_PG = torch.tensor([[2.0, 2.0000002, 2.0, 2.0000002], [0.0, 1e-7, 0.0, 0.0], [0.5, 0.501, 0.5, 0.5]])
    assert equal_groups(scores_PG).tolist() == [True, True, False]
    advantages_PG = grpo_advantages(scores_PG)
    assert (advantages_PG[:2] == 0).all() and advantages_PG[2, 1] > 1.7


def hand_batch() -> tuple[torch.Tensor, ...]:
    """Two completions of 1 and 3 tokens; ratios 1.25, then 1.25, .7, 1; advantages +1 and -2."""
    ratios_BT = torch.tensor([[1.25, 1.0, 1.0], [1.25, 0.7, 1.0]], dtype=torch.float64)
    old_BT = torch.full((2, 3), -1.0, dtype=torch.float64)
    mask_BT = torch.tensor([[1.0, 0, 0], [1, 1, 1]], dtype=torch.float64)
    return (old_BT + ratios_BT.log()).requires_grad_(), old_BT, torch.tensor([1.0, -2.0]).double(), mask_BT


def test_clip_higher_by_hand() -> None:
    """A > 0, ratio 1.25: cut to 1.2 by .2, not by .28, where it still has a gradient. A < 0 meets the lower limit."""
    logprobs_BT, old_BT, advantages_B, mask_BT = hand_batch()
    constants = {"clip_range": 0.2, "kl_coef": 0.0, "num_tokens": 4.0}
    cut, _ = grpo_policy_loss(logprobs_BT, old_BT, old_BT, advantages_B, mask_BT, **constants)
    # -1.2 for the first; for A = -2: max(2.5, 2.4), which is not cut, max(1.4, 1.6) and 2
    assert cut.item() == pytest.approx((-1.2 + 2.5 + 1.6 + 2.0) / 4)
    higher, stats = grpo_policy_loss(
        logprobs_BT, old_BT, old_BT, advantages_B, mask_BT, **constants, clip_range_high=0.28
    )
    assert higher.item() == pytest.approx((-1.25 + 2.5 + 1.6 + 2.0) / 4)
    higher.backward()
    assert logprobs_BT.grad is not None
    torch.testing.assert_close(logprobs_BT.grad[0, 0], torch.tensor(-1.25 / 4).double())
    assert logprobs_BT.grad[1, 1] == 0  # below .8 with A < 0: clipped
    assert stats["policy/clipfrac_avg"] == pytest.approx((0 + 1 / 3) / 2)


def test_token_level_loss_weighs_every_token_alike_by_hand() -> None:
    """Ratio 1: the loss is -A on each token, so (-1 + 2) / 2 by episode and (-1 + 2 + 2 + 2) / 4 by token."""
    _, old_BT, advantages_B, mask_BT = hand_batch()
    constants = {"clip_range": 0.2, "kl_coef": 0.0}
    by_episode, _ = grpo_policy_loss(old_BT, old_BT, old_BT, advantages_B, mask_BT, **constants)
    by_token, _ = grpo_policy_loss(old_BT, old_BT, old_BT, advantages_B, mask_BT, **constants, num_tokens=4.0)
    assert float(by_episode) == pytest.approx(0.5) and float(by_token) == pytest.approx(5 / 4)


def test_rloo_clips_higher_too() -> None:
    logprobs_BT = torch.tensor([[math.log(1.5)]])
    losses = [
        float(rloo_policy_loss(
            logprobs_BT, torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1), clip_range=0.2, clip_range_high=high
        )[0])
        for high in (0.0, 0.4, 0.6)
    ]  # fmt: skip
    assert losses == pytest.approx([-1.2, -1.4, -1.5])
