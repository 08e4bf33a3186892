"""Learning from preferences and scores without a value model: DPO, IPO; RLOO and GRPO advantages (spec 7.10).

Shapes: B pairs or episodes, G completions of one prompt (a group), P prompts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def log_ratio_margin(chosen_B: Tensor, rejected_B: Tensor, ref_chosen_B: Tensor, ref_rejected_B: Tensor) -> Tensor:
    """h = (log pi - log ref)(chosen) - (log pi - log ref)(rejected), nats, shape [B].

    Each argument is a log-probability summed over the completion's tokens (end token included, prompt excluded).
    """
    return (chosen_B - ref_chosen_B) - (rejected_B - ref_rejected_B)


def dpo_loss(margin_B: Tensor, *, beta: float) -> Tensor:
    """-log sigmoid(beta * h), nats, shape [B] (DPO, arXiv:2305.18290, Eq. 7); ln 2 at the start, where h = 0.

    Args:
        margin_B: `log_ratio_margin`; carries gradient.
        beta: strength of the implied KL penalty; .05 to .1 are usual.
    """
    return F.softplus(-beta * margin_B)


def ipo_loss(margin_B: Tensor, *, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2, shape [B] (IPO, arXiv:2310.12036, Eq. 17): bounded for near-deterministic preferences."""
    return (margin_B - 1 / (2 * beta)) ** 2


def rloo_advantages(scores_PG: Tensor) -> Tensor:
    """Score minus the mean of the prompt's *other* completions (RLOO, arXiv:2402.14740, Eq. 8), [P, G], G > 1."""
    group = scores_PG.shape[1]
    return (scores_PG - scores_PG.mean(dim=1, keepdim=True)) * (group / (group - 1))


def grpo_advantages(scores_PG: Tensor, *, unbiased_std: bool = False, divide_by_std: bool = True) -> Tensor:
    """(score - mean) / std within the prompt's group (GRPO, arXiv:2402.03300, section 4.1.2), shape [P, G].

    A group of equal scores has advantage exactly 0: it teaches nothing.

    Args:
        unbiased_std: divide by G - 1 inside the root (torch's default, several published codes) and not by G.
        divide_by_std: False is Dr. GRPO (arXiv:2503.20783), which removes the bias towards prompts of even difficulty.
    """
    wide_PG = scores_PG.double()  # so that equal scores differ from their mean by exactly 0
    centred_PG = wide_PG - wide_PG.mean(dim=1, keepdim=True)
    if not divide_by_std:
        return centred_PG.to(scores_PG.dtype)
    std_P1 = wide_PG.std(dim=1, keepdim=True, correction=1 if unbiased_std else 0)
    return torch.where(std_P1 > 0, centred_PG / std_P1.clamp(min=1e-12), 0.0).to(scores_PG.dtype)
