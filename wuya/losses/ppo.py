"""Proximal policy optimisation for language models, as InstructGPT uses it (arXiv:2203.02155, 3.5 and C.4).

Shapes: B sequences (episodes), T positions. Position t stands for predicting token t + 1, so log-probs, values, rewards
and masks of one episode line up. mask_BT is 1.0 where token t + 1 belongs to the completion, 0.0 on prompt and padding.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def masked_mean(values_BT: Tensor, mask_BT: Tensor, num_tokens: Tensor | float | None = None) -> Tensor:
    """Mean over the positions where mask is 1.

    `num_tokens`: divisor to use instead of the mask's own sum: the count of the whole minibatch, when `values_BT` is
    one of its microbatches. Then the microbatches' results add up to the minibatch's mean, whatever the split.
    """
    divisor = mask_BT.sum().clamp(min=1) if num_tokens is None else num_tokens
    # where() and not a product: masked positions may hold inf or NaN
    return torch.where(mask_BT > 0, values_BT * mask_BT, 0.0).sum() / divisor


def scores_with_eos_rule(scores_B: Tensor, has_eos_B: Tensor, *, missing_eos_penalty: float) -> Tensor:
    """Scores after the rule for completions that never ended: min(score, 0) - penalty.

    The usual rule replaces the score by -1, which *rewards* not ending wherever the reward model says less than -1.
    Here an unended completion scores lower than the same one with its end token for every score, and never more than
    -penalty: less than the average demonstration, whose score is 0 after re-centring.

    Args:
        scores_B: reward model's scores, unitless.
        has_eos_B: bool; the completion ended with its end token within the limit.
        missing_eos_penalty: > 0.
    """
    return torch.where(has_eos_B, scores_B, scores_B.clamp(max=0) - missing_eos_penalty)


def kl_shaped_rewards(
    scores_B: Tensor, logprobs_BT: Tensor, ref_logprobs_BT: Tensor, mask_BT: Tensor, *, kl_coef: float
) -> Tensor:
    """Per-token reward: -kl_coef * (logprob - ref_logprob), plus the score on the last kept one (InstructGPT Eq. 2).

    Args:
        scores_B: one score a completion, unitless.
        logprobs_BT: nats, under the policy that sampled; constant.
        ref_logprobs_BT: nats, of the same tokens under the frozen reference; constant.
        mask_BT: 1.0 on completion tokens; every row has at least one.
        kl_coef: InstructGPT's beta: score given up per nat.

    Returns: rewards_BT, 0 where mask is 0; a row sums to score - kl_coef * (its KL estimate).
    """
    rewards_BT = -kl_coef * torch.where(mask_BT > 0, logprobs_BT - ref_logprobs_BT, 0.0)
    positions_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = (positions_T * (mask_BT > 0)).argmax(dim=1)
    rows_B = torch.arange(mask_BT.shape[0], device=mask_BT.device)
    rewards_BT[rows_B, last_B] += scores_B.to(rewards_BT.dtype)
    return rewards_BT


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv:1506.02438, Eq. 16), the value after the last token being 0.

    delta_t = r_t + gamma * V_{t+1} - V_t;  A_t = delta_t + gamma * lam * A_{t+1};  returns = A + V.

    Args:
        rewards_BT: as `kl_shaped_rewards` returns them.
        values_BT: V of the state before token t + 1; what stands at masked positions is ignored.
        mask_BT: 1.0 on completion tokens, which are contiguous in each row.
        gamma: discount per token (1 for InstructGPT).
        lam: lambda; 1 = reward to go minus value, 0 = one-step error.

    Returns: advantages_BT (not whitened) and returns_BT, both 0 where mask is 0.
    """
    rewards_BT, values_BT = torch.where(mask_BT > 0, rewards_BT, 0.0), torch.where(mask_BT > 0, values_BT, 0.0)
    next_values_BT = torch.cat([values_BT[:, 1:], torch.zeros_like(values_BT[:, :1])], dim=1)
    deltas_BT = rewards_BT + gamma * next_values_BT - values_BT
    advantages_BT = torch.zeros_like(deltas_BT)
    running_B = torch.zeros_like(deltas_BT[:, 0])
    for t in reversed(range(deltas_BT.shape[1])):
        running_B = deltas_BT[:, t] + gamma * lam * running_B
        advantages_BT[:, t] = running_B
    advantages_BT = torch.where(mask_BT > 0, advantages_BT, 0.0)
    return advantages_BT, torch.where(mask_BT > 0, advantages_BT + values_BT, 0.0)


def whiten(
    values_BT: Tensor,
    mask_BT: Tensor,
    *,
    shift_mean: bool = True,
    all_ranks_sum: Callable[[Tensor], Tensor] = lambda total: total,
) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8) over the masked positions, variance biased; 0 where mask is 0.

    Done in float64, where the mean of equal numbers is exactly that number: a constant advantage becomes exactly 0. In
    float32 the rounding error is divided by 1e-4, and Adam makes a full step of it.

    Args:
        shift_mean: False keeps the mean (used for rewards).
        all_ranks_sum: adds a tensor over the processes that hold the other rows of the batch.
    """
    wide_BT = torch.where(mask_BT > 0, values_BT.double(), 0.0)
    count = all_ranks_sum(mask_BT.double().sum()).clamp(min=1)
    mean = all_ranks_sum(wide_BT.sum()) / count
    variance = all_ranks_sum(torch.where(mask_BT > 0, (wide_BT - mean) ** 2, 0.0).sum()) / count
    whitened_BT = (wide_BT - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened_BT = whitened_BT + mean
    return torch.where(mask_BT > 0, whitened_BT, 0.0).to(values_BT.dtype)


def ppo_policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_range: float,
    num_tokens: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate objective, negated so lower is better (PPO, arXiv:1707.06347, Eq. 7).

    Args:
        logprobs_BT: nats, of each sampled token under the policy being trained; carries gradient.
        old_logprobs_BT: the same under the policy that sampled the rollout; constant.
        advantages_BT: whitened, unitless; positive means "do this more often".
        mask_BT: 1.0 on completion tokens, 0.0 on prompt and padding; masked tokens change nothing.
        clip_range: epsilon; the ratio's gradient stops outside [1 - epsilon, 1 + epsilon]. Paper: 0.2.
        num_tokens: completion tokens of the whole minibatch when this is one of its microbatches.

    Returns: scalar loss, the mean over completion tokens; and detached statistics to log, with the same divisor.
    """
    log_ratio_BT = torch.where(mask_BT > 0, logprobs_BT - old_logprobs_BT, 0.0)
    advantages_BT = torch.where(mask_BT > 0, advantages_BT, 0.0)
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - clip_range, 1 + clip_range)
    loss_BT = -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    with torch.no_grad():
        stats = {
            "policy/clipfrac_avg": masked_mean((ratio_BT != clipped_BT).float(), mask_BT, num_tokens),
            "policy/approxkl_avg": masked_mean(ratio_BT - 1 - log_ratio_BT, mask_BT, num_tokens),  # k3, never negative
            "val/ratio": masked_mean(ratio_BT, mask_BT, num_tokens),
        }
    return masked_mean(loss_BT, mask_BT, num_tokens), stats


def ppo_value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    *,
    value_clip_range: float,
    num_tokens: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the squared error, the larger of clipped and unclipped (as in OpenAI's lm-human-preferences).

    Args:
        values_BT: V of the value model being trained; carries gradient.
        old_values_BT: V when the rollout was made; constant.
        returns_BT: targets, unwhitened; constant.
        value_clip_range: V may move this far from old V before its gradient stops, in units of the score. Paper: 0.2.

    The other arguments and what it returns are as in `ppo_policy_loss`.
    """
    inside_BT = mask_BT > 0
    values_BT = torch.where(inside_BT, values_BT, 0.0)
    old_values_BT = torch.where(inside_BT, old_values_BT, 0.0)
    returns_BT = torch.where(inside_BT, returns_BT, 0.0)
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-value_clip_range, value_clip_range)
    error_BT, clipped_error_BT = (values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2
    with torch.no_grad():
        stats = {"val/clipfrac_avg": masked_mean((clipped_error_BT > error_BT).float(), mask_BT, num_tokens)}
    return 0.5 * masked_mean(torch.maximum(error_BT, clipped_error_BT), mask_BT, num_tokens), stats


def adapted_kl_coef(kl_coef: float, *, observed_kl: float, target_kl: float, num_episodes: int, horizon: int) -> float:
    """Next kl_coef of the adaptive controller (Ziegler et al. 2019, section 2.2).

    Args:
        observed_kl: mean over episodes of the KL summed over tokens, nats; `target_kl` is where to hold it. Paper: 6.
        num_episodes: episodes in the batch.
        horizon: episodes over which a full (20 %) error moves the coefficient by a factor of about e^.2. Paper: 10,000.
    """
    error = min(0.2, max(-0.2, observed_kl / target_kl - 1))
    return kl_coef * (1 + error * num_episodes / horizon)
