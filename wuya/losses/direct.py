"""Learning a policy straight from preferences: DPO (conservative, robust), IPO, KTO, ORPO, SimPO.

A completion's log-prob is a sum over its tokens, end token included, prompt excluded, unless a docstring says "mean".
Every loss is elementwise: the caller reduces (`losses.preference.ranking_loss` takes the mean over a prompt's pairs).

Shapes: B pairs or completions.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def log_ratio_margin(chosen_B: Tensor, rejected_B: Tensor, ref_chosen_B: Tensor, ref_rejected_B: Tensor) -> Tensor:
    """h = (log pi - log ref)(chosen) - (log pi - log ref)(rejected), nats, shape [B].

    Each argument is a log-probability summed over the completion's tokens (end token included, prompt excluded).
    """
    return (chosen_B - ref_chosen_B) - (rejected_B - ref_rejected_B)


def dpo_loss(margin_B: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta h), nats, shape [B] (DPO, arXiv:2305.18290, Eq. 7); ln 2 at the start, where h = 0.

    With label smoothing e it is conservative DPO: (1 - e) L(h) - e log sigmoid(-beta h), the cross-entropy against a
    label that is wrong with probability e (E. Mitchell 2023, "A note on DPO with noisy preferences"). Its minimum is
    at beta h = log((1 - e) / e): unlike plain DPO it stops.

    Args:
        margin_B: `log_ratio_margin`; carries gradient.
        beta: strength of the implied KL penalty; .05 to .1 are usual.
        label_smoothing: e in [0, .5), the assumed share of swapped labels.
    """
    right_B = F.softplus(-beta * margin_B)
    if not label_smoothing:
        return right_B
    return (1 - label_smoothing) * right_B + label_smoothing * F.softplus(beta * margin_B)


def robust_dpo_loss(margin_B: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """((1 - e) L(h) - e L(-h)) / (1 - 2e), shape [B] (robust DPO, arXiv:2403.00409), L of `dpo_loss`.

    Where labels are swapped at random with probability e, its mean is DPO's loss on the clean labels; conservative
    DPO's is not. Single values may be negative. Same arguments as `dpo_loss`.
    """
    right_B, swapped_B = F.softplus(-beta * margin_B), F.softplus(beta * margin_B)
    return ((1 - label_smoothing) * right_B - label_smoothing * swapped_B) / (1 - 2 * label_smoothing)


def ipo_loss(margin_B: Tensor, *, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2, shape [B] (IPO, arXiv:2310.12036, Eq. 17): bounded for near-deterministic preferences."""
    return (margin_B - 1 / (2 * beta)) ** 2


def kto_loss(
    log_ratio_B: Tensor,
    desirable_B: Tensor,
    kl: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky loss of completions judged one by one, shape [B], each in [0, weight] (KTO, arXiv:2402.01306).

    Eq. 7: w_D (1 - sigmoid(beta (h - kl))) where desirable, w_U (1 - sigmoid(beta (kl - h))) where not; half the
    weight at the start, where h = kl = 0.

    Args:
        log_ratio_B: h = log pi - log ref of the completion, nats; carries gradient.
        desirable_B: bool, whether people liked it.
        kl: the reference point z_0 of `kto_reference_point`, a scalar without gradient.
        desirable_weight, undesirable_weight: lambda_D and lambda_U. The paper (Eq. 8) keeps
            lambda_D n_D / (lambda_U n_U) in [1, 4/3] for n_D liked and n_U disliked completions.
    """
    sign_B = torch.where(desirable_B, 1.0, -1.0)
    weight_B = torch.where(desirable_B, desirable_weight, undesirable_weight).to(log_ratio_B.dtype)
    return weight_B * torch.sigmoid(-beta * sign_B * (log_ratio_B - kl))


def kto_reference_point(mismatched_log_ratio_B: Tensor) -> Tensor:
    """z_0 = max(0, mean of log pi - log ref), nats, a scalar without gradient (KTO, arXiv:2402.01306, section 4.1).

    A biased, cheap stand-in for KL(policy || reference): the log-ratios are those of completions that belong to other
    prompts of the batch, so nothing has to be sampled.
    """
    return mismatched_log_ratio_B.detach().mean().clamp(min=0.0)


def log_odds(mean_logprob_B: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(mean log-prob per token), nats, shape [B] (ORPO, arXiv:2403.07691, Eq. 3 and 4).

    Args:
        mean_logprob_B: the completion's log-prob divided by its tokens, at most 0. Within 1e-6 of 0 (a completion the
            model is certain of) it counts as -1e-6, or the odds would be infinite.
    """
    mean_logprob_B = mean_logprob_B.clamp(max=-1e-6)
    return mean_logprob_B - torch.log(-torch.expm1(mean_logprob_B))


def odds_ratio_loss(log_odds_ratio_B: Tensor) -> Tensor:
    """-log sigmoid(log odds(chosen) - log odds(rejected)), nats, shape [B] (ORPO, arXiv:2403.07691, Eq. 7).

    ORPO's loss is the chosen completion's negative log-likelihood plus lambda times this (Eq. 6).
    """
    return F.softplus(-log_odds_ratio_B)


def simpo_loss(mean_margin_B: Tensor, *, beta: float, target_margin: float) -> Tensor:
    """-log sigmoid(beta m - gamma), nats, shape [B] (SimPO, arXiv:2405.14734, Eq. 6); no reference policy.

    Args:
        mean_margin_B: m, mean log-prob per token of the chosen less that of the rejected completion; carries gradient.
        beta: scale of the reward beta x mean log-prob. Paper: 2 to 2.5.
        target_margin: gamma, the reward margin to exceed. Paper: .3 to 1.6.
    """
    return F.softplus(target_margin - beta * mean_margin_B)
