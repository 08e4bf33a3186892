"""What does a labeler who ranks at random cost a reward model, and does leaving them out pay? Many populations.

    python experiments/spammer_cost.py runs/demo-seed1 runs/demo-seed2 runs/demo-seed3 --out runs/spammer

Reads finished demos: the SFT model, the sampled answers, the labelers who judge. For each population eight labelers are
made anew (taste, noise and spread as in the demo), one of whom ranks at random; each of `--prompts` prompts, drawn by
chance, is ranked by `--overlap` of them. `wuya agreement`'s rule says who is suspect. A linear head on the SFT model's
last states learns the rankings (logistic regression on differences, a vote weighs 1/pairs) four times: with everybody,
without the suspects, without the real spammer, and without as many rankings of anybody, for less data alone costs
something too. Accuracy is against single votes of *other* labelers on *other* prompts; differences are paired by
population. With `--overlap 1` nobody's votes meet, so nobody is suspect: only the third head shows anything.
Writes <out>/{spammer.json, spammer.md}. All labelers are simulated.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from active_collection import Answers, Floats, Pool, accuracy, pool_of, standardised, votes

from wuya.feedback.pair_votes import PairVotes
from wuya.feedback.simulated import Labeler, Labelers, make_labelers
from wuya.feedback.spammers import labeler_skills, suspects
from wuya.files import make_folder, to_json, write_atomic
from wuya.recipes.sample_completions import read_completions
from wuya.records import Ranking

NUM_LABELERS, K, RIDGE = 8, 4, 10.0
HEADS = ("with everybody", "without the suspects", "without the spammer", "without as many of anybody")


@dataclass(frozen=True)
class Decided:
    """Pairs on which somebody decided: P pairs, D features, the better answer's less the other's."""

    difference_PD: Floats
    weight_P: Floats
    """1/pairs of its ranking."""
    ranking_P: np.ndarray
    """Which ranking each pair is of."""
    labelers: list[str]
    """Who made each ranking."""


def main() -> None:
    """Populations of each demo; one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--populations", type=int, default=40, help="of each demo")
    parser.add_argument("--pool", type=int, default=600, help="prompts of the demo whose answers may be drawn")
    parser.add_argument("--prompts", type=int, default=450)
    parser.add_argument("--overlap", type=int, nargs="+", default=[2, 1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for demo in arguments.demos for row in populations(demo, arguments)]
    text = "\n".join(report([row for row in rows if row["overlap"] == n], n) for n in arguments.overlap)
    write_atomic(make_folder(arguments.out) / "spammer.json", to_json(rows) + "\n")
    write_atomic(arguments.out / "spammer.md", text)
    print(text)


def populations(demo: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a population of the demo: who is suspect, and the accuracy of every head."""
    people = Labelers.load(demo / "data" / "labelers.json")
    answers = list(read_completions(demo / "samples" / "reward" / "completions.jsonl"))[: arguments.pool]
    held = list(read_completions(demo / "samples" / "reward_report" / "completions.jsonl"))
    pool, test = standardised(pool_of(demo, answers), pool_of(demo, held))
    votes_LN = np.array([votes(labeler, held, test) for labeler in people.held_out])
    return [
        {
            "demo": demo.name,
            "population": seed,
            "overlap": overlap,
            **population(people, answers, pool, seed, overlap, arguments.prompts, test, votes_LN),
        }
        for seed in range(arguments.populations)
        for overlap in arguments.overlap
    ]


def population(
    people: Labelers, answers: Answers, pool: Pool, seed: int, overlap: int, prompts: int, test: Pool, votes_LN: Floats
) -> dict[str, Any]:
    """Eight people made anew, one of whom spams; who is suspect, and how well every head does."""
    rng = np.random.default_rng(seed)
    made = make_labelers(
        people.taste.normaliser, num_training=NUM_LABELERS, num_held_out=0, weights=people.taste.weights,
        own_taste_std=0.15, seed=1_000 + seed,
    )  # fmt: skip
    spammer = f"labeler_{1 + int(rng.integers(NUM_LABELERS))}"
    workers = made.scaled(people.training[0].scale).with_spammers([spammer]).training
    rankings, where = collected(workers, answers, prompts, overlap, rng)
    found = suspects(labeler_skills(PairVotes.of(rankings), num_samples=100))
    weights = heads(decided_pairs(rankings, where, pool), found, spammer, rng)
    scores = {name: accuracy(test.difference_ND @ w_D, votes_LN) for name, w_D in weights.items()}
    return {"spammer": spammer, "suspects": found, "accuracy": scores}


def collected(
    workers: Sequence[Labeler], answers: Answers, prompts: int, overlap: int, rng: np.random.Generator
) -> tuple[list[Ranking], list[tuple[int, list[int]]]]:
    """Rankings of K answers of each drawn prompt by `overlap` people drawn by chance; and (prompt, answers) of each."""
    rankings, where = [], []
    for number in map(int, rng.choice(len(answers), min(prompts, len(answers)), replace=False)):
        prompt, candidates = answers[number]
        shown = sorted(map(int, rng.choice(len(candidates), min(K, len(candidates)), replace=False)))
        for worker in map(int, rng.choice(len(workers), overlap, replace=False)):
            rankings.append(workers[worker].rank(prompt, [candidates[n] for n in shown]))
            where.append((number, shown))
    return rankings, where


def decided_pairs(rankings: Sequence[Ranking], where: Sequence[tuple[int, list[int]]], pool: Pool) -> Decided:
    """Every pair that a ranking decides, with the pool's features."""
    row = {place: n for n, place in enumerate(pool.places)}
    differences, weights, owner = [], [], []
    for number, (ranking, (prompt, shown)) in enumerate(zip(rankings, where, strict=True)):
        pairs = [(i, j) for i, j in combinations(range(len(shown)), 2) if ranking.ranks[i] != ranking.ranks[j]]
        for i, j in pairs:
            sign = 1 if ranking.ranks[i] < ranking.ranks[j] else -1
            differences.append(sign * pool.difference_ND[row[prompt, shown[i], shown[j]]])
        weights += [1 / max(1, len(pairs))] * len(pairs)
        owner += [number] * len(pairs)
    return Decided(np.array(differences), np.array(weights), np.array(owner), [r.labeler for r in rankings])


def heads(decided: Decided, found: Sequence[str], spammer: str, rng: np.random.Generator) -> dict[str, Floats]:
    """Weights of the four heads."""
    labelers_R = np.array(decided.labelers)
    theirs_R = np.isin(labelers_R, list(found))
    anybody_R = rng.permutation(labelers_R == spammer)
    masks = dict(zip(HEADS, (theirs_R & False, theirs_R, labelers_R == spammer, anybody_R), strict=True))
    return {
        name: weighted_logistic(decided.difference_PD, decided.weight_P * ~left_out_R[decided.ranking_P])
        for name, left_out_R in masks.items()
    }


def weighted_logistic(x_ND: Floats, weight_N: Floats, *, steps: int = 5) -> Floats:
    """Weights of a ridge logistic regression in which the first answer of every row won, by Newton's method."""
    w_D = np.zeros(x_ND.shape[1])
    for _ in range(steps):
        p_N = 1 / (1 + np.exp(-np.clip(x_ND @ w_D, -30, 30)))
        hessian = (x_ND * (weight_N * p_N * (1 - p_N))[:, None]).T @ x_ND + RIDGE * np.eye(len(w_D))
        w_D += np.linalg.solve(hessian, x_ND.T @ (weight_N * (1 - p_N)) - RIDGE * w_D)
    return w_D


def report(rows: Sequence[dict[str, Any]], overlap: int) -> str:
    """Accuracies, differences with 95 % intervals over populations, and how often exactly the spammer is suspect."""
    exactly = sum(row["suspects"] == [row["spammer"]] for row in rows)
    missed = sum(row["spammer"] not in row["suspects"] for row in rows)
    lines = [
        f"{len(rows)} populations of {NUM_LABELERS} *simulated* labelers, one of whom ranks at random; each prompt",
        f"ranked by {overlap}. Exactly the spammer is suspect in {exactly}, the spammer is missed in {missed},",
        f"somebody else is suspect too in {len(rows) - exactly - missed}. [95 %, over populations, paired]",
        "",
        "| head | held-out accuracy | difference to with everybody | to without as many of anybody |",
        "| --- | --- | --- | --- |",
    ]
    for name in HEADS:
        ours = [row["accuracy"][name] for row in rows]
        cells = [
            spread([a - row["accuracy"][base] for a, row in zip(ours, rows, strict=True)]) if name != base else ""
            for base in (HEADS[0], HEADS[3])
        ]
        lines.append(f"| {name} | {mean(ours):.4f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean with a 95 % interval over populations."""
    half = 1.96 * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.4f} [{mean(values) - half:+.4f}, {mean(values) + half:+.4f}]"


if __name__ == "__main__":
    main()
