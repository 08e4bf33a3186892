"""Scale a reward model's margins so that its probabilities can be believed, and know the error that luck alone shows.

Guo et al. 2017 (arXiv:1706.04599): one temperature, fitted on votes the model was not trained on, changes no order and
mends most over-confidence. A perfectly calibrated model has an expected calibration error above 0 on finitely many
votes; `ece_floor` says how large.
"""

import numpy as np
from numpy.typing import ArrayLike

from wuya.evals.bootstrap import Interval
from wuya.evals.calibration import PairVote, calibrate


def fit_temperature(margins: ArrayLike) -> float:
    """The t > 0 that minimises the mean of -log sigmoid(margin / t): above 1 for a model that is too sure.

    Args:
        margins: score of the preferred answer less the other's, one a vote, of votes the model has not learned from.
    """
    margins_N = np.asarray(margins, dtype=np.float64)
    grid = np.geomspace(1e-3, 1e3, 61)
    for _ in range(6):  # each pass keeps the best point's neighbours: the loss in 1/t is convex
        losses = [float(np.logaddexp(0, -margins_N / t).mean()) for t in grid]
        best = int(np.argmin(losses))
        grid = np.geomspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], 13)
    return float(grid[6])


def ece_floor(margins: ArrayLike, *, num_samples: int = 1_000, num_bins: int = 10, seed: int = 0) -> Interval:
    """Expected calibration error of a model with these margins that *is* calibrated: mean and 95 % interval of luck."""
    magnitudes_N = np.abs(np.asarray(margins, dtype=np.float64))
    rng = np.random.default_rng(seed)
    confidence_N = 1 / (1 + np.exp(-magnitudes_N))
    places_N = np.clip(np.digitize(confidence_N, np.linspace(0.5, 1.0, num_bins + 1)) - 1, 0, num_bins - 1)
    found = []
    for _ in range(num_samples):
        right_N = rng.random(len(confidence_N)) < confidence_N
        gaps = np.bincount(places_N, weights=confidence_N - right_N, minlength=num_bins)
        found.append(float(np.abs(gaps).sum() / len(confidence_N)))
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(float(np.mean(found)), float(low), float(high), len(magnitudes_N))


def ece_of(margins: ArrayLike) -> float:
    """Expected calibration error of margins, by `calibrate`'s bins."""
    return calibrate([PairVote(str(n), float(m), 0.0) for n, m in enumerate(np.asarray(margins))]).ece
