"""Does a reward model learn these labelers or people? Five folds over labelers (InstructGPT, section 3.5 and E.2).

    python experiments/labeler_folds.py --model runs/sft --rankings train.jsonl --heldout heldout.jsonl --out runs/folds
    python experiments/labeler_folds.py ... --answers runs/evaluation/answers.jsonl --labelers labelers.json

For each fold a reward model learns from the other labelers; it is judged on prompts nobody trained on, once by the
labelers it learned from and once by those it never met. The paper: 72.4 +- .4 % and 69.6 +- .9 %. The mean score of the
folds' models is an ensemble by group of labelers (`--reward a,b,c` for `wuya ppo`), judged too. With `--answers` of
`wuya evaluate` and simulated labelers, also: whose preference does each policy follow, labeler by labeler?

Both ranking files need several labelers; the held-out one must have prompts of its own, ranked by the same people.
Writes <out>/{folds.json, folds.md, fold_1/, ...}.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from wuya.data.formats import read_rankings, write_rankings
from wuya.errors import DataError
from wuya.evals.bootstrap import mean_interval
from wuya.evals.calibration import PairVote, calibrate
from wuya.feedback.simulated import Labelers
from wuya.files import make_folder, read_jsonl, to_json, write_atomic
from wuya.recipes import reward_model
from wuya.recipes.reward_model import RewardModelConfig
from wuya.records import Candidate, Message, Prompt, Ranking


def main() -> None:
    """Train a model for each fold, judge each twice, then the ensemble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rankings", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--learning_rate", type=float, default=7e-4)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--labelers", type=Path)
    arguments = parser.parse_args()
    train, heldout = list(read_rankings(arguments.rankings)), list(read_rankings(arguments.heldout))
    if shared := {r.prompt.id for r in train} & {r.prompt.id for r in heldout}:
        raise SystemExit(f"error: {len(shared)} prompts are in both files; the held-out file needs prompts of its own")
    rows, scores = [], []
    for number, group in enumerate(folds_of(train, arguments.folds), start=1):
        folder = make_folder(arguments.out / f"fold_{number}")
        fold_scores = train_fold(folder, train, group, arguments)
        rows.append({"fold": number, "left out": ", ".join(group), **judged(heldout, fold_scores, group)})
        scores.append(fold_scores)
    ensemble = {key: mean(s[key] for s in scores) for key in scores[0]}
    everyone = judged(heldout, ensemble, sorted({r.labeler for r in heldout}))
    result: dict[str, Any] = {"folds": rows, "ensemble": everyone["labelers left out"]}
    if arguments.answers and arguments.labelers:
        result["followed"] = whose_preference(arguments.answers, Labelers.load(arguments.labelers))
    write_atomic(arguments.out / "folds.json", to_json(result, indent=1) + "\n")
    text = report(result)
    write_atomic(arguments.out / "folds.md", text)
    print(text)


def folds_of(rankings: Sequence[Ranking], count: int) -> list[list[str]]:
    """Labelers in `count` groups, each left out once."""
    names = sorted({ranking.labeler for ranking in rankings})
    if len(names) < 2:
        raise DataError("folds over labelers need two labelers or more", found=", ".join(names))
    return [group for start in range(min(count, len(names))) if (group := names[start :: min(count, len(names))])]


def train_fold(
    folder: Path,
    train: Sequence[Ranking],
    group: Sequence[str],
    arguments: argparse.Namespace,
) -> dict[tuple[str, str], float]:
    """A reward model of everybody but the group; its score of each held-out answer."""
    write_rankings(folder / "train.jsonl", [r for r in train if r.labeler not in group])
    out = folder / "reward"
    if not (out / "done").exists():
        reward_model.run(
            RewardModelConfig(
                model=arguments.model,
                rankings=folder / "train.jsonl",
                heldout_rankings=(arguments.heldout,),
                out=out,
                resume=out.exists(),
                batch_size=arguments.batch_size,
                learning_rate=arguments.learning_rate,
                warmup_steps=5,
                dtype="float32",
            )
        )
        write_atomic(out / "done", "")
    scored = (row for _, row in read_jsonl(out / "heldout_scores.jsonl"))
    return {(row["prompt_id"], row["text"]): row["score"] for row in scored}


def judged(
    heldout: Sequence[Ranking], scores: dict[tuple[str, str], float], group: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Accuracy against single votes of the labelers left out and of the others, with intervals over prompts."""
    found = {}
    for name, wanted in (("labelers left out", True), ("labelers learned from", False)):
        votes = []
        for ranking in heldout:
            if (ranking.labeler in group) != wanted:
                continue
            ranked = list(zip(ranking.candidates, ranking.ranks, strict=True))
            for better, rank_a in ranked:
                for worse, rank_b in ranked:
                    pair = (ranking.prompt.id, better.text), (ranking.prompt.id, worse.text)
                    if rank_a < rank_b and pair[0] in scores and pair[1] in scores:
                        votes.append(PairVote(ranking.prompt.id, scores[pair[0]], scores[pair[1]]))
        if votes:
            found[name] = calibrate(votes).accuracy.to_dict()
    return found


def whose_preference(path: Path, labelers: Labelers) -> dict[str, dict[str, dict[str, float]]]:
    """policy -> labeler -> share of prompts on which the labeler prefers the policy's answer to the SFT model's.

    The file does not say which answers were cut off: all count as finished here, unlike in `wuya evaluate`.
    """
    rows = [row for _, row in read_jsonl(path)]
    policies = [name for name in rows[0]["answers"] if name != "sft"]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in policies:
        found[name] = {}
        for labeler in (*labelers.training, *labelers.held_out):
            votes = []
            for row in rows:
                prompt = Prompt(row["id"], tuple(Message(m["role"], m["content"]) for m in row["prompt"]))
                ours, theirs = Candidate(row["answers"][name]), Candidate(row["answers"]["sft"])
                votes.append(labeler.prefer(prompt, ours, theirs))
            found[name][labeler.name] = mean_interval(votes).to_dict()
    return found


def report(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| fold, labelers left out | accuracy on them | on those learned from |", "| --- | --- | --- |"]
    for row in result["folds"]:
        cells = [_interval(row[k]) if k in row else "" for k in ("labelers left out", "labelers learned from")]
        lines.append(f"| {row['fold']}: {row['left out']} | {cells[0]} | {cells[1]} |")
    for key in ("labelers left out", "labelers learned from"):
        means = [row[key]["mean"] for row in result["folds"] if key in row]
        if len(means) > 1:
            half = 1.96 * stdev(means) / len(means) ** 0.5
            lines.append(f"| mean over folds: {key} | {mean(means):.3f} +- {half:.3f} | |")
    lines.append(f"| ensemble of the folds, all labelers | {_interval(result['ensemble'])} | |")
    for policy, rates in result.get("followed", {}).items():
        lines += ["", f"| who prefers `{policy}` to SFT (simulated) | share |", "| --- | --- |"]
        lines += [f"| {name} | {_interval(rate)} |" for name, rate in rates.items()]
    return "\n".join(lines) + "\n"


def _interval(row: dict[str, float]) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


if __name__ == "__main__":
    main()
