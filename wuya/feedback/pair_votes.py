"""Everybody's votes on every pair of answers as one array: what labelers are compared with each other by.

Shapes: L labelers, N pairs of answers, U units (a prompt in a round: votes on one prompt depend on each other).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from wuya.data.messages import prompt_key
from wuya.feedback.agreement import ClusterInterval, cluster_bootstrap
from wuya.records import Ranking

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairVotes:
    """Who said what about which pair of answers."""

    labelers: tuple[str, ...]
    votes_LN: NDArray[np.int8]
    """1: the first answer is better, -1: the second, 0: a tie, or not asked."""
    asked_LN: NDArray[np.bool_]
    unit_N: NDArray[np.int64]

    @classmethod
    def of(cls, rankings: Iterable[Ranking]) -> "PairVotes":
        """Answers are matched by prompt id, round and text; the first of a pair is the one first in the alphabet."""
        by_unit: dict[tuple[str, int], dict[str, dict[str, int]]] = defaultdict(dict)
        for ranking in rankings:
            ranks = {c.text: rank for c, rank in zip(ranking.candidates, ranking.ranks, strict=True)}
            by_unit[prompt_key(ranking.prompt), ranking.round].setdefault(ranking.labeler, {}).update(ranks)
        labelers = tuple(sorted({labeler for group in by_unit.values() for labeler in group}))
        columns: list[dict[str, int]] = []
        units: list[int] = []
        for unit, group in enumerate(by_unit.values()):
            texts = sorted({text for ranks in group.values() for text in ranks})
            for first, second in combinations(texts, 2):
                column = {who: r[second] - r[first] for who, r in group.items() if first in r and second in r}
                if column:
                    columns.append(column)
                    units.append(unit)
        votes_LN, asked_LN = (
            np.zeros((len(labelers), len(columns)), np.int8),
            np.zeros((len(labelers), len(columns)), bool),
        )
        place = {labeler: number for number, labeler in enumerate(labelers)}
        for n, column in enumerate(columns):
            for labeler, difference in column.items():
                votes_LN[place[labeler], n] = (difference > 0) - (difference < 0)
                asked_LN[place[labeler], n] = True
        return cls(labelers, votes_LN, asked_LN, np.array(units, dtype=np.int64))

    def counts_ULL(self) -> tuple[Floats, Floats]:
        """(agreements, pairs both decided) of each two labelers in each unit; a labeler with itself counts nothing."""
        labelers, units = len(self.labelers), int(self.unit_N.max(initial=-1)) + 1
        agree, both = np.zeros((units, labelers, labelers)), np.zeros((units, labelers, labelers))
        ends = np.searchsorted(self.unit_N, np.arange(units + 1))
        for unit in range(units):
            sign = self.votes_LN[:, ends[unit] : ends[unit + 1]].astype(np.float64)
            both[unit] = np.abs(sign) @ np.abs(sign).T
            agree[unit] = (both[unit] + sign @ sign.T) / 2
        for counts in (agree, both):
            counts[:, np.arange(labelers), np.arange(labelers)] = 0.0
        return agree, both

    def ratings_LN(self) -> Floats:
        """The votes with NaN where nobody was asked, as `krippendorff_alpha` takes them."""
        return np.where(self.asked_LN, self.votes_LN.astype(np.float64), np.nan)


@dataclass(frozen=True, slots=True)
class LabelerAgreement:
    """How one labeler agrees with the others."""

    labeler: str
    with_others: ClusterInterval
    """Share of pairs of answers ordered as another labeler orders them, over all others; ties left out."""
    tie_share: float
    """Of all pairs asked."""


def agreement_matrix(votes: PairVotes) -> tuple[Floats, Floats]:
    """(share of agreement, pairs counted) of each two labelers; NaN where they share none. Ties are left out."""
    agree, both = (counts.sum(axis=0) for counts in votes.counts_ULL())
    return np.divide(agree, both, out=np.full_like(agree, np.nan), where=both > 0), both


def each_with_the_others(votes: PairVotes, *, num_samples: int = 1000, seed: int = 0) -> list[LabelerAgreement]:
    """Every labeler's agreement with all others, with intervals over prompts; the least agreeing first."""
    agree, both = votes.counts_ULL()
    found = []
    for number, labeler in enumerate(votes.labelers):
        interval = cluster_bootstrap(
            agree[:, number].sum(axis=1), both[:, number].sum(axis=1), num_samples=num_samples, seed=seed
        )
        asked = votes.asked_LN[number]
        ties = float((votes.votes_LN[number][asked] == 0).mean()) if asked.any() else 0.0
        found.append(LabelerAgreement(labeler, interval, ties))
    return sorted(found, key=lambda row: (np.isnan(row.with_others.mean), row.with_others.mean))
