"""What does a labeler who ranks at random cost a reward model? With and without them, on frozen states, many draws.

    python scripts/spammer_cost.py --model runs/demo-seed1/sft --rankings all.jsonl --heldout held_out.jsonl \\
           --without labeler_3

A linear head on the SFT model's last states learns the rankings (logistic regression on differences, a vote weighs
1/pairs), once with everybody and once without the labelers named, on the same bootstrap draws of prompts, so that the
difference is paired: a whole reward model is too slow and too noisy to see half a point. A third head leaves out as
many votes at random, for less data alone costs something too. Accuracy is against single held-out votes.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from active_collection import Floats, accuracy, pool_of

from wuya.data.formats import read_rankings
from wuya.records import Candidate, Prompt, Ranking

DRAWS, RIDGE = 60, 3.0


@dataclass(frozen=True)
class Votes:
    """Pairs on which somebody decided, the better answer's features less the other's."""

    difference_ND: Floats
    prompt_N: np.ndarray
    weight_N: Floats
    labeler_N: np.ndarray


def main() -> None:
    """Three accuracies and their paired differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rankings", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--without", nargs="+", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, held = (votes_of(arguments.model, list(read_rankings(f))) for f in (arguments.rankings, arguments.heldout))
    spread_D = train.difference_ND.std(axis=0) + 1e-9
    found = compare(train, held.difference_ND / spread_D, arguments.without, scale_D=spread_D)
    print(f"{len(train.prompt_N):,} pairs of {len(set(train.prompt_N)):,} prompts; {DRAWS} draws of prompts, paired")
    for name, runs in found.items():
        low, high = np.quantile(runs, [0.025, 0.975])
        print(f"{name:<40} {np.mean(runs):+.4f} [{low:+.4f}, {high:+.4f}]")


def votes_of(model: Path, rankings: Sequence[Ranking]) -> Votes:
    """Every decided pair of every ranking, with features from the model's last state."""
    groups: dict[str, tuple[Prompt, dict[str, Candidate]]] = {}
    for ranking in rankings:
        known = groups.setdefault(ranking.prompt.id, (ranking.prompt, {}))[1]
        known.update({candidate.text: candidate for candidate in ranking.candidates})
    answers = [(prompt, list(candidates.values())) for prompt, candidates in groups.values()]
    pool = pool_of(model.parent, answers)
    row = {}
    for difference_D, (number, i, j) in zip(pool.difference_ND, pool.places, strict=True):
        prompt, candidates = answers[number]
        row[prompt.id, candidates[i].text, candidates[j].text] = difference_D
        row[prompt.id, candidates[j].text, candidates[i].text] = -difference_D
    differences, prompts, weights, labelers = [], [], [], []
    for ranking in rankings:
        ranked = list(zip(ranking.candidates, ranking.ranks, strict=True))
        pairs = [(a.text, b.text) for a, x in ranked for b, y in ranked if x < y and a.text != b.text]
        for pair in pairs:
            differences.append(row[(ranking.prompt.id, *pair)])
            prompts.append(ranking.prompt.id)
            weights.append(1 / len(pairs))
            labelers.append(ranking.labeler)
    return Votes(np.array(differences), np.array(prompts), np.array(weights), np.array(labelers))


def compare(
    train: Votes, held_ND: Floats, without: Sequence[str], *, scale_D: Floats, draws: int = DRAWS
) -> dict[str, Floats]:
    """Held-out accuracy with and without the labelers, and the differences, one value a draw of prompts."""
    rng = np.random.default_rng(0)
    names, place_N = np.unique(train.prompt_N, return_inverse=True)
    theirs_N = np.isin(train.labeler_N, without)
    keep: dict[str, Callable[[], np.ndarray]] = {
        "with everybody": lambda: np.ones(len(theirs_N)),
        "without them": lambda: (~theirs_N).astype(float),
        "without as many pairs of anybody": lambda: (rng.random(len(theirs_N)) >= theirs_N.mean()).astype(float),
    }
    runs: dict[str, list[float]] = {name: [] for name in keep}
    for _ in range(draws):
        count_N = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[place_N]
        for name, mask in keep.items():
            weights_D = weighted_logistic(train.difference_ND / scale_D, train.weight_N * count_N * mask())
            margins_N = held_ND @ weights_D
            runs[name].append(accuracy(margins_N, np.ones((1, len(margins_N)))))
    found = {name: np.array(values) for name, values in runs.items()}
    found["leaving them out gains"] = found["without them"] - found["with everybody"]
    found["... against leaving out anybody"] = found["without them"] - found["without as many pairs of anybody"]
    return found


def weighted_logistic(x_ND: Floats, weight_N: Floats, *, steps: int = 4) -> Floats:
    """Weights of a ridge logistic regression in which the first answer of every row won, by Newton's method."""
    w_D = np.zeros(x_ND.shape[1])
    for _ in range(steps):
        p_N = 1 / (1 + np.exp(-np.clip(x_ND @ w_D, -30, 30)))
        hessian = (x_ND * (weight_N * p_N * (1 - p_N))[:, None]).T @ x_ND + RIDGE * np.eye(len(w_D))
        w_D += np.linalg.solve(hessian, x_ND.T @ (weight_N * (1 - p_N)) - RIDGE * w_D)
    return w_D


if __name__ == "__main__":
    main()
