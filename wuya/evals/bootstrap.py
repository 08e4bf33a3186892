"""Intervals for figures that are means over prompts or chats: resample the prompts, not the votes.

Several votes on one prompt are not independent, so the prompt (or chat) is the unit that is drawn with replacement.
Figures of two models on the same prompts are resampled together: the interval of their difference is the paired one.

Dimension key: U units, C columns of sums, S resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RESAMPLES = 2_000
NUM_GROUPS = 30
"""Groups of units that `jackknife_interval` leaves out in turn."""
STUDENT_975 = 2.045
"""97.5 % quantile of Student's t with NUM_GROUPS - 1 degrees of freedom."""

Floats = NDArray[np.float64]


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


def difference_interval(values: ArrayLike, others: ArrayLike, *, seed: int = 0) -> Interval:
    """Bootstrap interval of mean(values - others), paired: both hold one number per unit, in the same order."""
    return mean_interval(np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64), seed=seed)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0) -> Interval:
    """Bootstrap interval of sum(numerators) / sum(denominators), both resampled together by unit.

    Raises: ValueError when empty or of different lengths.
    """
    top, bottom = (np.asarray(a, dtype=np.float64) for a in (numerators, denominators))
    if top.size == 0 or top.shape != bottom.shape:
        raise ValueError(f"need two equal, non-empty arrays, got {top.shape} and {bottom.shape}")
    return sums_interval([top, bottom], lambda sums_SC: sums_SC[:, 0] / np.maximum(sums_SC[:, 1], 1e-12), seed=seed)


def sums_interval(columns: Sequence[ArrayLike], figure: Callable[[Floats], Floats], *, seed: int = 0) -> Interval:
    """Bootstrap interval of a figure that is a function of sums over units, all columns resampled together.

    Args:
        columns: each holds one number per unit, in the same order.
        figure: from the columns' sums [S, C] to the figure [S].
    """
    columns_UC = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    num_units = len(columns_UC)
    counts_SU = resample_counts(num_units, seed=seed)
    low, high = np.quantile(figure(np.asarray(counts_SU @ columns_UC, dtype=np.float64)), [0.025, 0.975])
    mean = figure(columns_UC.sum(axis=0, keepdims=True))[0]
    return Interval(float(mean), float(low), float(high), num_units)


def resample_counts(num_units: int, *, seed: int = 0) -> NDArray[np.int64]:
    """How often each unit is drawn in each resample [S, U]."""
    shares_U = np.full(num_units, 1 / num_units)
    return np.random.default_rng(seed).multinomial(num_units, shares_U, size=NUM_RESAMPLES)


def order_interval(figure: Callable[[NDArray[np.int64]], float], num_units: int, *, seed: int = 0) -> Interval:
    """Bootstrap interval of a figure of order (a median, a quantile).

    Args:
        figure: the figure of the units with these indices; an index may come more than once.
    """
    draws_SU = np.random.default_rng(seed).integers(num_units, size=(NUM_RESAMPLES, num_units))
    low, high = np.quantile([figure(draw_U) for draw_U in draws_SU], [0.025, 0.975])
    return Interval(figure(np.arange(num_units)), float(low), float(high), num_units)


def jackknife_interval(figure: Callable[[NDArray[np.int64]], float], num_units: int, *, seed: int = 0) -> Interval:
    """Interval of a figure that a repeated unit would bias, such as a share of distinct n-grams: groups are left out.

    The delete-a-group jackknife (Kott 2001): the spread of the figure without each of NUM_GROUPS random groups.

    Args:
        figure: the figure of the units with these indices.
    """
    whole = figure(np.arange(num_units))
    order_U = np.random.default_rng(seed).permutation(num_units)
    groups = np.array_split(order_U, NUM_GROUPS)
    without = np.array([figure(np.setdiff1d(order_U, group)) for group in groups if len(group)])
    count = len(without)
    error = sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    return Interval(whole, whole - STUDENT_975 * error, whole + STUDENT_975 * error, num_units)


def share_interval(count: int, total: int) -> Interval:
    """Wilson's 95 % interval of a share, for counts too small to resample: 0 of 600 is [0, .6 %], not [0, 0]."""
    z = 1.96
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), total)
