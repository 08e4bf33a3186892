"""Strengths of models (or strictness of labelers) from who beat whom: Bradley-Terry, and Davidson where ties count.

    Bradley-Terry (1952)   P(a beats b) = s_a / (s_a + s_b)
    Davidson (1970, Eq. 2) P(a beats b) = s_a / (s_a + s_b + nu sqrt(s_a s_b)),  P(tie) = nu sqrt(s_a s_b) / (same)

Both are softmax models in log s (and log nu), so their log-likelihood is concave and Newton's method finds its top.
Ratings are on Elo's scale: 400 points are odds of 10 to 1, the mean player has 1000.

Shapes: P players, N battles, S bootstrap samples.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from wuya.data.messages import prompt_key
from wuya.records import Candidate, Ranking

ELO_PER_NAT = 400 / math.log(10)
MEAN_RATING = 1000.0
RIDGE = 1e-6
"""Keeps a player who never lost at a finite rating (about 14 nats); moves others by less than a millionth."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Battle:
    """Two players met once."""

    unit: str
    """What is drawn together when resampling: the prompt, for battles on one prompt depend on each other."""
    a: str
    b: str
    outcome: float
    """1 = a won, 0 = b won, .5 = a tie."""


@dataclass(frozen=True, slots=True)
class Rating:
    """One player's place, with its 95 % bootstrap interval."""

    player: str
    rating: float
    low: float
    high: float
    battles: int
    win_share: float
    """Wins plus half the ties, of all its battles."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """All players, best first."""

    players: tuple[Rating, ...]
    connected: bool
    """False: some players never met, not even through others; their ratings can't be compared."""
    tie_odds: float | None = None
    """Davidson's nu: equals tie in a share nu / (2 + nu) of their battles. None for Bradley-Terry."""

    def probability(self, a: str, b: str) -> float:
        """P(a is preferred to b), a tie counting half."""
        strength = {r.player: math.exp((r.rating - MEAN_RATING) / ELO_PER_NAT) for r in self.players}
        root = (self.tie_odds or 0.0) * math.sqrt(strength[a] * strength[b])
        return (strength[a] + root / 2) / (strength[a] + strength[b] + root)


def rate(battles: Sequence[Battle], *, davidson: bool = False, num_samples: int = 200, seed: int = 0) -> Ratings:
    """Ratings of everyone who met somebody.

    Args:
        davidson: model ties as an outcome; else a tie is half a win for each (as FastChat's arena counts it).
        num_samples: bootstrap resamples of units; 0 gives intervals of no width.
    """
    players = sorted({name for battle in battles for name in (battle.a, battle.b)})
    place = {name: number for number, name in enumerate(players)}
    a_N, b_N = (np.array([place[getattr(x, side)] for x in battles], dtype=np.int64) for side in ("a", "b"))
    outcome_N = np.array([battle.outcome for battle in battles], dtype=np.float64)
    units = {unit: number for number, unit in enumerate(dict.fromkeys(battle.unit for battle in battles))}
    unit_N = np.array([units[battle.unit] for battle in battles], dtype=np.int64)
    if not battles:
        return Ratings((), connected=True, tie_odds=0.0 if davidson else None)

    def strengths(weights_N: Floats, start: Floats | None = None) -> Floats:
        wins_PP, ties_PP = count_battles(a_N, b_N, outcome_N, weights_N, num_players=len(players))
        return fit_davidson(wins_PP, ties_PP, start) if davidson else fit_bradley_terry(wins_PP + ties_PP / 2, start)

    best = strengths(np.ones(len(battles)))
    rng = np.random.default_rng(seed)
    chance_U = np.full(len(units), 1 / len(units))
    drawn = [strengths(rng.multinomial(len(units), chance_U)[unit_N].astype(float), best) for _ in range(num_samples)]
    low_P, high_P = np.quantile(np.array(drawn or [best]), [0.025, 0.975], axis=0)
    played_P, won_P = _played(a_N, b_N, outcome_N, len(players))
    rows = [
        Rating(
            player=name,
            rating=_elo(best[i]),
            low=_elo(low_P[i]),
            high=_elo(high_P[i]),
            battles=int(played_P[i]),
            win_share=float(won_P[i] / played_P[i]),
        )
        for i, name in enumerate(players)
    ]
    nu = math.exp(best[-1]) if davidson else None
    return Ratings(tuple(sorted(rows, key=lambda r: -r.rating)), _connected(a_N, b_N, len(players)), nu)


def fit_bradley_terry(wins_PP: Floats, start: Floats | None = None) -> Floats:
    """Log strengths, mean 0, [P], that make the wins most likely. wins_PP[i, j]: how often i beat j, ties half."""
    return _newton(wins_PP, None, start)


def fit_davidson(wins_PP: Floats, ties_PP: Floats, start: Floats | None = None) -> Floats:
    """Log strengths with mean 0, then log nu, [P + 1]. ties_PP is symmetric: each tie stands in both places."""
    return _newton(wins_PP, ties_PP, start)


def count_battles(
    a_N: NDArray[np.int64], b_N: NDArray[np.int64], outcome_N: Floats, weights_N: Floats, *, num_players: int
) -> tuple[Floats, Floats]:
    """(wins_PP, ties_PP) of weighted battles; a tie stands in both [a, b] and [b, a] of ties_PP."""
    wins_PP, ties_PP = np.zeros((num_players, num_players)), np.zeros((num_players, num_players))
    tied_N = outcome_N == 0.5
    np.add.at(wins_PP, (a_N, b_N), weights_N * (outcome_N == 1))
    np.add.at(wins_PP, (b_N, a_N), weights_N * (outcome_N == 0))
    np.add.at(ties_PP, (a_N, b_N), weights_N * tied_N)
    np.add.at(ties_PP, (b_N, a_N), weights_N * tied_N)
    return wins_PP, ties_PP


def _newton(wins_PP: Floats, ties_PP: Floats | None, start: Floats | None) -> Floats:
    """Top of the concave log-likelihood: steps of observed less expected features over their covariance."""
    players, with_ties = len(wins_PP), ties_PP is not None
    x = np.zeros(players + with_ties) if start is None else start.copy()
    value = _log_likelihood(x, wins_PP, ties_PP)
    for _ in range(100):
        gradient, hessian = _derivatives(x, wins_PP, ties_PP)
        step = np.linalg.solve(hessian + RIDGE * np.eye(len(x)), gradient - RIDGE * x)
        size = 1.0
        while (tried := _log_likelihood(x + size * step, wins_PP, ties_PP)) < value - 1e-12 and size > 1e-6:
            size /= 2
        x, value = x + size * step, tried
        if np.abs(step).max() < 1e-10:
            break
    x[:players] -= x[:players].mean()
    return x


def _probabilities(x: Floats, players: int, with_ties: bool) -> tuple[Floats, Floats]:
    """(P(i beats j)_PP, P(tie)_PP)."""
    s_P = x[:players]
    half_PP = (s_P[:, None] - s_P[None, :]) / 2  # divide by sqrt(s_i s_j): nothing overflows for ratings near another
    win_PP, lose_PP = np.exp(half_PP), np.exp(-half_PP)
    tie_PP = np.full_like(win_PP, math.exp(x[-1])) if with_ties else np.zeros_like(win_PP)
    total_PP = win_PP + lose_PP + tie_PP
    return win_PP / total_PP, tie_PP / total_PP


def _log_likelihood(x: Floats, wins_PP: Floats, ties_PP: Floats | None) -> float:
    if np.abs(x).max() > 300:
        return -math.inf
    win_PP, tie_PP = _probabilities(x, len(wins_PP), ties_PP is not None)
    total = float((wins_PP * np.log(win_PP)).sum())
    if ties_PP is not None:
        total += float((ties_PP * np.log(tie_PP)).sum()) / 2
    return total - RIDGE / 2 * float(x @ x)


def _derivatives(x: Floats, wins_PP: Floats, ties_PP: Floats | None) -> tuple[Floats, Floats]:
    """Gradient and negative Hessian. Features of an outcome: +1/2 winner, -1/2 loser, 0 and nu for a tie."""
    players = len(wins_PP)
    win_PP, tie_PP = _probabilities(x, players, ties_PP is not None)
    met_PP = wins_PP + wins_PP.T + (0.0 if ties_PP is None else ties_PP)
    np.fill_diagonal(met_PP, 0.0)
    edge_PP = win_PP - win_PP.T  # expected +1/2, -1/2 features, times 2
    gradient = ((wins_PP - wins_PP.T - met_PP * edge_PP) / 2).sum(axis=1)
    spread_PP = met_PP * (win_PP + win_PP.T - edge_PP**2) / 4
    hessian = np.diag(spread_PP.sum(axis=1)) - spread_PP
    if ties_PP is None:
        return gradient, hessian
    tied = float((ties_PP - met_PP * tie_PP).sum()) / 2
    cross_P = -(met_PP * edge_PP * tie_PP / 2).sum(axis=1)
    corner = float((met_PP * tie_PP * (1 - tie_PP)).sum()) / 2
    return np.append(gradient, tied), np.block([[hessian, cross_P[:, None]], [cross_P[None, :], np.array([[corner]])]])


def _elo(log_strength: float) -> float:
    return float(MEAN_RATING + ELO_PER_NAT * log_strength)


def _played(a_N: NDArray[np.int64], b_N: NDArray[np.int64], outcome_N: Floats, players: int) -> tuple[Floats, Floats]:
    played_P = np.bincount(a_N, minlength=players) + np.bincount(b_N, minlength=players)
    won_P = np.bincount(a_N, outcome_N, minlength=players) + np.bincount(b_N, 1 - outcome_N, minlength=players)
    return played_P.astype(np.float64), np.asarray(won_P, dtype=np.float64)


def _connected(a_N: NDArray[np.int64], b_N: NDArray[np.int64], players: int) -> bool:
    """Whether everyone met everyone, perhaps through others."""
    met_PP = np.eye(players, dtype=bool)
    met_PP[a_N, b_N] = met_PP[b_N, a_N] = True
    reached_P = met_PP[0]
    for _ in range(players):
        reached_P = met_PP[reached_P].any(axis=0)
    return bool(reached_P.all())


# Who met whom


def model_battles(
    rankings: Iterable[Ranking], *, player: Callable[[Candidate], str] = lambda candidate: candidate.model
) -> list[Battle]:
    """Every pair of a ranking's answers that different models gave; equal ranks are a tie."""
    battles = []
    for ranking in rankings:
        ranked = [(player(c), rank) for c, rank in zip(ranking.candidates, ranking.ranks, strict=True)]
        for (a, rank_a), (b, rank_b) in combinations(ranked, 2):
            if a != b and a and b:
                outcome = 0.5 if rank_a == rank_b else float(rank_a < rank_b)
                battles.append(Battle(prompt_key(ranking.prompt), a, b, outcome))
    return battles


def strictness_battles(grades: Iterable[tuple[str, str, float]]) -> list[Battle]:
    """Labelers as players: of two who graded the same answer, the one who gave less is the stricter.

    Args:
        grades: (what was graded, labeler, grade), higher being kinder: overall quality 1-7, or a thumb.
    """
    by_item: dict[str, dict[str, float]] = {}
    for item, labeler, grade in grades:
        by_item.setdefault(item, {})[labeler] = grade
    battles = []
    for item, given in by_item.items():
        for a, b in combinations(sorted(given), 2):
            outcome = 0.5 if given[a] == given[b] else float(given[a] < given[b])
            battles.append(Battle(item, a, b, outcome))
    return battles
