"""Five folds over labelers in a minute: do heads on frozen states learn these labelers or people? Many populations.

    python experiments/labeler_fold_heads.py runs/demo-seed1 runs/demo-seed2 runs/demo-seed3 --out runs/fold_heads

The question of `labeler_folds.py` (InstructGPT, section 3.5 and E.2) with linear heads on the SFT model's last states
in place of whole reward models, so that the difference can be seen: ten labelers are made anew for each population
(`--own_taste`: how far their tastes differ), each prompt is ranked by two of them, five heads each learn from eight.
The same votes of a labeler, on prompts nobody trained on, are judged by the head that never met the labeler and by the
four that did. The mean margin of the five heads is an ensemble by group; beside it one head that learned from all ten.
Writes <out>/{folds.json, folds.md}. All labelers are simulated.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from active_collection import Answers, Floats, Pool, accuracy, pool_of, standardised, votes
from spammer_cost import collected, decided_pairs, spread, weighted_logistic

from wuya.feedback.simulated import Labelers, make_labelers
from wuya.files import make_folder, to_json, write_atomic
from wuya.recipes.sample_completions import read_completions

NUM_LABELERS, FOLDS = 10, 5
SCORES = ("who never met the labeler", "who learned from the labeler", "ensemble of the folds", "one head, everybody")


def main() -> None:
    """Populations of each demo; one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--populations", type=int, default=20, help="of each demo")
    parser.add_argument("--pool", type=int, default=300, help="prompts of the demo, all ranked in each population")
    parser.add_argument("--own_taste", type=float, default=0.15, help="spread of each own weight; the demo's is .15")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for demo in arguments.demos:
        people = Labelers.load(demo / "data" / "labelers.json")
        answers = list(read_completions(demo / "samples" / "reward" / "completions.jsonl"))[: arguments.pool]
        held = list(read_completions(demo / "samples" / "reward_report" / "completions.jsonl"))
        pool, test = standardised(pool_of(demo, answers), pool_of(demo, held))
        for seed in range(arguments.populations):
            found = population(people, answers, held, pool, test, seed, arguments.own_taste)
            rows.append({"demo": demo.name, "population": seed, **found})
    write_atomic(make_folder(arguments.out) / "folds.json", to_json(rows) + "\n")
    write_atomic(arguments.out / "folds.md", report(rows))
    print(report(rows))


def population(
    people: Labelers, answers: Answers, held: Answers, pool: Pool, test: Pool, seed: int, own_taste: float
) -> dict[str, float]:
    """Accuracy on the votes of ten people made anew, mean over them, of each of `SCORES`."""
    rng = np.random.default_rng(seed)
    made = make_labelers(
        people.taste.normaliser, num_training=NUM_LABELERS, num_held_out=0, weights=people.taste.weights,
        own_taste_std=own_taste, seed=2_000 + seed,
    )  # fmt: skip
    workers = made.scaled(people.training[0].scale).training
    rankings, where = collected(workers, answers, len(answers), 2, rng)
    decided = decided_pairs(rankings, where, pool)
    fold_R = np.array([[w.name for w in workers].index(name) % FOLDS for name in decided.labelers])
    margins = []
    for fold in (*range(FOLDS), None):
        kept_P = (fold_R != fold)[decided.ranking_P] if fold is not None else np.ones(len(decided.ranking_P))
        margins.append(test.difference_ND @ weighted_logistic(decided.difference_PD, decided.weight_P * kept_P))
    return judged(margins, np.array([votes(worker, held, test) for worker in workers]))


def judged(margins: Sequence[Floats], votes_LN: Floats) -> dict[str, float]:
    """Each score from the folds' margins, the last of all labelers, and everybody's votes."""
    folds, everybody = margins[:-1], margins[-1]
    rows: dict[str, list[float]] = {name: [] for name in SCORES}
    for number, vote_N in enumerate(votes_LN):
        found = [accuracy(margin_N, vote_N[None]) for margin_N in folds]
        rows[SCORES[0]].append(found.pop(number % len(folds)))
        rows[SCORES[1]].append(mean(found))
        rows[SCORES[2]].append(accuracy(np.mean(folds, axis=0), vote_N[None]))
        rows[SCORES[3]].append(accuracy(everybody, vote_N[None]))
    return {name: mean(values) for name, values in rows.items()}


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracies, and what having met the labeler or averaging groups changes, paired by population."""
    lines = [
        f"{len(rows)} populations of {NUM_LABELERS} *simulated* labelers, {FOLDS} folds; same votes for all",
        "[95 %, over populations].",
        "",
        "| judged by heads | accuracy |",
        "| --- | --- |",
        *(f"| {name} | {mean(row[name] for row in rows):.4f} |" for name in SCORES),
    ]
    for name, (one, other) in {
        "having met the labeler": (SCORES[1], SCORES[0]),
        "ensemble over one head": (SCORES[2], SCORES[3]),
    }.items():
        lines.append(f"| {name} gains | {spread([row[one] - row[other] for row in rows])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
