"""Learning from scores without a value model, a group of completions at a time: RLOO, GRPO, Dr. GRPO, DAPO.

Shapes: P prompts, G completions of one prompt (a group), B = P G episodes, T positions (position t predicts token
t + 1). mask_BT is 1.0 where token t + 1 belongs to the completion.
"""

import torch
from torch import Tensor

from wuya.losses.kl import kl_estimates


def rloo_advantages(scores_PG: Tensor) -> Tensor:
    """Score minus the mean of the prompt's *other* completions (RLOO, arXiv:2402.14740, Eq. 8), [P, G], G > 1."""
    group = scores_PG.shape[1]
    return (scores_PG - scores_PG.mean(dim=1, keepdim=True)) * (group / (group - 1))


def grpo_advantages(scores_PG: Tensor, *, unbiased_std: bool = False, divide_by_std: bool = True) -> Tensor:
    """(score - mean) / std within the prompt's group (GRPO, arXiv:2402.03300, section 4.1.2), shape [P, G].

    A group of equal scores (`equal_groups`) has advantage exactly 0: it teaches nothing.

    Args:
        unbiased_std: divide by G - 1 inside the root (torch's default, several published codes) and not by G.
        divide_by_std: False is Dr. GRPO (arXiv:2503.20783), which removes the bias towards prompts of even difficulty.
    """
    wide_PG = scores_PG.double()
    centred_PG = wide_PG - wide_PG.mean(dim=1, keepdim=True)
    if divide_by_std:
        std_P1 = wide_PG.std(dim=1, keepdim=True, correction=1 if unbiased_std else 0)
        centred_PG = centred_PG / std_P1.clamp(min=1e-12)
    return torch.where(equal_groups(scores_PG)[:, None], 0.0, centred_PG).to(scores_PG.dtype)


def equal_groups(scores_PG: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Whether all completions of a prompt score the same, bool [P]: what DAPO's dynamic sampling drops (Eq. 11).

    Args:
        tolerance: scores that differ by at most this times max(1, largest absolute score) are equal. One completion
            scored at two places of a batch differs in its last digits, and dividing by a standard deviation of 1e-7
            would turn that into advantages of +- 1.
    """
    spread_P = scores_PG.amax(dim=1) - scores_PG.amin(dim=1)
    return spread_P <= tolerance * scores_PG.abs().amax(dim=1).clamp(min=1.0)


def rloo_policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_B: Tensor,
    mask_BT: Tensor,
    *,
    clip_range: float,
    clip_range_high: float = 0.0,
    num_episodes: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """REINFORCE with the whole completion as one action (RLOO, arXiv:2402.14740, Eq. 8), negated: lower is better.

    The importance ratio is that of the whole completion, exp(sum of log-ratios), clipped as in PPO. In the first
    minibatch it is 1 and the gradient is the paper's, -A * grad log pi(y | x), a sum over tokens. In later minibatches
    of the same batch long completions leave the clip range quickly: the paper takes one step a batch.

    Args:
        logprobs_BT: nats, of each sampled token under the policy being trained; carries gradient.
        old_logprobs_BT: the same under the policy that sampled; constant.
        advantages_B: `rloo_advantages` of score - kl_coef * KL, one a completion.
        clip_range: epsilon of the completion's ratio.
        clip_range_high: upper epsilon, as in `grpo_policy_loss`; 0 clips symmetrically.
        num_episodes: divisor, the episodes of the whole minibatch when this is one of its microbatches.

    Returns: scalar loss, the mean over episodes; and detached statistics with the same divisor.
    """
    divisor = float(len(advantages_B)) if num_episodes is None else num_episodes
    log_ratio_B = torch.where(mask_BT > 0, logprobs_BT - old_logprobs_BT, 0.0).sum(dim=1)
    ratio_B = log_ratio_B.exp()
    clipped_B = ratio_B.clamp(1 - clip_range, 1 + (clip_range_high or clip_range))
    loss_B = -torch.minimum(ratio_B * advantages_B, clipped_B * advantages_B)
    with torch.no_grad():
        stats = {
            "policy/clipfrac_avg": (ratio_B != clipped_B).float().sum() / divisor,
            "policy/approxkl_avg": (ratio_B - 1 - log_ratio_B).sum() / divisor,
            "val/ratio": ratio_B.sum() / divisor,
        }
    return loss_B.sum() / divisor, stats


def grpo_policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    ref_logprobs_BT: Tensor,
    advantages_B: Tensor,
    mask_BT: Tensor,
    *,
    clip_range: float,
    kl_coef: float,
    clip_range_high: float = 0.0,
    constant_length: float = 0.0,
    num_episodes: float | None = None,
    num_tokens: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clip on each token, the completion's advantage, and KL in the loss (GRPO, arXiv:2402.03300, Eq. 3 and 4).

    mean over episodes of 1/length * sum over tokens of  -min(ratio A, clip(ratio) A) + kl_coef * k3,
    k3 = ref/pi - 1 - log(ref/pi), which is never negative. As a loss k3 has the gradient of KL(ref || pi), not of
    KL(pi || ref): the penalty is another one than PPO's (k3 of Schulman 2020, joschu.net/blog/kl-approx.html).

    Args:
        advantages_B: `grpo_advantages`, one a completion, the same for all its tokens.
        ref_logprobs_BT: nats, of the same tokens under the frozen reference; constant.
        constant_length: divide every completion's sum by this and not by its length (Dr. GRPO, arXiv:2503.20783), for
            dividing by the length makes long wrong completions cheap. 0 divides by the length.
        clip_range, clip_range_high: the ratio's gradient stops outside [1 - clip_range, 1 + clip_range_high]; 0 for
            the latter clips symmetrically. DAPO's clip-higher (arXiv:2503.14476, Eq. 10): .2 and .28, so that unlikely
            tokens can still gain.
        num_episodes: as in `rloo_policy_loss`; the other arguments too.
        num_tokens: completion tokens of the whole minibatch, all ranks. Given, the loss is the sum over all tokens
            divided by it (DAPO, Eq. 12): every token weighs the same, so long completions weigh more, and
            `constant_length` has no effect. Statistics keep the mean over episodes.
    """
    divisor = float(len(advantages_B)) if num_episodes is None else num_episodes
    inside_BT = mask_BT > 0
    log_ratio_BT = torch.where(inside_BT, logprobs_BT - old_logprobs_BT, 0.0)
    k3_BT = kl_estimates(torch.where(inside_BT, logprobs_BT, ref_logprobs_BT), ref_logprobs_BT).k3
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - clip_range, 1 + (clip_range_high or clip_range))
    advantages_B1 = advantages_B[:, None]
    loss_BT = -torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1) + kl_coef * k3_BT
    lengths_B = inside_BT.sum(dim=1).clamp(min=1)

    def mean(values_BT: Tensor, length: Tensor | float) -> Tensor:
        return (torch.where(inside_BT, values_BT, 0.0).sum(dim=1) / length).sum() / divisor

    with torch.no_grad():
        stats = {
            "policy/clipfrac_avg": mean((ratio_BT != clipped_BT).float(), lengths_B),
            "policy/approxkl_avg": mean(ratio_BT - 1 - log_ratio_BT, lengths_B),
            "val/ratio": mean(ratio_BT, lengths_B),
            "loss/kl_avg": mean(k3_BT, lengths_B),
        }
    if num_tokens is not None:
        return torch.where(inside_BT, loss_BT, 0.0).sum() / num_tokens, stats
    return mean(loss_BT, constant_length or lengths_B), stats
