"""How many labels does active collection save? Uncertainty of a reward-model ensemble against random, measured.

    python experiments/active_collection.py runs/demo --out runs/active          # about 3 minutes on one core

Reads a finished demo: its SFT model, the sampled answers, the (simulated) labelers. A pool of prompts with K answers
waits for votes on pairs; each round buys `--batch` votes, chosen by one rule, from a labeler drawn by chance:

    random         any pair
    uncertainty    pairs on which the ensemble's members disagree most (query by committee, Seung et al. 1992; for
                   reward models Christiano et al. 2017, section 2.2.4)
    margin         pairs whose answers the ensemble's mean finds most alike
    information    pairs whose votes would shrink the model's doubt about its weights most (D-optimal design: chosen one
                   by one for the variance that the votes so far, and those already in the batch, leave)
    disagreement   prompts on which labelers disagreed so far: half of the votes go to a second opinion

The reward model here is a linear head on the SFT model's frozen last state, an ensemble of heads fitted to bootstrap
samples of the votes: the same data and features as `wuya reward`, seconds instead of minutes, so that many seeds and
rounds can be run. Held-out accuracy is against votes of *other* labelers on *other* prompts. Writes active.json,
active.md and active.svg. The labelers are simulated.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.data.batches import length_sorted_microbatches, pad_right
from wuya.feedback.simulated import Labeler, Labelers
from wuya.files import make_folder, to_json, write_atomic
from wuya.recipes.sample_completions import read_completions
from wuya.records import Candidate, Prompt
from wuya.rlhf.ranked_prompts import completion_ids
from wuya.tokenizer.chat_format import encode_prompt
from wuya.training.svg import line_plot

Floats = NDArray[np.float64]
Answers = Sequence[tuple[Prompt, Sequence[Candidate]]]
RULES = ("random", "uncertainty", "margin", "information", "disagreement")
RIDGE = 10.0


@dataclass(frozen=True)
class Pool:
    """Pairs of answers that may be asked about: N pairs, D features."""

    difference_ND: Floats
    """Features of the first answer less those of the second."""
    places: list[tuple[int, int, int]]
    """(prompt, first answer, second answer)."""


def main() -> None:
    """Features once; then every rule, seed and round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=RULES, help="random is always run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    people = Labelers.load(arguments.demo / "data" / "labelers.json")
    train = list(read_completions(arguments.demo / "samples" / "reward" / "completions.jsonl"))
    held = list(read_completions(arguments.demo / "samples" / "reward_report" / "completions.jsonl"))
    pool, test = standardised(pool_of(arguments.demo, train), pool_of(arguments.demo, held))
    votes_LN = np.array([votes(labeler, held, test) for labeler in people.held_out])
    curves: dict[str, list[list[float]]] = {
        rule: [
            collect(rule, pool, train, people.training, test, votes_LN, seed, arguments)
            for seed in range(arguments.seeds)
        ]
        for rule in dict.fromkeys(["random", *arguments.rules])
    }
    labels = [arguments.batch * (r + 1) for r in range(arguments.rounds)]
    text = report(labels, curves)
    make_folder(arguments.out)
    write_atomic(arguments.out / "active.json", to_json({"labels": labels, "accuracy": curves}) + "\n")
    write_atomic(arguments.out / "active.md", text)
    series = {rule: (labels, np.mean(runs, axis=0).tolist()) for rule, runs in curves.items()}
    write_atomic(arguments.out / "active.svg", line_plot("held-out accuracy", series, xlabel="votes") + "\n")
    print(text)


def pool_of(demo: Path, answers: Answers) -> Pool:
    """All pairs of each prompt's answers, with the SFT model's last hidden state as features."""
    model, tokenizer = load_checkpoint(demo / "sft")
    model.eval()
    rows = [
        encode_prompt(tokenizer, prompt) + completion_ids(candidate, tokenizer, prompt)
        for prompt, group in answers
        for candidate in group
    ]
    states = np.zeros((len(rows), model.config.model_dim))
    with torch.no_grad():
        for part in length_sorted_microbatches([len(row) for row in rows], 8192):
            ids_BT, lengths_B = pad_right([rows[i] for i in part], pad_id=0)
            states[part] = model(ids_BT)[torch.arange(len(part)), lengths_B - 1].double().numpy()
    differences, places, start = [], [], 0
    for number, (_, group) in enumerate(answers):
        for i, j in combinations(range(len(group)), 2):
            differences.append(states[start + i] - states[start + j])
            places.append((number, i, j))
        start += len(group)
    return Pool(np.array(differences), places)


def standardised(train: Pool, test: Pool) -> tuple[Pool, Pool]:
    """Features in units of their spread over the pool, so that one ridge suits all."""
    spread_D = train.difference_ND.std(axis=0) + 1e-9
    return Pool(train.difference_ND / spread_D, train.places), Pool(test.difference_ND / spread_D, test.places)


def votes(labeler: Labeler, answers: Answers, pool: Pool) -> Floats:
    """1, 0 or .5 for every pair."""
    return np.array([labeler.prefer(answers[p][0], answers[p][1][i], answers[p][1][j]) for p, i, j in pool.places])


def collect(
    rule: str,
    pool: Pool,
    answers: Answers,
    labelers: Sequence[Labeler],
    test: Pool,
    votes_LN: Floats,
    seed: int,
    arguments: argparse.Namespace,
) -> list[float]:
    """Held-out accuracy after each round."""
    rng = np.random.default_rng(seed)
    asked: list[tuple[int, float]] = []
    found = []
    weights_MD = np.zeros((arguments.members, pool.difference_ND.shape[1]))
    for round in range(arguments.rounds):
        chosen = choose("random" if round == 0 else rule, pool, asked, weights_MD, arguments.batch, rng)
        for n in chosen:
            p, i, j = pool.places[n]
            labeler = labelers[int(rng.integers(len(labelers)))]
            vote = labeler.prefer(answers[p][0], answers[p][1][i], answers[p][1][j])
            asked.append((n, vote))
        weights_MD = ensemble(pool, asked, arguments.members, rng)
        found.append(accuracy(test.difference_ND @ weights_MD.mean(axis=0), votes_LN))
    return found


def choose(
    rule: str, pool: Pool, asked: Sequence[tuple[int, float]], weights_MD: Floats, count: int, rng: np.random.Generator
) -> list[int]:
    """The next pairs; at most two of one prompt in a batch, for a batch of like questions teaches one thing."""
    size = len(pool.places)
    if rule == "random":
        return [int(n) for n in rng.choice(size, count, replace=False)]
    if rule == "information":
        return most_informative(pool, [n for n, _ in asked], weights_MD.mean(axis=0), count)
    margin_MN = weights_MD @ pool.difference_ND.T
    probability_MN = 1 / (1 + np.exp(-margin_MN))
    if rule == "margin":
        order = np.argsort(np.abs(margin_MN.mean(axis=0)) + 1e-9 * rng.random(size))
    elif rule == "uncertainty":
        order = np.argsort(-probability_MN.std(axis=0) + 1e-9 * rng.random(size))
    else:  # second opinions where the model was surprised by the first, the other half at random
        surprise = {n: abs(vote - float(probability_MN[:, n].mean())) for n, vote in asked}
        again = sorted(surprise, key=lambda n: -surprise[n])[: count // 2]
        return again + [int(n) for n in rng.choice(size, count - len(again), replace=False)]
    done, taken = {n for n, _ in asked}, []
    prompts: dict[int, int] = {}
    for n in map(int, order):
        prompt = pool.places[n][0]
        if n not in done and prompts.get(prompt, 0) < 2:
            taken.append(n)
            prompts[prompt] = prompts.get(prompt, 0) + 1
            if len(taken) == count:
                break
    return taken


def most_informative(pool: Pool, asked: Sequence[int], weights_D: Floats, count: int) -> list[int]:
    """Greedy D-optimal design under the Laplace posterior of a logistic regression: the largest p (1 - p) x'Sx next."""
    x_ND = pool.difference_ND
    p_N = 1 / (1 + np.exp(-np.clip(x_ND @ weights_D, -30, 30)))
    curvature_N = p_N * (1 - p_N)
    seen = list(asked)
    precision_DD = (x_ND[seen] * curvature_N[seen, None]).T @ x_ND[seen] + RIDGE * np.eye(x_ND.shape[1])
    covariance_DD = np.linalg.inv(precision_DD)
    variance_N = np.einsum("nd,nd->n", x_ND @ covariance_DD, x_ND)
    free_N = np.ones(len(x_ND), dtype=bool)
    free_N[seen] = False
    taken: list[int] = []
    for _ in range(count):
        n = int(np.argmax(np.where(free_N, curvature_N * variance_N, -1.0)))
        taken.append(n)
        free_N[n] = False
        direction_D = covariance_DD @ x_ND[n]
        gain = curvature_N[n] / (1 + curvature_N[n] * variance_N[n])  # Sherman-Morrison
        variance_N = variance_N - gain * (x_ND @ direction_D) ** 2
        covariance_DD -= gain * np.outer(direction_D, direction_D)
    return taken


def ensemble(pool: Pool, asked: Sequence[tuple[int, float]], members: int, rng: np.random.Generator) -> Floats:
    """Heads fitted to bootstrap samples of the votes: logistic regression on differences, ridge, Newton's method."""
    rows = np.array([n for n, vote in asked if vote != 0.5])
    labels = np.array([vote for _, vote in asked if vote != 0.5])
    return np.array([logistic(pool.difference_ND[rows[s]], labels[s])
                     for s in (rng.integers(len(rows), size=len(rows)) for _ in range(members))])  # fmt: skip


def logistic(x_ND: Floats, y_N: Floats, *, ridge: float = RIDGE, steps: int = 8) -> Floats:
    """Weights of a logistic regression without intercept."""
    w_D = np.zeros(x_ND.shape[1])
    for _ in range(steps):
        p_N = 1 / (1 + np.exp(-np.clip(x_ND @ w_D, -30, 30)))
        hessian = (x_ND * (p_N * (1 - p_N))[:, None]).T @ x_ND + ridge * np.eye(len(w_D))
        w_D += np.linalg.solve(hessian, x_ND.T @ (y_N - p_N) - ridge * w_D)
    return w_D


def accuracy(margins_N: Floats, votes_LN: Floats) -> float:
    """Share of the held-out labelers' single votes that the margins' signs give; ties left out."""
    decided_LN = votes_LN != 0.5
    return float(((margins_N > 0) == (votes_LN > 0.5))[decided_LN].mean())


def votes_needed(labels: Sequence[int], accuracy_R: Floats, target: float) -> float:
    """Votes at which a curve, made monotone, first reaches the target; straight lines between; inf if it never does."""
    best_R = np.maximum.accumulate(accuracy_R)
    if best_R[-1] < target:
        return float("inf")
    n = int(np.argmax(best_R >= target))
    if n == 0:
        return float(labels[0])
    share = (target - best_R[n - 1]) / (best_R[n] - best_R[n - 1])
    return float(labels[n - 1] + share * (labels[n] - labels[n - 1]))


def share_of_random(labels: Sequence[int], runs_SR: Floats, random_SR: Floats) -> tuple[float, float, float]:
    """Votes a rule needs for random's last accuracy, as a share of random's; with a 95 % interval, seeds resampled.

    inf: not reached with all votes.
    """
    rng = np.random.default_rng(0)

    def share(rows: Any) -> float:
        target = float(random_SR[rows].mean(axis=0).max())
        ours, theirs = (votes_needed(labels, runs[rows].mean(axis=0), target) for runs in (runs_SR, random_SR))
        return ours / theirs

    found = [share(rng.integers(len(runs_SR), size=len(runs_SR))) for _ in range(1000)]
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return share(slice(None)), float(low), float(high)


def report(labels: Sequence[int], curves: dict[str, list[list[float]]]) -> str:
    """Mean accuracy by number of votes, and the votes each rule needs for what random reaches at the end."""
    shown = sorted({n for n in (0, 1, 3, 7, len(labels) - 1) if n < len(labels)})
    lines = [
        f"{len(curves['random'])} seeds; held-out simulated labelers, other prompts; +- is 1.96 standard errors over",
        "seeds; the last column: votes for random's best accuracy, as a share of random's [95 %, seeds resampled].",
        "",
        "| rule | " + " | ".join(f"{labels[n]} votes" for n in shown) + " | share of random's votes |",
        "| --- |" + " --- |" * (len(shown) + 1),
    ]
    random_SR = np.array(curves["random"])
    for rule, runs in curves.items():
        mean_R, error_R = np.mean(runs, axis=0), 1.96 * np.std(runs, axis=0, ddof=1) / len(runs) ** 0.5
        cells = [f"{mean_R[n]:.3f} +- {error_R[n]:.3f}" for n in shown]
        share, low, high = (
            f"{x:.0%}" if x < 10 else "not reached" for x in share_of_random(labels, np.array(runs), random_SR)
        )
        lines.append(f"| {rule} | " + " | ".join(cells) + f" | {share} [{low}, {high}] |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
