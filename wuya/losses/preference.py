"""Losses for learning rewards from human rankings.

Shapes: P prompts, K completions per prompt (padded where prompts differ in K), B comparisons.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def log_sigmoid_loss(margin: Tensor) -> Tensor:
    """-log sigmoid(margin), nats, elementwise: Bradley-Terry."""
    return F.softplus(-margin)


def ranking_loss(
    scores_PK: Tensor,
    ranks_PK: Tensor,
    weights_P: Tensor | None = None,
    *,
    pair_loss: Callable[[Tensor], Tensor] = log_sigmoid_loss,
) -> tuple[Tensor, Tensor]:
    """InstructGPT's reward-model loss (arXiv:2203.02155, Eq. 1): every pair of a prompt, averaged within the prompt.

    All C(K,2) pairs of one prompt are one batch element: K scores, K(K-1)/2 comparisons. Ties are dropped, so the
    divisor is the number of pairs that are not ties.

    Args:
        scores_PK: r_theta of each completion, unitless; carries gradient.
        ranks_PK: dense ranks, 1 is best, equal = tie, 0 = no completion here (padding).
        weights_P: weight of each prompt's vote; None = all 1.
        pair_loss: of the difference (better less worse), elementwise. DPO and IPO are this with log-ratios for scores.

    Returns: weighted sum over prompts of the mean pair loss in nats, and the sum of the weights of prompts with at
        least one pair. Divide by the latter, summed over microbatches and ranks. Equal scores give ln 2 a pair.
    """
    # better_PKK[p, i, j] is 1 where i was ranked above j
    valid_PK = ranks_PK > 0
    better_PKK = (ranks_PK[:, :, None] < ranks_PK[:, None, :]) & valid_PK[:, :, None] & valid_PK[:, None, :]
    better_PKK = better_PKK.to(scores_PK.dtype)
    difference_PKK = scores_PK[:, :, None] - scores_PK[:, None, :]
    pairs_P = better_PKK.sum((1, 2))
    loss_P = (pair_loss(difference_PKK) * better_PKK).sum((1, 2)) / pairs_P.clamp(min=1)
    counted_P = (pairs_P > 0).to(scores_PK.dtype)
    if weights_P is not None:
        counted_P = counted_P * weights_P.to(scores_PK.dtype)
    return (loss_P * counted_P).sum(), counted_P.sum()


def first_ranked_mean(values_PK: Tensor, ranks_PK: Tensor, weights_P: Tensor) -> Tensor:
    """Weighted sum over votes of the mean value of the completions ranked first (several where they tie).

    With a completion's negative log-likelihood as its value this is SFT on what people liked best: for K = 2, on the
    chosen completion.

    Args:
        values_PK: one number per completion; carries gradient.
        ranks_PK, weights_P: as in `ranking_loss`.
    """
    first_PK = (ranks_PK == 1).to(values_PK.dtype)
    mean_P = (values_PK * first_PK).sum(dim=1) / first_PK.sum(dim=1).clamp(min=1)
    return (mean_P * weights_P.to(values_PK.dtype)).sum()


def order_credit(margin: Tensor) -> Tensor:
    """Accuracy of each pair, elementwise: 1 where margin (chosen less rejected) > 0, 0 where < 0, 1/2 where equal.

    The one definition of accuracy: training metrics, reports, calibration and win rates count equal scores as half.
    """
    return (margin.sign() + 1) / 2


def pair_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """-log sigmoid(chosen - rejected), nats, shape [B] (Bradley-Terry; InstructGPT Eq. 1 for a single pair)."""
    return F.softplus(rejected_B - chosen_B)


def noisy_preference_probability(first_B: Tensor, second_B: Tensor, *, noise: float = 0.1) -> Tensor:
    """P(first preferred) when a labeler answers at random with probability `noise` (arXiv:1706.03741, 2.2.3).

    Args:
        first_B: sum of predicted rewards over the first segment (for language: the score of a completion).
        second_B: the same for the second segment.

    Returns: (1 - noise) * sigmoid(first - second) + noise / 2, shape [B]; between noise / 2 and 1 - noise / 2.
    """
    return (1 - noise) * torch.sigmoid(first_B - second_B) + noise / 2


def christiano_loss(first_B: Tensor, second_B: Tensor, preference_B: Tensor, *, noise: float = 0.1) -> Tensor:
    """Cross-entropy between labels and `noisy_preference_probability`, nats, shape [B] (Christiano et al. 2017, Eq. 1).

    Its largest value is -log(noise / 2) = 2.9957 for noise .1: the noise inside the softmax makes the gradient vanish
    for confident mistakes, which label smoothing does not do.

    Args:
        preference_B: mu(1): 1 = first preferred, 0 = second, .5 = equal. "Cannot compare" must be dropped before.
    """
    probability_B = noisy_preference_probability(first_B, second_B, noise=noise)
    return -(preference_B * probability_B.log() + (1 - preference_B) * (1 - probability_B).log())
