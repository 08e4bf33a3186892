"""Elo ratings, as chess and chatbot arenas keep them: one pass, each battle moves two players.

    E_a = 1 / (1 + 10^((R_b - R_a) / 400));   R_a += K (outcome - E_a),  R_b -= the same

The result depends on the order of the battles, so `elo_ratings` averages over shuffles. It suits a live table that a
vote moves at once; for a figure to report, use `bradley_terry.rate`, which has no order and an interval.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from wuya.feedback.bradley_terry import MEAN_RATING, Battle

K = 4.0
"""Points a surprise can move a player; FastChat's arena uses 4, chess 10 to 40."""


def expected_score(rating_a: float, rating_b: float) -> float:
    """P(a wins) + P(tie) / 2; 200 points more give .7597."""
    return float(1 / (1 + 10 ** ((rating_b - rating_a) / 400)))


def elo_in_order(battles: Iterable[Battle], *, k: float = K) -> dict[str, float]:
    """Ratings after the battles in the order given."""
    ratings: dict[str, float] = {}
    for battle in battles:
        a, b = (ratings.get(name, MEAN_RATING) for name in (battle.a, battle.b))
        moved = k * (battle.outcome - expected_score(a, b))
        ratings[battle.a], ratings[battle.b] = a + moved, b - moved
    return ratings


def elo_ratings(battles: Sequence[Battle], *, k: float = K, num_shuffles: int = 20, seed: int = 0) -> dict[str, float]:
    """Mean ratings over shuffled orders, best first."""
    rng = np.random.default_rng(seed)
    orders = [elo_in_order([battles[i] for i in rng.permutation(len(battles))], k=k) for _ in range(num_shuffles)]
    mean = {name: float(np.mean([order[name] for order in orders])) for name in (orders[0] if orders else {})}
    return dict(sorted(mean.items(), key=lambda item: -item[1]))
