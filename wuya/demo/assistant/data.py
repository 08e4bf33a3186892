"""Real demonstrations and real people's comparisons, split so that a conversation is on one side only.

Comparisons are split by the first message of the conversation: HH-RLHF holds the same conversation at several lengths,
and a reward model must not meet one of them in training and another in its report. The gold reward model learns from
other people's conversations than the reward model that PPO optimises. (HH-RLHF does not say who compared: two
conversations may share an annotator.)
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from wuya.console import say
from wuya.data.formats import read_demonstrations, read_rankings, write_demonstrations, write_prompts, write_rankings
from wuya.data.rows import read_rows
from wuya.demo.assistant.sizes import Assistant, AssistantSize
from wuya.errors import DataError
from wuya.files import BadRows, make_folder
from wuya.records import Demonstration, Message, Prompt, Ranking

SPLIT_SEED = 2203
"""The split is the same whatever the run's seed."""
READ_AT_MOST = 60_000
"""Comparisons looked at: a streamed data set of the hub ends here."""


def files_of(folder: Path) -> tuple[str, str]:
    """(comparisons, demonstrations) in a copy of the data: `hh-rlhf/train.jsonl.gz` and `instruct/*.jsonl` in it."""
    comparisons = _first(folder, "hh-rlhf/train.jsonl*", "hh-rlhf/*.jsonl*", "hh-rlhf/*.parquet")
    return comparisons, _first(folder, "instruct/self_instruct_seeds.jsonl*", "instruct/*.jsonl*", "instruct/*.parquet")


def _first(folder: Path, *patterns: str) -> str:
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return str(found[0])
    raise DataError(
        f"`{folder}` is not a copy of the data",
        found=", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "nothing there",
        hint=f"it needs {' or '.join(f'`{pattern}`' for pattern in patterns)}; without `--data` it comes from the hub",
    )


def prepare_data(assistant: Assistant) -> dict[str, Any]:
    """Write the files that all later stages read; returns how many of each there are."""
    size, data = assistant.size, make_folder(assistant.folder / "data")
    demonstrations = list(usable_demonstrations(assistant.demonstrations, size))
    wanted = size.demonstrations + size.held_out_demonstrations
    chosen = _shuffled(demonstrations)[:wanted]
    held_out = chosen[: min(size.held_out_demonstrations, len(chosen) // 5)]
    write_demonstrations(data / "held_out_demonstrations.jsonl", held_out)
    pairs, prompts = split_comparisons(usable_comparisons(assistant.comparisons, size), size)
    preferred = [preferred_answer(ranking) for ranking in pairs.pop("preferred")]
    write_demonstrations(data / "demonstrations.jsonl", [*chosen[len(held_out) :], *preferred])
    for name, rankings in pairs.items():
        write_rankings(data / f"{name}.jsonl", rankings)
    for name, rows in prompts.items():
        write_prompts(data / f"{name}.jsonl", rows)
    counts = {"demonstrations": len(chosen) - len(held_out), "preferred_answers_as_demonstrations": len(preferred)}
    counts["held_out_demonstrations"] = len(held_out)
    counts |= {name: len(rankings) for name, rankings in pairs.items()}
    counts |= {name: len(rows) for name, rows in prompts.items()}
    say(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()))
    return {"counts": counts, "comparisons": assistant.comparisons, "demonstrations": assistant.demonstrations}


# -- demonstrations ----------------------------------------------------------------------------------------------------


def usable_demonstrations(source: str, size: AssistantSize) -> Iterator[Demonstration]:
    """Short demonstrations of a known form, Dolly's and Self-Instruct's beside those of `wuya sft`."""
    for demonstration in _demonstrations(source):
        texts = [message.content for message in demonstration.messages]
        if sum(map(len, texts)) <= size.longest_demonstration and demonstration.completion.strip():
            yield demonstration


def _demonstrations(source: str) -> Iterator[Demonstration]:
    first = next(iter(read_rows(source, BadRows())), (0, {}))[1]
    if "instances" not in first and "response" not in first:
        yield from islice(read_demonstrations(source, BadRows()), READ_AT_MOST)
        return
    for number, row in islice(read_rows(source, BadRows()), READ_AT_MOST):
        if "instances" in row:  # Self-Instruct's seeds: an instruction with inputs and outputs
            parts = [(case.get("input", ""), case.get("output", "")) for case in row["instances"][:1]]
        else:  # Dolly: instruction, context, response
            parts = [(row.get("context") or "", row.get("response") or "")]
        for context, answer in parts:
            text = f"{row['instruction']}\n\n{context}" if context.strip() else str(row["instruction"])
            prompt = Prompt(str(row.get("id", number)), (Message("user", text),), source=source)
            yield Demonstration(prompt, Message("assistant", str(answer).strip()), labeler="human")


def preferred_answer(ranking: Ranking) -> Demonstration:
    """The answer that people preferred, as a demonstration."""
    best = min(range(len(ranking.ranks)), key=ranking.ranks.__getitem__)
    return Demonstration(ranking.prompt, Message("assistant", ranking.candidates[best].text), labeler=ranking.labeler)


# -- comparisons -------------------------------------------------------------------------------------------------------


def usable_comparisons(source: str, size: AssistantSize) -> list[Ranking]:
    """People's comparisons with short prompts; those about harm, where refusing may be better, are left out."""
    rankings = islice(read_rankings(source, BadRows()), READ_AT_MOST)
    found = [ranking for ranking in rankings if "harmless" not in ranking.prompt.source]
    return [ranking for ranking in found if _length(ranking.prompt.messages) <= size.longest_prompt]


def split_comparisons(
    rankings: Sequence[Ranking], size: AssistantSize
) -> tuple[dict[str, list[Ranking]], dict[str, list[Prompt]]]:
    """(comparisons by use, prompts by use); no conversation is in two of them.

    Raises: DataError when there is too little for the smallest use.
    """
    by_start: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        by_start.setdefault(ranking.prompt.messages[0].content.strip().lower(), []).append(ranking)
    conversations = _shuffled([by_start[start] for start in sorted(by_start)])
    short = [group for group in conversations if any(_is_short(ranking, size) for ranking in group)]
    others = [group for group in conversations if not any(_is_short(ranking, size) for ranking in group)]
    uses = {"held_out": size.held_out_pairs, "gold": size.reward_pairs, "reward": size.reward_pairs}
    uses["preferred"] = size.preferred_answers
    if len(short) < sum(uses.values()):
        share = len(short) / sum(uses.values())
        uses = {name: int(count * share) for name, count in uses.items()}
        say(f"only {len(short):,} short comparisons: {', '.join(f'{n:,} {name}' for name, n in uses.items())}")
    if min(uses["held_out"], uses["reward"]) < 2:
        raise DataError("too few comparisons to split", found=f"{len(short)} short ones", hint="use a larger data set")
    pairs, start = {}, 0
    for name, count in uses.items():
        pairs[name] = [_first_short(group, size) for group in short[start : start + count]]
        start += count
    free = [group[0].prompt for group in (*others, *short[start:])]
    evaluation = free[: size.evaluation_prompts]
    return pairs, {"evaluation": evaluation, "ppo": free[len(evaluation) :][: size.ppo_prompts]}


def _first_short(group: Sequence[Ranking], size: AssistantSize) -> Ranking:
    return next(ranking for ranking in group if _is_short(ranking, size))


def _is_short(ranking: Ranking, size: AssistantSize) -> bool:
    return all(20 <= len(candidate.text) <= size.longest_answer for candidate in ranking.candidates)


def _length(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)


def _shuffled(rows: list[Any]) -> list[Any]:
    return [rows[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(rows))]
