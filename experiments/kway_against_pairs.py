"""Does it matter that all pairs of a prompt are one batch element? K-way loss against shuffled pairs, on human lists.

    python experiments/kway_against_pairs.py --data /path/to/zh --text /path/to/zh.txt.gz --out runs/kway --minutes 9

Reads human-ranked lists of answers (Open-Assistant, Chinese), pre-trains a small model on Chinese prose once, and then
trains reward models from it by two losses at equal epochs, five folds over prompts, a seed a pass over the folds:

    K-way            all pairs of a prompt are one batch element, each answer is read once (InstructGPT, section 3.5)
    shuffled pairs   every pair is a batch element of its own, its answers are read again in other batches

Both see every pair once an epoch, in as many optimizer steps, at the same rates; a pair weighs 1/pairs of its prompt in
both, so that order and repetition alone differ. Every prompt is held out once a seed; the difference is paired by
prompt. Stops after `--minutes`; the same command goes on. Writes <out>/{kway.json, kway.md}.
"""

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.data.batches import pad_right
from wuya.data.quality import QualityRules
from wuya.evals.bootstrap import Interval, ratio_interval
from wuya.files import make_folder, to_json, write_atomic
from wuya.models.reward_model import ScalarModel
from wuya.recipes import prepare_data, pretrain, train_tokenizer
from wuya.recipes.prepare_data import PrepareConfig
from wuya.recipes.pretrain import PretrainConfig
from wuya.recipes.reward_model import ranking_gradients
from wuya.recipes.train_tokenizer import TokenizerConfig
from wuya.records import Candidate, Message, Prompt, Ranking
from wuya.rlhf.ranked_prompts import RankedPrompt, Vote, ranked_prompts
from wuya.training.optimizer import build_optimizer, clip_gradients, set_lr
from wuya.training.schedule import warmup_cosine

FOLDS, EPOCHS, BATCH_PROMPTS, LEARNING_RATE = 5, 2, 8, 7e-4
PROMPT_CHARACTERS, ANSWER_CHARACTERS, TEXT_CHARACTERS = 48, 120, 900_000
LOSSES = ("K-way", "shuffled pairs")
Result = dict[str, list[list[float]]]
"""Epoch -> [right, pairs, log-loss] of each held-out prompt."""


def main() -> None:
    """Pre-train once, then fold by fold until the time is up; the report is of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0)
    arguments = parser.parse_args()
    end, out = time.monotonic() + 60 * arguments.minutes, make_folder(arguments.out)
    base = pretrained(arguments.text, out)
    tokenizer = load_checkpoint(base)[1]
    rankings = read_lists(arguments.data / "oasst_rankings.jsonl.gz")
    prompts, _ = ranked_prompts(rankings, tokenizer, max_length=256)
    for seed in range(arguments.seeds):
        for fold in range(FOLDS):
            for loss in LOSSES:
                file = make_folder(out / "folds") / f"{seed}_{fold}_{loss.replace(' ', '_')}.json"
                if not file.exists() and time.monotonic() < end:
                    write_atomic(file, to_json(train_and_judge(base, prompts, loss, seed, fold)) + "\n")
    text, result = report(out / "folds", len(prompts))
    write_atomic(out / "kway.json", to_json(result, indent=1) + "\n")
    write_atomic(out / "kway.md", text)
    print(text)


def pretrained(text: Path, out: Path) -> Path:
    """A GPT of two layers on a little Chinese prose: enough to know words."""
    if not (out / "base" / "model").exists():
        with gzip.open(text, "rt", encoding="utf-8") as file:
            write_atomic(out / "text.txt", file.read(TEXT_CHARACTERS))
        if not (out / "tokenizer").exists():
            train_tokenizer.run(
                TokenizerConfig(inputs=(str(out / "text.txt"),), vocab_size=4096, out=out / "tokenizer")
            )
        if not (out / "shards").exists():
            prepare_data.run(
                PrepareConfig(
                    inputs=(str(out / "text.txt"),),
                    tokenizer=out / "tokenizer",
                    out=out / "shards",
                    rules=QualityRules(min_words=1),
                    exact_dedup=False,
                    fuzzy_dedup=False,
                    validation_fraction=0.0,
                )
            )
        pretrain.run(
            PretrainConfig(
                data=out / "shards" / "train",
                tokenizer=out / "tokenizer",
                model={"num_layers": 2, "model_dim": 128, "num_heads": 4, "num_kv_heads": 4, "head_dim": 32,
                       "mlp_dim": 352, "context_length": 256},
                num_tokens=500_000,
                context_length=128,
                batch_size=32,
                microbatch_size=32,
                learning_rate=0.02,
                adam_learning_rate=0.01,
                validate_every=0,
                out=out / "base",
                resume=(out / "base").exists(),
                dtype="float32",
            )
        )  # fmt: skip
    return out / "base"


def read_lists(path: Path) -> list[Ranking]:
    """Ranked lists, best first; long texts cut, the prompt's from the left."""
    rankings = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            ranks = {n: place for place, tied in enumerate(row["ranking"], start=1) for n in tied}
            last = row["prompt"][-1]["content"][-PROMPT_CHARACTERS:]
            answers = [Candidate(text[:ANSWER_CHARACTERS], finished=True) for text in row["responses"]]
            prompt = Prompt(f"oasst-{number}", (Message("user", last),))
            rankings.append(Ranking(prompt, tuple(answers), tuple(ranks[n] for n in range(len(answers))), "oasst"))
    return rankings


def as_pairs(prompt: RankedPrompt) -> list[RankedPrompt]:
    """A batch element of its own for every pair of the prompt, weighing 1/pairs each, as in the K-way loss."""
    pairs = [pair for vote in prompt.votes for pair in vote.pairs]
    return [
        replace(
            prompt,
            candidates=[prompt.candidates[a], prompt.candidates[b]],
            sequences=[prompt.sequences[a], prompt.sequences[b]],
            votes=[Vote((0, 1), (1, 2), "oasst", 1 / len(pairs))],
        )
        for a, b in pairs
    ]


def train_and_judge(base: Path, prompts: Sequence[RankedPrompt], loss: str, seed: int, fold: int) -> Result:
    """A reward model of the other folds; right pairs of each prompt of this one, after every epoch."""
    places = np.random.default_rng(seed).permutation(len(prompts))
    held_out = [prompts[n] for n in places[fold::FOLDS]]
    train = [prompts[n] for place, n in enumerate(places) if place % FOLDS != fold]
    steps = -(-len(train) // BATCH_PROMPTS)
    elements = train if loss == "K-way" else [pair for prompt in train for pair in as_pairs(prompt)]
    torch.manual_seed(seed)
    model = ScalarModel(load_checkpoint(base)[0])
    optimizer = build_optimizer(model, name="adamw", lr=LEARNING_RATE, weight_decay=0.0)
    found: Result = {}
    for epoch in range(EPOCHS):
        order = np.random.default_rng([seed, fold, epoch]).permutation(len(elements))
        for step, part in enumerate(np.array_split(order, steps)):
            set_lr(optimizer, warmup_cosine(epoch * steps + step, EPOCHS * steps, 5, 0.1))
            batch = [elements[n] for n in part]
            add_gradients(model, batch)
            clip_gradients(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        found[str(epoch + 1)] = [judged(model, prompt) for prompt in held_out]
    return found


def add_gradients(model: ScalarModel, batch: list[RankedPrompt]) -> None:
    """Gradient of the mean over the batch's elements, each with its weight: 1 for a prompt, 1/pairs for a pair."""
    ranking_gradients(model, batch, microbatch_tokens=8192)
    mean_weight = sum(vote.weight for element in batch for vote in element.votes) / len(batch)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= mean_weight


def judged(model: ScalarModel, prompt: RankedPrompt) -> list[float]:
    """[pairs ordered as people did, pairs, summed log-loss] of a held-out prompt."""
    ids_KT, lengths_K = pad_right(prompt.sequences, pad_id=0)
    with torch.inference_mode():
        scores = model.values(ids_KT)[torch.arange(len(ids_KT)), lengths_K - 1].double().numpy()
    margins = np.array([scores[a] - scores[b] for vote in prompt.votes for a, b in vote.pairs])
    return [float(((np.sign(margins) + 1) / 2).sum()), float(len(margins)), float(np.logaddexp(0, -margins).sum())]


def report(folder: Path, num_prompts: int) -> tuple[str, dict[str, Any]]:
    """Accuracy and log-loss of both losses after each epoch, and their difference: paired, a prompt a unit of the
    bootstrap with all seeds that judged it."""
    runs: dict[tuple[str, str], dict[str, Result]] = {}
    for file in sorted(folder.glob("*.json")):
        seed, fold, loss = file.stem.split("_", 2)
        runs.setdefault((seed, fold), {})[loss.replace("_", " ")] = json.loads(file.read_text(encoding="utf-8"))
    both = {key: run for key, run in runs.items() if len(run) == len(LOSSES)}
    lines = [
        f"{len(both)} folds trained by both losses, {len({seed for seed, _ in both})} seed(s); a held-out prompt, with",
        "all seeds that judged it, is a unit of the bootstrap.",
        "",
        "| epochs | loss | pairs in the people's order | nats a pair |",
        "| --- | --- | --- | --- |",
    ]
    result: dict[str, Any] = {}
    for epoch in map(str, range(1, EPOCHS + 1)):
        sums_N3 = {loss: np.zeros((num_prompts, 3)) for loss in LOSSES}
        for (seed, fold), run in both.items():
            held_out = np.random.default_rng(int(seed)).permutation(num_prompts)[int(fold) :: FOLDS]
            for loss in LOSSES:
                sums_N3[loss][held_out] += np.array(run[loss][epoch])
        kway, pairs = (sums_N3[loss] for loss in LOSSES)
        judged_N = kway[:, 1] > 0
        for loss, rows_N3 in sums_N3.items():
            accuracy, nats = (ratio_interval(rows_N3[judged_N, n], rows_N3[judged_N, 1]) for n in (0, 2))
            lines.append(f"| {epoch} | {loss} | {accuracy} | {nats} |")
        better: list[Interval] = [
            ratio_interval(kway[judged_N, n] - pairs[judged_N, n], kway[judged_N, 1]) for n in (0, 2)
        ]
        lines.append(f"| {epoch} | K-way less shuffled pairs | {better[0]} | {better[1]} |")
        result[epoch] = {"accuracy": better[0].to_dict(), "nats": better[1].to_dict()}
    return "\n".join(lines) + "\n", result


if __name__ == "__main__":
    main()
