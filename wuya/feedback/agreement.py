"""How far people agree, and how well a model could do at best: pairwise agreement, Kendall, Krippendorff, Cohen.

Agreement between labelers on comparisons is what InstructGPT reports (section 3.4: 72.6 +- 1.5 % for training labelers,
77.3 +- 1.3 % for held-out ones). It is not the ceiling of a reward model: see `agreement_ceiling`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wuya.data.messages import prompt_key
from wuya.records import Ranking


@dataclass(frozen=True, slots=True)
class ClusterInterval:
    """A mean with its 95 % interval and what it was counted on."""

    mean: float
    low: float
    high: float
    num_pairs: int
    num_prompts: int


def cluster_bootstrap(
    numerators: ArrayLike, denominators: ArrayLike, *, num_samples: int = 1000, seed: int = 0, level: float = 0.95
) -> ClusterInterval:
    """Interval of sum(numerators) / sum(denominators), resampling whole clusters (prompts), by percentiles.

    Votes on one prompt depend on each other; resampling single votes would make the interval too narrow.
    """
    top_P, bottom_P = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    kept_P = bottom_P > 0
    top_P, bottom_P = top_P[kept_P], bottom_P[kept_P]
    count = len(top_P)
    if count == 0:
        return ClusterInterval(math.nan, math.nan, math.nan, 0, 0)
    rng = np.random.default_rng(seed)
    times_SP = rng.multinomial(count, np.full(count, 1.0 / count), size=num_samples).astype(np.float64)
    ratios_S = (times_SP @ top_P) / (times_SP @ bottom_P)
    low, high = np.quantile(ratios_S, [(1 - level) / 2, (1 + level) / 2])
    return ClusterInterval(float(top_P.sum() / bottom_P.sum()), float(low), float(high), round(bottom_P.sum()), count)


def pairwise_agreement(
    rankings: Iterable[Ranking],
    *,
    ties: Literal["drop", "half", "match"] = "drop",
    num_samples: int = 1000,
    seed: int = 0,
) -> ClusterInterval:
    """Share of pairs of answers that two labelers who ranked the same prompt order the same way.

    Args:
        rankings: any number of prompts and labelers; answers are matched by prompt id, round and text.
        ties: `drop` leaves out pairs that either labeler ties (the reward model never sees them), `half` counts those
            as half an agreement, `match` counts two ties as agreement and one as disagreement.
    Returns: mean and interval; `num_pairs` counts (pair of answers, pair of labelers).
    """
    counts = agreement_counts(rankings, ties=ties).values()
    return cluster_bootstrap([a for a, _ in counts], [n for _, n in counts], num_samples=num_samples, seed=seed)


def agreement_counts(
    rankings: Iterable[Ranking], *, ties: Literal["drop", "half", "match"] = "drop"
) -> dict[tuple[str, int], tuple[float, int]]:
    """(agreements, pairs counted) of each prompt and round, as `pairwise_agreement` sums them."""
    by_prompt: dict[tuple[str, int], list[dict[str, int]]] = defaultdict(list)
    for ranking in rankings:
        ranks = {c.text: r for c, r in zip(ranking.candidates, ranking.ranks, strict=True)}
        by_prompt[prompt_key(ranking.prompt), ranking.round].append(ranks)
    return {key: _agreements(group, ties) for key, group in by_prompt.items()}


def _agreements(group: Sequence[dict[str, int]], ties: str) -> tuple[float, int]:
    """(agreements, pairs counted) among all labelers of one prompt."""
    agreements, counted = 0.0, 0
    for first, second in combinations(group, 2):
        for a, b in combinations(sorted(first.keys() & second.keys()), 2):
            x, y = _sign(first[a] - first[b]), _sign(second[a] - second[b])
            if x * y != 0 or ties == "match":
                agreements, counted = agreements + float(x == y), counted + 1
            elif ties == "half":
                agreements, counted = agreements + 0.5, counted + 1
    return agreements, counted


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


def agreement_ceiling(agreement: float) -> float:
    """Best possible accuracy against one individual vote, when two labelers agree on a share `agreement` of pairs.

    For independent normal noise on the utilities: 1/2 + asin(sqrt(sin(pi (a - 1/2)))) / pi; .75 gives .818. A model as
    accurate as the agreement is as good as one labeler; one above the ceiling has seen the answers (a leak).
    """
    if not 0.5 <= agreement <= 1.0:
        raise ValueError(f"agreement must lie in [0.5, 1], found {agreement}")
    return float(ceiling_of(agreement))


def ceiling_of(agreement_S: ArrayLike) -> NDArray[np.float64]:
    """`agreement_ceiling` of each; below 1/2, where labelers contradict each other, the ceiling is 1/2."""
    sine_S = np.sin(math.pi * (np.clip(np.asarray(agreement_S, dtype=np.float64), 0.5, 1.0) - 0.5))
    return np.asarray(0.5 + np.arcsin(np.sqrt(sine_S)) / math.pi)


def kendall_tau_b(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b of two score or rank vectors, ties corrected; NaN where one is constant. O(n^2) memory."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"need two vectors of one length, found shapes {a.shape} and {b.shape}")
    upper = np.triu_indices(len(a), k=1)
    sign_a, sign_b = np.sign(a[:, None] - a)[upper], np.sign(b[:, None] - b)[upper]
    untied = math.sqrt(float(np.abs(sign_a).sum()) * float(np.abs(sign_b).sum()))
    return float((sign_a * sign_b).sum()) / untied if untied else math.nan


def mean_kendall_tau(rankings: Iterable[Ranking], *, num_samples: int = 1000, seed: int = 0) -> ClusterInterval:
    """Mean tau-b over pairs of labelers who ranked the same prompt; rankings that tie everything are left out."""
    by_prompt: dict[tuple[str, int], list[dict[str, int]]] = defaultdict(list)
    for ranking in rankings:
        ranks = {c.text: r for c, r in zip(ranking.candidates, ranking.ranks, strict=True)}
        by_prompt[prompt_key(ranking.prompt), ranking.round].append(ranks)
    tops, bottoms = [], []
    for group in by_prompt.values():
        taus = []
        for first, second in combinations(group, 2):
            texts = sorted(first.keys() & second.keys())
            taus.append(kendall_tau_b([first[t] for t in texts], [second[t] for t in texts]))
        known = [tau for tau in taus if not math.isnan(tau)]
        tops.append(sum(known))
        bottoms.append(len(known))
    return cluster_bootstrap(tops, bottoms, num_samples=num_samples, seed=seed)


def krippendorff_alpha(ratings_LN: ArrayLike, *, level: Literal["nominal", "ordinal", "interval"] = "ordinal") -> float:
    """Krippendorff's alpha of L labelers' ratings of N items; NaN marks a missing rating (Krippendorff 2011).

    1 is perfect agreement, 0 what chance gives. Items rated once say nothing and are left out; NaN where no item is
    rated twice or all ratings are equal.
    """
    ratings = np.asarray(ratings_LN, dtype=np.float64)
    values = np.unique(ratings[~np.isnan(ratings)])
    counts_NV = (
        np.stack([(ratings == value).sum(axis=0) for value in values], axis=1).astype(np.float64)
        if len(values)
        else np.zeros((0, 0))
    )
    counts_NV = counts_NV[counts_NV.sum(axis=1) >= 2]
    if len(counts_NV) == 0:
        return math.nan
    # Coincidence matrix: every ordered pair of ratings of one item, weighted so that an item counts by its ratings.
    weights_N1 = 1.0 / (counts_NV.sum(axis=1, keepdims=True) - 1.0)
    coincidences_VV = counts_NV.T @ (counts_NV * weights_N1) - np.diag((counts_NV * weights_N1).sum(axis=0))
    totals_V = coincidences_VV.sum(axis=1)
    distances_VV = _squared_distances(values, totals_V, level)
    expected = float(totals_V @ distances_VV @ totals_V) / (totals_V.sum() - 1.0)
    return 1.0 - float((coincidences_VV * distances_VV).sum()) / expected if expected else math.nan


def _squared_distances(values: NDArray[np.float64], totals_V: NDArray[np.float64], level: str) -> NDArray[np.float64]:
    """delta^2 between every two values on the given scale."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return np.square(values[:, None] - values)
    middle_V = np.cumsum(totals_V) - totals_V / 2  # ordinal: how many ratings lie between, ends counted half
    return np.square(middle_V[:, None] - middle_V)


def cohens_kappa(a: ArrayLike, b: ArrayLike, *, weights: Literal["linear", "quadratic"] | None = None) -> float:
    """Cohen's kappa of two labelers on the same items, perhaps weighted by distance; NaN if all ratings are equal."""
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"need two vectors of one length, found shapes {x.shape} and {y.shape}")
    values, codes = np.unique(np.concatenate([x, y]), return_inverse=True)
    num = len(values)
    table_VV = np.zeros((num, num))
    np.add.at(table_VV, (codes[: len(x)], codes[len(x) :]), 1.0)
    expected_VV = np.outer(table_VV.sum(axis=1), table_VV.sum(axis=0)) / max(len(x), 1)
    gap_VV = np.abs(np.arange(num)[:, None] - np.arange(num)).astype(np.float64)
    cost_VV = {None: (gap_VV > 0).astype(np.float64), "linear": gap_VV, "quadratic": gap_VV**2}[weights]
    chance = float((cost_VV * expected_VV).sum())
    return 1.0 - float((cost_VV * table_VV).sum()) / chance if chance else math.nan
