"""Do people change? Every labeler's agreement with the others, week by week, and who fell.

A person grows tired, learns the guide, or hands the account to somebody else. Each week's agreement has an interval
over that week's prompts; a labeler drifts when the last weeks lie below the weeks before by more than chance allows.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from wuya.data.messages import prompt_key
from wuya.feedback.agreement import ClusterInterval, cluster_bootstrap
from wuya.feedback.pair_votes import PairVotes
from wuya.records import Ranking

MIN_PROMPTS = 20
"""Nobody is judged on fewer prompts on either side."""
MIN_FALL = 0.05
"""Share of pairs; with many prompts an interval alone finds falls that matter to nobody."""


@dataclass(frozen=True, slots=True)
class WeekAgreement:
    """One labeler in one week."""

    labeler: str
    week: str
    """ISO 8601, as in 2026-W47."""
    with_others: ClusterInterval


@dataclass(frozen=True, slots=True)
class Drift:
    """A labeler's latest prompts against those before."""

    labeler: str
    before: float
    after: float
    """Agreement with the others."""
    low: float
    high: float
    """95 % interval of after - before, prompts of both sides resampled."""

    @property
    def fell(self) -> bool:
        """The change is surely downwards, and large enough to matter."""
        return self.high < 0 and self.before - self.after >= MIN_FALL


def iso_week(moment: str) -> str:
    """`2026-W47` of an ISO time; empty where there is none."""
    try:
        year, week, _ = datetime.fromisoformat(moment).isocalendar()
    except ValueError:
        return ""
    return f"{year}-W{week:02d}"


def weekly_agreement(rankings: Sequence[Ranking], *, seed: int = 0) -> list[WeekAgreement]:
    """Agreement with the others by labeler and week of the labeler's own vote; votes without a time are left out."""
    rows = []
    for labeler, history in _histories(rankings).items():
        weeks: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for moment, agree, both in history:
            if week := iso_week(moment):
                weeks[week].append((agree, both))
        for week, counts in sorted(weeks.items()):
            tops, bottoms = zip(*counts, strict=True)
            rows.append(WeekAgreement(labeler, week, cluster_bootstrap(tops, bottoms, seed=seed)))
    return rows


def drifts(
    rankings: Sequence[Ranking], *, last_share: float = 0.25, num_samples: int = 1000, seed: int = 0
) -> list[Drift]:
    """Each labeler's last quarter of prompts (by time) against those before, the steepest fall first."""
    found = []
    for labeler, history in _histories(rankings).items():
        in_time = sorted(history, key=lambda row: row[0])  # by time alone: votes of one moment keep their order
        if in_time[0][0] == in_time[-1][0]:
            continue  # all written at once, an import: there is no before
        counts_U2 = np.array([(agree, both) for _, agree, both in in_time if both > 0])
        cut = round(len(counts_U2) * (1 - last_share))
        if min(cut, len(counts_U2) - cut) < MIN_PROMPTS:
            continue
        rng = np.random.default_rng(seed)
        shares = []
        for part in (counts_U2[:cut], counts_U2[cut:]):
            times_SU = rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=num_samples)
            sums_S2 = times_SU @ part
            shares.append(
                (float(part[:, 0].sum() / part[:, 1].sum()), sums_S2[:, 0] / np.maximum(sums_S2[:, 1], 1e-12))
            )
        (before, before_S), (after, after_S) = shares
        low, high = np.quantile(after_S - before_S, [0.025, 0.975])
        found.append(Drift(labeler, before, after, float(low), float(high)))
    return sorted(found, key=lambda row: row.after - row.before if not math.isnan(row.after) else 0.0)


def _histories(rankings: Iterable[Ranking]) -> dict[str, list[tuple[str, float, float]]]:
    """labeler -> (when it voted, agreements with others, pairs counted) for each prompt it shares with others."""
    by_unit: dict[tuple[str, int], list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        by_unit[prompt_key(ranking.prompt), ranking.round].append(ranking)
    histories: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for group in by_unit.values():
        if len(group) < 2:
            continue
        votes = PairVotes.of(group)
        agree, both = (counts.sum(axis=(0, 2)) for counts in votes.counts_ULL())
        moments = {ranking.labeler: ranking.created_at for ranking in group}
        for i, labeler in enumerate(votes.labelers):
            histories[labeler].append((moments[labeler], float(agree[i]), float(both[i])))
    return histories
