"""Who answers at random? Each labeler's share of signal, from agreement alone: nobody needs to know the truth.

If a labeler follows the common taste with skill c (1: always, 0: a coin, below 0: against it), and two labelers err
independently, they agree on a share 1/2 + c_i c_j / 2 of the pairs both decided. So

    2 a_ij - 1 = c_i c_j        for every two labelers: a matrix of rank one off its diagonal

and the c are found by least squares, weighted by the pairs counted (the one-coin model of Dawid & Skene 1979; this
spectral form: Ghosh, Kale & McAfee 2011). An honest person whose taste differs has a lower c than others, a spammer
has none: that is why the rule below asks for an interval near zero and not only for a low rank.

Products of two say nothing about each factor until a third joins: of two people who only ever share prompts with each
other one may err, but not which. So skills are known where a group that shares prompts has a ring of odd length in it
(three people, each sharing prompts with both others, are one).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from wuya.feedback.pair_votes import PairVotes

Floats = NDArray[np.float64]
SPAM_SHARE = 0.4
"""A labeler is suspect whose skill lies, surely, below this share of the median labeler's."""
MIN_PAIRS = 30
"""Nobody is judged on fewer pairs of answers, counted once for each other labeler."""


@dataclass(frozen=True, slots=True)
class Skill:
    """How much of a labeler's votes is the taste all share."""

    labeler: str
    skill: float
    """Correlation with the common taste, about 0.7 for people who agree on three pairs in four."""
    low: float
    high: float
    """95 % interval, resampling prompts."""
    num_pairs: int
    """Pairs of answers both decided, over all other labelers."""
    suspect: bool
    """The interval lies below `SPAM_SHARE` of the median labeler's skill."""


def labeler_skills(votes: PairVotes, *, num_samples: int = 200, seed: int = 0) -> list[Skill]:
    """Every labeler's skill, the least skilled first; NaN and no suspect where the votes can't tell."""
    agree, both = votes.counts_ULL()
    units, count = len(agree), len(votes.labelers)
    if units == 0:
        return []
    best = fit_skills(agree.sum(axis=0), both.sum(axis=0))
    rng = np.random.default_rng(seed)
    flat_agree, flat_both = agree.reshape(units, -1), both.reshape(units, -1)
    drawn = []
    for _ in range(num_samples):
        times_U = rng.multinomial(units, np.full(units, 1 / units)).astype(np.float64)
        drawn.append(
            fit_skills((times_U @ flat_agree).reshape(count, count), (times_U @ flat_both).reshape(count, count))
        )
    samples_SL = np.array(drawn or [best])
    pairs_L = both.sum(axis=(0, 2))
    rows = []
    for i, labeler in enumerate(votes.labelers):
        known = samples_SL[~np.isnan(samples_SL[:, i]), i]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
        others = [float(c) for j, c in enumerate(best) if j != i and not math.isnan(c)]
        limit = SPAM_SHARE * median(others) if others else math.nan
        suspect = bool(pairs_L[i] >= MIN_PAIRS and high < limit)
        rows.append(Skill(labeler, float(best[i]), float(low), float(high), int(pairs_L[i]), suspect))
    return sorted(rows, key=lambda row: (math.isnan(row.skill), row.skill))


def fit_skills(agree_LL: Floats, both_LL: Floats, *, steps: int = 200) -> Floats:
    """c_L that fits 2 agree / both - 1 = c_i c_j off the diagonal, weights `both`; alternating least squares.

    NaN for whom the products leave open: see `identified`.
    """
    signal_LL = np.divide(2 * agree_LL, both_LL, out=np.ones_like(agree_LL), where=both_LL > 0) - 1
    met_L = identified(both_LL > 0)
    skills_L = np.where(met_L, 0.7, 0.0)
    for _ in range(steps):
        before = skills_L.copy()
        for i in np.flatnonzero(met_L):  # the best c_i with all others fixed
            bottom = float(both_LL[i] @ skills_L**2)
            skills_L[i] = np.clip(float(both_LL[i] @ (signal_LL[i] * skills_L)) / bottom, -1, 1) if bottom else 0.0
        if np.abs(skills_L - before).max() < 1e-6:
            break
    return np.where(met_L, skills_L, np.nan)


def identified(met_LL: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whose skill the products c_i c_j determine: members of a connected group with an odd ring.

    Args:
        met_LL: whether two labelers decided a pair of answers both; symmetric.
    """
    side_L = np.zeros(len(met_LL), dtype=int)  # +1 and -1 as far as a group can be split in two halves that never meet
    known_L = np.zeros(len(met_LL), dtype=bool)
    for start in range(len(met_LL)):
        if side_L[start]:
            continue
        side_L[start], group, odd = 1, [start], False
        for i in group:  # grows
            for j in np.flatnonzero(met_LL[i]):
                if j != i and not side_L[j]:
                    side_L[j] = -side_L[i]
                    group.append(int(j))
                odd = odd or (j != i and side_L[j] == side_L[i])
        known_L[group] = odd
    return known_L


def suspects(skills: Sequence[Skill]) -> list[str]:
    """Names of those who should be looked at before their votes are trained on."""
    return [row.labeler for row in skills if row.suspect]
