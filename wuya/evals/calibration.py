"""How far the probabilities of a reward model can be trusted: accuracy, calibration, what it pays for.

A reward model says P(a preferred to b) = sigmoid(score a - score b). Each vote on a pair is one outcome.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from wuya.evals.bootstrap import Interval, ratio_interval
from wuya.losses.preference import order_credit


@dataclass(frozen=True, slots=True)
class PairVote:
    """One labeler's opinion of one pair, with the model's score of both answers."""

    unit: str
    """Prompt id: votes on one prompt are not independent."""
    chosen_score: float
    rejected_score: float

    @property
    def margin(self) -> float:
        """Score of the preferred answer less the other's."""
        return self.chosen_score - self.rejected_score


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Votes whose predicted probability lies in [low, high)."""

    low: float
    high: float
    confidence: float
    """Mean predicted probability."""
    accuracy: float
    """Share of votes that agreed."""
    n: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a reward model's probabilities are worth on votes it has not seen."""

    accuracy: Interval
    """Share of single votes whose preferred answer has the higher score (equal scores count half)."""
    ece: float
    """Expected calibration error: mean |confidence - accuracy| over bins, weighted by votes."""
    brier: float
    """Mean squared error of the probability; .25 is knowing nothing."""
    nats: float
    """Mean of -log P(vote); ln 2 = .693 is knowing nothing."""
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def calibrate(votes: Sequence[PairVote], *, num_bins: int = 10, seed: int = 0) -> Calibration:
    """Accuracy with a bootstrap interval over prompts, ECE, Brier score and reliability bins.

    Probabilities are those of the preferred side as the model sees it, max(p, 1 - p), in [.5, 1]: a pair has no natural
    first and second, so the bins of a diagram over [0, 1] would mirror each other.

    Raises: ValueError without votes.
    """
    if not votes:
        raise ValueError("no votes")
    margins = np.array([vote.margin for vote in votes])
    right = order_credit(torch.from_numpy(margins)).numpy()
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    places = np.clip(np.digitize(confidence, edges) - 1, 0, num_bins - 1)
    bins = []
    for place in range(num_bins):
        inside = places == place
        if inside.any():
            mean, share = float(confidence[inside].mean()), float(right[inside].mean())
            bins.append(ReliabilityBin(float(edges[place]), float(edges[place + 1]), mean, share, int(inside.sum())))
    return Calibration(
        accuracy=_accuracy(votes, right, seed),
        ece=sum(bin.n * abs(bin.confidence - bin.accuracy) for bin in bins) / len(votes),
        brier=float(np.mean((1 - 1 / (1 + np.exp(-margins))) ** 2)),
        nats=float(np.mean(np.logaddexp(0, -margins))),
        bins=tuple(bins),
    )


def _accuracy(votes: Sequence[PairVote], right: NDArray[np.float64], seed: int) -> Interval:
    units = {unit: place for place, unit in enumerate(dict.fromkeys(vote.unit for vote in votes))}
    places = np.array([units[vote.unit] for vote in votes])
    tops = np.bincount(places, weights=right, minlength=len(units))
    return ratio_interval(tops, np.bincount(places, minlength=len(units)), seed=seed)


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson correlation; 0 where one of the two is constant. For scores against lengths: what length is paid."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else 0.0
