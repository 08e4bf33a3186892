"""The scripts behind docs/experiments.md, on data so small that the answer is known."""

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from wuya.data.chitchat import Chat, Turn
from wuya.records import Candidate, Message, Prompt, Ranking

STUDIES = Path(__file__).parents[2] / "experiments"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, STUDIES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Taste:
    """A labeler who follows a hidden linear utility of the answers' numbers, with noise."""

    def __init__(self, weights: np.ndarray, noise: float, seed: int) -> None:
        self.weights, self.noise, self.rng = weights, noise, np.random.default_rng(seed)

    def prefer(self, prompt: Prompt, a: Candidate, b: Candidate) -> float:
        x, y = (np.array(json.loads(c.text)) for c in (a, b))
        return float((x - y) @ self.weights + self.noise * self.rng.normal() > 0)


@pytest.mark.parametrize("rule", ["random", "uncertainty", "margin", "information", "disagreement"])
def test_every_rule_of_active_collection_learns_and_buys_what_it_says(rule: str) -> None:
    active = script("active_collection")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=6)

    def answers(count: int) -> list[tuple[Prompt, list[Candidate]]]:
        return [
            (
                Prompt(str(n), (Message("user", "?"),)),
                [Candidate(json.dumps(rng.normal(size=6).tolist())) for _ in range(3)],
            )
            for n in range(count)
        ]

    def pool(rows: Any) -> Any:
        places = [(n, i, j) for n in range(len(rows)) for i, j in ((0, 1), (0, 2), (1, 2))]
        values = [[np.array(json.loads(c.text)) for c in group] for _, group in rows]
        return active.Pool(np.array([values[n][i] - values[n][j] for n, i, j in places]), places)

    train, held = answers(60), answers(40)
    people = [Taste(weights, 0.3, 1), Taste(weights, 0.3, 2)]
    votes = np.array([active.votes(person, held, pool(held)) for person in people])
    arguments = Namespace(rounds=5, batch=12, members=4)
    curve = active.collect(rule, pool(train), train, people, pool(held), votes, 0, arguments)
    assert len(curve) == 5 and curve[-1] > 0.8
    drawn = active.choose(rule, pool(train), [(0, 1.0), (5, 0.0)], rng.normal(size=(4, 6)), 12, rng)
    assert len(drawn) == 12 and (rule in ("random", "disagreement") or not {0, 5} & set(drawn))


def test_the_share_of_labels_is_counted_at_randoms_last_accuracy() -> None:
    curves = {"random": [[0.5, 0.6, 0.7, 0.8]] * 2, "uncertainty": [[0.5, 0.75, 0.8, 0.85]] * 2}
    text = script("active_collection").report([10, 20, 30, 40], curves)
    assert "| uncertainty |" in text and "| 75% [75%, 75%] |" in text and "| 100% [100%, 100%] |" in text


def test_votes_needed_lie_between_two_rounds_and_a_dip_undoes_nothing() -> None:
    needed = script("active_collection").votes_needed
    curve = np.array([0.5, 0.7, 0.6, 0.8])
    assert needed([10, 20, 30, 40], curve, 0.6) == pytest.approx(15)
    assert needed([10, 20, 30, 40], curve, 0.75) == pytest.approx(35)
    assert needed([10, 20, 30, 40], curve, 0.4) == 10 and needed([10, 20], curve[:2], 0.9) == float("inf")


def test_the_most_informative_pairs_span_what_is_not_known_yet() -> None:
    active = script("active_collection")
    pool = active.Pool(np.repeat(10 * np.eye(3), 4, axis=0), [(n, 0, 1) for n in range(12)])
    taken = active.most_informative(pool, [0, 1], np.zeros(3), 4)
    assert len(set(taken)) == 4 and not {0, 1} & set(taken)
    assert {n // 4 for n in taken[:2]} == {1, 2}  # the directions nobody was asked about come first


def test_pair_accuracy_is_half_for_what_says_nothing_and_one_for_the_truth() -> None:
    ratings = script("chat_ratings")
    truth = np.array([3.0, 3.0, 5.0, 9.0])
    assert ratings.pair_accuracy(truth, truth) == 1 and ratings.pair_accuracy(np.zeros(4), truth) == 0.5


def test_who_talks_is_told_from_what_is_said() -> None:
    """Each person's chats get the same rating: all of the variance lies between people."""
    ratings = script("chat_ratings")
    rng = np.random.default_rng(0)
    worth = {f"person {n}": float(rng.integers(1, 11)) for n in range(12)}
    assert ratings.between_people({name: [value] * 6 for name, value in worth.items()}) == pytest.approx(1.0)
    assert abs(ratings.between_people({name: rng.normal(size=50).tolist() for name in worth})) < 0.1
    chats = [
        Chat(f"c{n}-{name}", (Turn(name, "hi"), Turn(f"guest {n}", "hello")), (("witty", int(worth[name])),))
        for n in range(6)
        for name in worth
    ]
    rating = {chat.id: float(chat.ratings[0][1]) for chat in chats}
    scores = ratings.partner_means(chats[:36], rating, chats[36:])
    assert ratings.pair_accuracy(scores, np.array([rating[chat.id] for chat in chats[36:]])) == 1.0


def test_folds_leave_every_labeler_out_once_and_judge_by_those_left_out() -> None:
    folds = script("labeler_folds")
    prompt, answers = Prompt("p", (Message("user", "?"),)), (Candidate("a"), Candidate("b"))
    rankings = [
        Ranking(prompt, answers, ranks, who) for who, ranks in (("ann", (1, 2)), ("bob", (2, 1)), ("cai", (1, 2)))
    ]
    groups = folds.folds_of(rankings, 5)
    assert sorted(name for group in groups for name in group) == ["ann", "bob", "cai"]
    found = folds.judged(rankings, {("p", "a"): 1.0, ("p", "b"): 0.0}, ["bob"])
    assert found["labelers left out"]["mean"] == 0.0 and found["labelers learned from"]["mean"] == 1.0


def test_the_frontier_averages_seeds_and_draws_each() -> None:
    frontier = script("frontier")
    row = {"low": 0.6, "high": 0.7, "gold": 1.0, "proxy": 2.0, "distinct_2": 0.8}
    rows = [
        {"demo": demo, "method": "dpo", "strength": "0.1", "kl": kl, "mean": rate, **row}
        for demo, kl, rate in (("s1", 1.0, 0.64), ("s2", 3.0, 0.66))
    ]
    text, picture = frontier.report(rows)
    assert "| dpo | beta 0.1 | 2.00 [1.00, 3.00] | 65.0% [64.0%, 66.0%] | 5.0% |" in text
    assert picture.startswith("<svg") and "DPO" in picture and picture.count("<circle") == 3


def test_every_method_of_the_frontier_has_a_valid_config_at_every_strength(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier = script("frontier")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "label.json").write_text(json.dumps({"snapshots": {"training": "/x/rm_rankings-1.jsonl"}}))
    configs: list[Any] = []
    for recipe in (
        frontier.ppo,
        frontier.grpo,
        frontier.dpo,
        frontier.kto,
        frontier.simpo,
        frontier.orpo,
        frontier.sample_completions,
        frontier.best_of_n,
        frontier.sft,
    ):
        monkeypatch.setattr(recipe, "run", configs.append)
    for size in ("tiny", "small"):
        demo = frontier.Demo(tmp_path, frontier.SIZES[size], 1)
        for method, (train, strengths, _) in frontier.METHODS.items():
            for strength in strengths:
                train(demo, tmp_path / "out" / method, strength)
    assert {type(c).__name__ for c in configs} == {
        "PPOConfig", "GRPOConfig", "DPOConfig", "KTOConfig", "SimPOConfig", "ORPOConfig", "SampleConfig",
        "BestOfNConfig", "SFTConfig",
    }  # fmt: skip
    assert {c.algorithm for c in configs if hasattr(c, "algorithm")} == {"rloo", "grpo"}
    assert {c.ptx_coef > 0 for c in configs if hasattr(c, "ptx_coef")} == {True, False}


def test_heads_find_a_hidden_taste_and_say_how_sure_they_may_be() -> None:
    heads = script("human_heads")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=8) / 2

    def comparisons(count: int) -> np.ndarray:
        x_ND = rng.normal(size=(count, 8))
        wins_N = rng.random(count) < 1 / (1 + np.exp(-x_ND @ weights))
        return np.where(wins_N[:, None], x_ND, -x_ND)

    train, dev = comparisons(600), comparisons(400)
    ridge, out_of_fold = heads.cross_validated(train)
    margins = dev @ heads.logistic(train, ridge)
    assert heads.right(margins).mean() > heads.right(dev @ weights).mean() - 0.03
    found = heads.calibration(out_of_fold, margins)
    assert found["ece"] <= found["ece_floor"]["high"]
    few, many = (heads.learned_from(n, train, dev, ridge)["mean"] for n in (20, 600))
    assert few < many


def test_leaving_out_who_votes_at_random_helps_a_head_that_has_few_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    cost = script("spammer_cost")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=10)

    def decided(count: int, *, random: bool) -> np.ndarray:
        x_ND = rng.normal(size=(count, 10))
        won_N = rng.random(count) < (0.5 if random else 1 / (1 + np.exp(-2 * x_ND @ weights)))
        return np.where(won_N[:, None], x_ND, -x_ND)

    x_ND = np.vstack([decided(80, random=False), decided(120, random=True)])
    names = ["ann"] * 80 + ["spammer"] * 120
    votes = cost.Decided(x_ND, np.ones(200), np.arange(200), names)
    test_ND = decided(500, random=False)
    right = {name: (test_ND @ w_D > 0).mean() for name, w_D in cost.heads(votes, ["spammer"], "spammer", rng).items()}
    assert right["without the suspects"] == right["without the spammer"] > right["with everybody"] + 0.02
    nobody = cost.heads(votes, [], "spammer", rng)
    np.testing.assert_array_equal(nobody["without the suspects"], nobody["with everybody"])
    rows = [
        {"spammer": "ann", "suspects": found, "accuracy": {name: 0.6 + 0.01 * (name == who) for name in cost.HEADS}}
        for found in (["ann"], [], ["ann", "bob"])
        for who in cost.HEADS[1:2]
    ]
    text = cost.report(rows, 2)
    assert "in 1, the spammer is missed in 1" in text and "| +0.0100 [+0.0100, +0.0100] |" in text


def test_a_head_is_judged_by_those_it_never_met_and_by_those_it_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    folds = script("labeler_fold_heads")
    votes_LN = np.array([[1.0, 0.0, 1.0, 0.5], [1.0, 1.0, 0.0, 0.0]])
    likes = 2 * votes_LN - 1
    found = folds.judged([likes[1], likes[0], likes[1]], votes_LN)  # each fold knows the other labeler
    assert found["who learned from the labeler"] == 1.0
    assert found["who never met the labeler"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    text = folds.report([found, found])
    assert "| having met the labeler gains | +0.5833 [+0.5833, +0.5833] |" in text
