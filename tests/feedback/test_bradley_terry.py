"""Ratings against brute force, scikit-learn, closed forms, and populations whose strengths are known."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from wuya.data.messages import prompt_key
from wuya.feedback.bradley_terry import (
    ELO_PER_NAT,
    Battle,
    fit_bradley_terry,
    fit_davidson,
    model_battles,
    rate,
    strictness_battles,
)
from wuya.feedback.elo import elo_in_order, elo_ratings, expected_score
from wuya.records import Candidate, Message, Prompt, Ranking


def random_counts(seed: int, players: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    wins_PP = rng.integers(0, 9, (players, players)).astype(float)
    wins_PP[0, 1] = wins_PP[1, 0] = 0  # these two never met
    np.fill_diagonal(wins_PP, 0)
    ties_PP = np.triu(rng.integers(0, 5, (players, players)), 1).astype(float)
    ties_PP[0, 1] = 0
    return wins_PP, ties_PP + ties_PP.T


def brute_force(wins_PP: np.ndarray, ties_PP: np.ndarray | None) -> np.ndarray:
    """The textbook likelihoods, written out pair by pair, by a general optimiser."""
    players = len(wins_PP)

    def loss(x: np.ndarray) -> float:
        s, nu, total = np.exp(x[:players]), np.exp(x[-1]) if ties_PP is not None else 0.0, 0.0
        for i in range(players):
            for j in range(players):
                if i != j:
                    bottom = s[i] + s[j] + nu * math.sqrt(s[i] * s[j])
                    total -= wins_PP[i, j] * math.log(s[i] / bottom)
                    if ties_PP is not None and i < j:
                        total -= ties_PP[i, j] * math.log(nu * math.sqrt(s[i] * s[j]) / bottom)
        return total

    x = minimize(loss, np.zeros(players + (ties_PP is not None)), method="BFGS", options={"gtol": 1e-7}).x
    x[:players] -= x[:players].mean()
    return x


@pytest.mark.parametrize("seed", range(4))
def test_bradley_terry_equals_brute_force_with_ties_and_pairs_that_never_met(seed: int) -> None:
    wins_PP, ties_PP = random_counts(seed)
    halves_PP = wins_PP + ties_PP / 2
    np.testing.assert_allclose(fit_bradley_terry(halves_PP), brute_force(halves_PP, None), atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_davidson_equals_brute_force(seed: int) -> None:
    wins_PP, ties_PP = random_counts(seed)
    np.testing.assert_allclose(fit_davidson(wins_PP, ties_PP), brute_force(wins_PP, ties_PP), atol=1e-4)


def test_ratings_equal_the_arenas_logistic_regression() -> None:
    """FastChat: no intercept, a row of +1 for a and -1 for b, ties once as each side's win at half the weight."""
    rng = np.random.default_rng(0)
    strength = np.array([0.0, 0.4, 1.1, -0.7])
    battles, rows, wins, weights = [], [], [], []
    for n in range(600):
        a, b = rng.choice(4, size=2, replace=False)
        outcome = 0.5 if rng.random() < 0.2 else float(rng.random() < 1 / (1 + math.exp(strength[b] - strength[a])))
        battles.append(Battle(f"p{n}", f"m{a}", f"m{b}", outcome))
        for won, weight in ((1, outcome), (0, 1 - outcome)):
            if weight:
                rows.append(np.eye(4)[a] - np.eye(4)[b])
                wins.append(won)
                weights.append(weight)
    model = LogisticRegression(fit_intercept=False, C=1e9, tol=1e-10).fit(rows, wins, sample_weight=weights)
    expected = 1000 + ELO_PER_NAT * (model.coef_[0] - model.coef_[0].mean())
    found = {row.player: row.rating for row in rate(battles, num_samples=0).players}
    np.testing.assert_allclose([found[f"m{i}"] for i in range(4)], expected, atol=0.05)


def test_three_wins_in_four_are_190_85_points() -> None:
    battles = [Battle(f"p{n}", "a", "b", float(n % 4 > 0)) for n in range(40)]
    best, worst = rate(battles).players
    assert best.rating - worst.rating == pytest.approx(190.85, abs=0.01)
    assert (best.player, best.battles, best.win_share) == ("a", 40, 0.75)
    assert best.low < best.rating < best.high


def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        battles = [Battle(str(n), "a", "b", float(rng.random() < 0.7)) for n in range(150)]
        rating = next(r for r in rate(battles, num_samples=60, seed=seed).players if r.player == "a")
        held += rating.low <= 1000 + ELO_PER_NAT * math.log(0.7 / 0.3) / 2 <= rating.high
    assert held >= 16


def test_davidson_finds_the_share_of_ties_between_equals_and_probabilities_add_up() -> None:
    rng = np.random.default_rng(1)
    battles = [Battle(str(n), "a", "b", float(rng.choice([0, 0.5, 1], p=[0.3, 0.4, 0.3]))) for n in range(4000)]
    ratings = rate(battles, davidson=True, num_samples=0)
    assert ratings.tie_odds == pytest.approx(0.4 / 0.3, rel=0.06)  # nu / (2 + nu) = 40 %
    assert ratings.probability("a", "b") + ratings.probability("b", "a") == pytest.approx(1)


def test_whoever_never_lost_has_a_finite_rating_and_strangers_are_said_to_be_unconnected() -> None:
    ratings = rate([Battle("p", "a", "b", 1.0), Battle("q", "c", "d", 0.5)])
    assert all(math.isfinite(value) for r in ratings.players for value in (r.rating, r.low, r.high))
    assert not ratings.connected
    assert rate([Battle("p", "a", "b", 1.0), Battle("q", "b", "d", 0.5)]).connected
    assert rate([]).players == ()


def test_a_ranking_is_a_battle_for_every_two_models_in_it() -> None:
    candidates = tuple(
        Candidate(text, model=model) for text, model in (("x", "sft"), ("y", "ppo"), ("z", "sft"), ("w", ""))
    )
    ranking = Ranking(Prompt("p", (Message("user", "?"),)), candidates, (2, 1, 2, 3), "ann")
    unit = prompt_key(ranking.prompt)
    assert model_battles([ranking]) == [Battle(unit, "sft", "ppo", 0.0), Battle(unit, "ppo", "sft", 1.0)]


def test_the_stricter_labeler_wins_battles_of_strictness() -> None:
    rng = np.random.default_rng(0)
    severity = {"mild": 1.0, "middle": 0.0, "strict": -1.0}
    grades = [
        (f"answer {n}", who, float(np.clip(round(4 + shift + rng.normal()), 1, 7)))
        for n in range(200)
        for who, shift in severity.items()
        if rng.random() < 0.7
    ]
    assert [row.player for row in rate(strictness_battles(grades), davidson=True).players] == [
        "strict",
        "middle",
        "mild",
    ]


def test_elo_expects_what_the_formula_says_and_keeps_the_sum() -> None:
    assert expected_score(1200, 1000) == pytest.approx(0.75975, abs=1e-5)
    ratings = elo_in_order([Battle("p", "a", "b", 1.0)], k=4)
    assert ratings == {"a": 1002.0, "b": 998.0}


def test_elo_averaged_over_orders_ranks_as_bradley_terry_does() -> None:
    rng = np.random.default_rng(0)
    strength = {"a": 1.0, "b": 0.2, "c": -1.0}
    battles = []
    for n in range(1500):
        x, y = rng.choice(list(strength), size=2, replace=False)
        won = float(rng.random() < 1 / (1 + math.exp(strength[y] - strength[x])))
        battles.append(Battle(str(n), str(x), str(y), won))
    assert list(elo_ratings(battles)) == [row.player for row in rate(battles, num_samples=0).players] == ["a", "b", "c"]
