"""Does every round of the loop make the policy better? Win rates of all rounds on the same prompts, as a trend.

One prompt's votes in two rounds, or in runs of two seeds, are not independent: the prompt decides much of them. So the
prompt is what the bootstrap draws, with the votes of all rounds and seeds on it.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wuya.evals.bootstrap import NUM_RESAMPLES, Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoundsTrend:
    """What `rounds_trend` found; rates are shares of votes for the round's policy over the SFT model."""

    rates: tuple[Interval, ...]
    """One a round, the seeds' mean."""
    steps: tuple[Interval, ...]
    """Each round's rate less the one before, on the same prompts."""
    slope: Interval
    """Least squares of rate on round: points a round."""
    slope_by_seed: tuple[Interval, ...]

    @property
    def rises(self) -> bool:
        """The whole 95 % interval of the slope is above 0."""
        return self.slope.low > 0

    @property
    def falls(self) -> tuple[int, ...]:
        """Rounds (2, 3, ...) that are worse than the one before by more than the interval of the difference."""
        return tuple(number for number, step in enumerate(self.steps, start=2) if step.high < 0)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "rises": self.rises, "falls": self.falls}


def rounds_trend(votes: ArrayLike, *, seed: int = 0) -> RoundsTrend:
    """Trend over rounds of votes [S seeds, R rounds, P prompts], each the share of judges for the round's policy.

    Raises: ValueError unless there are two rounds or more and a prompt.
    """
    votes_SRP = np.asarray(votes, dtype=np.float64)
    if votes_SRP.ndim != 3 or votes_SRP.shape[1] < 2 or not votes_SRP.size:
        raise ValueError(f"need votes [seeds, rounds >= 2, prompts], got {votes_SRP.shape}")
    num_prompts = votes_SRP.shape[2]
    draws = np.random.default_rng(seed).multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), NUM_RESAMPLES)
    weights_BP = np.vstack([np.ones(num_prompts), draws]) / num_prompts  # the first row is the sample itself
    rate_BSR = np.einsum("bp,srp->bsr", weights_BP, votes_SRP, optimize=True)
    rate_BR = rate_BSR.mean(axis=1)

    def interval(values_B: Floats) -> Interval:
        low, high = np.quantile(values_B[1:], [0.025, 0.975])
        return Interval(float(values_B[0]), float(low), float(high), num_prompts)

    return RoundsTrend(
        rates=tuple(interval(column) for column in rate_BR.T),
        steps=tuple(interval(column) for column in np.diff(rate_BR, axis=1).T),
        slope=interval(_slope(rate_BR)),
        slope_by_seed=tuple(interval(_slope(rate_BSR[:, s])) for s in range(votes_SRP.shape[0])),
    )


def _slope(rate_BR: Floats) -> Floats:
    """Least-squares slope over rounds 1, 2, ... of each row."""
    round_R = np.arange(rate_BR.shape[1]) - (rate_BR.shape[1] - 1) / 2
    return np.asarray(rate_BR @ round_R / (round_R @ round_R))
