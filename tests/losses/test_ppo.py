"""Claims about the equations of PPO (golden values: spec appendix A)."""

import pytest
import torch
from torch import Tensor

from wuya.losses.ppo import (
    adapted_kl_coef,
    gae,
    kl_shaped_rewards,
    masked_mean,
    ppo_policy_loss,
    ppo_value_loss,
    scores_with_eos_rule,
    whiten,
)

ONES_13 = torch.ones(1, 3)
REWARDS, VALUES = torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.5, 0.4, 0.3]])


def naive_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition: A_t = sum over l of (gamma lam)^l delta_{t+l}."""
    values = [*values, 0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(rewards))]
    return [sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, len(deltas))) for t in range(len(deltas))]


def test_golden_gae_returns_and_whitening() -> None:
    advantages_BT, returns_BT = gae(REWARDS, VALUES, ONES_13, gamma=1, lam=0.95)
    torch.testing.assert_close(advantages_BT, torch.tensor([[0.43675, 0.565, 0.7]]))
    torch.testing.assert_close(returns_BT, torch.tensor([[0.93675, 0.965, 1.0]]))
    torch.testing.assert_close(
        whiten(advantages_BT, ONES_13), torch.tensor([[-1.21414, -0.02093, 1.23508]]), atol=1e-5, rtol=0
    )


def test_gae_equals_its_definition_whatever_surrounds_the_completion() -> None:
    torch.manual_seed(0)
    rewards_BT, values_BT, mask_BT = torch.randn(4, 9), torch.randn(4, 9), torch.zeros(4, 9)
    for row, (start, stop) in enumerate([(0, 9), (2, 5), (3, 9), (8, 9)]):
        mask_BT[row, start:stop] = 1
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, gamma=0.9, lam=0.8)
    for row in range(4):
        inside = mask_BT[row] > 0
        expected = naive_gae(rewards_BT[row, inside].tolist(), values_BT[row, inside].tolist(), 0.9, 0.8)
        torch.testing.assert_close(advantages_BT[row, inside], torch.tensor(expected))
        assert (advantages_BT[row, ~inside] == 0).all() and (returns_BT[row, ~inside] == 0).all()


def test_gae_with_lambda_one_equals_reward_to_go() -> None:
    _, returns_BT = gae(REWARDS + 0.5, VALUES, ONES_13, gamma=1, lam=1)
    torch.testing.assert_close(returns_BT, torch.tensor([[2.5, 2.0, 1.5]]))


def test_golden_whitening_that_keeps_the_mean() -> None:
    values_BT = torch.tensor([[1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]])
    expected = torch.tensor([[0.0508, 0.4381, 0.8254, 1.2127, 1.6, 1.9873, 2.3746, 2.7619, 3.1492]])
    whitened_BT = whiten(values_BT, torch.ones(1, 9), shift_mean=False)
    torch.testing.assert_close(whitened_BT, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("constant", [0.1, -3.7, 1e-6, 12345.678])
def test_a_constant_is_whitened_to_exactly_zero(constant: float) -> None:
    mask_BT = (torch.rand(7, 31) > 0.3).float()
    assert (whiten(torch.full((7, 31), constant), mask_BT) == 0).all()


def test_whitening_ignores_padding() -> None:
    values_BT, mask_BT = torch.randn(3, 6), torch.ones(3, 6)
    mask_BT[1, 2:] = 0
    whitened_BT = whiten(values_BT, mask_BT)
    values_BT[1, 2:] = float("nan")
    torch.testing.assert_close(whiten(values_BT, mask_BT), whitened_BT)
    inside = whitened_BT[mask_BT > 0]
    assert abs(inside.mean()) < 1e-6 and abs(inside.std(correction=0) - 1) < 1e-4


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss"), [(1, 1.5, -1.2), (-1, 1.5, 1.5), (1, 0.5, -0.5), (-1, 0.5, 0.8)]
)
def test_golden_policy_loss(advantage: float, ratio: float, loss: float) -> None:
    found, _ = _policy_loss(torch.tensor([[ratio]]).log(), torch.tensor([[advantage]]), torch.ones(1, 1))
    torch.testing.assert_close(found, torch.tensor(loss))


def _policy_loss(log_ratio_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    old_BT = torch.full_like(log_ratio_BT, -2.0)
    return ppo_policy_loss(old_BT + log_ratio_BT, old_BT, advantages_BT, mask_BT, clip_range=0.2)


def test_policy_loss_in_the_first_minibatch() -> None:
    advantages_BT = torch.tensor([[2.0, -1.0, 0.5]])
    loss, stats = _policy_loss(torch.zeros(1, 3), advantages_BT, ONES_13)
    torch.testing.assert_close(loss, -advantages_BT.mean())
    assert stats["val/ratio"] == 1 and stats["policy/clipfrac_avg"] == 0 and stats["policy/approxkl_avg"] == 0


def test_clipped_ratios_have_no_gradient() -> None:
    log_ratio_BT = torch.tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)
    loss, _ = _policy_loss(log_ratio_BT, torch.tensor([[1.0, -1.0, -1.0, 1.0]]), torch.ones(1, 4))
    loss.backward()
    assert log_ratio_BT.grad is not None
    assert (log_ratio_BT.grad[0, :2] == 0).all() and (log_ratio_BT.grad[0, 2:] != 0).all()


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"), [(1.0, 0.5, 1.0, 0.045), (0.6, 0.5, 1, 0.08), (0.5, 0.5, 1, 0.125)]
)
def test_golden_value_loss(value: float, old: float, target: float, loss: float) -> None:
    found, _ = ppo_value_loss(
        torch.tensor([[value]]), torch.tensor([[old]]), torch.tensor([[target]]), torch.ones(1, 1), value_clip_range=0.2
    )
    torch.testing.assert_close(found, torch.tensor(loss))


def test_padding_never_changes_a_loss_or_gradient() -> None:
    torch.manual_seed(0)
    mask_BT = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]])
    base = [torch.randn(2, 4) for _ in range(4)]
    results = []
    for junk in (0.0, float("nan"), 1e30):
        new_BT, old_BT, target_BT, advantages_BT = (torch.where(mask_BT > 0, x, junk) for x in base)
        new_BT.requires_grad_(True)
        policy, stats = ppo_policy_loss(new_BT, old_BT, advantages_BT, mask_BT, clip_range=0.2)
        value, _ = ppo_value_loss(new_BT, old_BT, target_BT, mask_BT, value_clip_range=0.2)
        (policy + value).backward()
        assert new_BT.grad is not None
        results.append((policy.detach(), value.detach(), stats["val/ratio"], new_BT.grad))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            torch.testing.assert_close(first, second)


def test_microbatches_of_unequal_masks_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    mask_BT = (torch.rand(8, 5) > 0.4).float()
    log_ratio_BT, advantages_BT = 0.3 * torch.randn(8, 5), torch.randn(8, 5)
    whole, _ = _policy_loss(log_ratio_BT, advantages_BT, mask_BT)
    parts = [
        ppo_policy_loss(
            log_ratio_BT[i : i + 1],
            torch.zeros(1, 5),
            advantages_BT[i : i + 1],
            mask_BT[i : i + 1],
            clip_range=0.2,
            num_tokens=mask_BT.sum(),
        )[0]
        for i in range(8)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_the_score_lies_on_the_last_kept_token_and_kl_on_every_one() -> None:
    mask_BT = torch.tensor([[0.0, 1, 1, 0], [0, 1, 1, 1]])
    logprobs_BT, ref_BT = torch.full((2, 4), -1.0), torch.full((2, 4), -1.5)
    rewards_BT = kl_shaped_rewards(torch.tensor([2.0, -3.0]), logprobs_BT, ref_BT, mask_BT, kl_coef=0.1)
    expected = torch.tensor([[0, -0.05, 1.95, 0], [0, -0.05, -0.05, -3.05]])
    torch.testing.assert_close(rewards_BT, expected)


def test_in_the_first_update_the_rewards_of_an_episode_sum_to_its_score() -> None:
    logprobs_BT, mask_BT, scores_B = torch.randn(3, 6), torch.ones(3, 6), torch.randn(3)
    rewards_BT = kl_shaped_rewards(scores_B, logprobs_BT, logprobs_BT, mask_BT, kl_coef=0.02)
    torch.testing.assert_close(rewards_BT.sum(1), scores_B)


def test_the_same_answer_without_eos_scores_lower_for_any_score() -> None:
    scores_B = torch.linspace(-5, 5, 1001)
    yes = torch.ones(1001, dtype=torch.bool)
    ended = scores_with_eos_rule(scores_B, yes, missing_eos_penalty=1.0)
    endless = scores_with_eos_rule(scores_B, ~yes, missing_eos_penalty=1.0)
    assert (ended == scores_B).all() and (endless < ended).all()
    assert endless.max() <= -1  # never above what the usual rule, "-1 instead of the score", gives


@pytest.mark.parametrize(("kl", "coef"), [(6, 0.15), (12, 0.151536), (3, 0.148464), (7, 0.151280)])
def test_golden_adaptive_kl_coef(kl: float, coef: float) -> None:
    found = adapted_kl_coef(0.15, observed_kl=kl, target_kl=6, num_episodes=512, horizon=10_000)
    assert found == pytest.approx(coef, abs=1e-6)


def test_masked_mean_of_nothing_is_zero() -> None:
    assert masked_mean(torch.full((1, 2), float("nan")), torch.zeros(1, 2)) == 0
