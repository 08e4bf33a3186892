"""Intervals for figures that are means over prompts or chats: resample the prompts, not the votes.

Several votes on one prompt are not independent, so the prompt (or chat) is the unit that is drawn with replacement.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % percentile interval over `n` independent units."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: ArrayLike, *, seed: int = 0) -> Interval:
    """Bootstrap interval of a mean; `values` holds one number per unit."""
    array = np.asarray(values, dtype=np.float64)
    return ratio_interval(array, np.ones_like(array), seed=seed)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0) -> Interval:
    """Bootstrap interval of sum(numerators) / sum(denominators), both resampled together by unit.

    Raises: ValueError when empty or of different lengths.
    """
    top, bottom = (np.asarray(a, dtype=np.float64) for a in (numerators, denominators))
    if top.size == 0 or top.shape != bottom.shape:
        raise ValueError(f"need two equal, non-empty arrays, got {top.shape} and {bottom.shape}")
    resampled = _resampled_sums(top, seed) / np.maximum(_resampled_sums(bottom, seed), 1e-12)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high), int(top.size))


def _resampled_sums(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    probabilities = np.full(values.size, 1 / values.size)
    counts = rng.multinomial(values.size, probabilities, size=NUM_RESAMPLES)
    return np.asarray(counts @ values, dtype=np.float64)


def unit_means(rows: Sequence[tuple[str, float]]) -> list[float]:
    """Mean per unit of (unit, value) rows, units in order of first appearance."""
    units: dict[str, list[float]] = {}
    for unit, value in rows:
        units.setdefault(unit, []).append(value)
    return [float(np.mean(values)) for values in units.values()]
