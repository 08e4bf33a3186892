"""Comparisons are split by conversation, and demonstrations come in the forms that people's data sets have."""

import json
from pathlib import Path

import pytest

from wuya.data.formats import read_demonstrations, read_prompts, read_rankings
from wuya.demo.assistant.data import files_of, prepare_data, split_comparisons, usable_comparisons
from wuya.demo.assistant.sizes import SIZES, Assistant
from wuya.errors import DataError

TINY = SIZES["tiny"]
Row = dict[str, object]


def comparison(number: int, *, turns: int = 1, source: str = "hh-rlhf/helpful-base", length: int = 40) -> Row:
    messages = [{"role": "user", "content": f"question {number}"}]
    for turn in range(turns - 1):
        messages += [{"role": "assistant", "content": f"so {turn}"}, {"role": "user", "content": f"and {turn}?"}]
    better = f"a good answer to {number}, {turns} turns deep".ljust(length, ".")
    worse = f"a bad answer, number {number}".ljust(length, "!")
    return {"prompt": messages, "chosen": better, "rejected": worse, "source": source}


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def starts(path: Path) -> set[str]:
    return {ranking.prompt.messages[0].content for ranking in read_rankings(path)}


def test_a_conversation_is_on_one_side_of_every_split(tmp_path: Path) -> None:
    rows = [comparison(number, turns=turns) for number in range(60) for turns in (1, 2)]
    rows += [comparison(number, length=300) for number in range(60, 90)]  # too long to compare, good prompts
    seeds = [{"prompt": f"say {n}", "completion": f"well, {n}"} for n in range(30)]
    assistant = Assistant(
        tmp_path / "run", TINY, 0, "smollm2", write(tmp_path / "c.jsonl", rows), write(tmp_path / "d.jsonl", seeds)
    )
    counts = prepare_data(assistant)["counts"]
    data = tmp_path / "run" / "data"
    sides = [starts(data / f"{name}.jsonl") for name in ("reward", "gold", "held_out")]
    sides += [{p.messages[0].content for p in read_prompts(data / f"{name}.jsonl")} for name in ("ppo", "evaluation")]
    assert all(sides) and sum(map(len, sides)) == len(set().union(*sides))
    assert counts["reward"] == counts["gold"] == 16 and counts["held_out"] == 8
    learned, held_out = (
        {row.prompt.messages[0].content for row in read_demonstrations(data / name)}
        for name in ("demonstrations.jsonl", "held_out_demonstrations.jsonl")
    )
    assert learned and held_out and not learned & held_out
    assert counts["preferred_answers_as_demonstrations"] == TINY.preferred_answers
    assert not learned & set().union(*sides), "a preferred answer of another split's conversation"


def test_comparisons_about_harm_and_long_prompts_are_left_out(tmp_path: Path) -> None:
    rows = [comparison(0), comparison(1, source="hh-rlhf/harmless-base"), comparison(2, turns=40)]
    found = usable_comparisons(write(tmp_path / "c.jsonl", rows), TINY)
    assert [ranking.prompt.messages[0].content for ranking in found] == ["question 0"]


def test_little_data_is_shared_out_and_too_little_refused(tmp_path: Path) -> None:
    few = usable_comparisons(write(tmp_path / "c.jsonl", [comparison(n) for n in range(20)]), TINY)
    pairs, _ = split_comparisons(few, TINY)
    assert len(pairs["reward"]) == len(pairs["gold"]) == 7 and len(pairs["held_out"]) == 3
    with pytest.raises(DataError, match="too few comparisons"):
        split_comparisons(few[:4], TINY)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Add.", "context": "1 and 2", "response": "3", "category": "closed_qa"},
        {"id": "seed_1", "instruction": "Add.", "instances": [{"input": "1 and 2", "output": "3"}]},
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    ],
    ids=["dolly", "self-instruct", "alpaca"],
)
def test_demonstrations_of_every_form(row: dict[str, object], tmp_path: Path) -> None:
    rows = write(tmp_path / "c.jsonl", [comparison(number) for number in range(60)])
    assistant = Assistant(tmp_path / "run", TINY, 0, "smollm2", rows, write(tmp_path / "d.jsonl", [row] * 10))
    prepare_data(assistant)
    first = next(read_demonstrations(tmp_path / "run" / "data" / "demonstrations.jsonl"))
    assert (first.prompt.messages[0].content, first.completion) == ("Add.\n\n1 and 2", "3")


def test_a_copy_of_the_data_is_found_by_its_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a copy of the data") as error:
        files_of(tmp_path)
    assert "hh-rlhf/train.jsonl" in error.value.hint
    write(tmp_path / "hh-rlhf" / "train.jsonl", [comparison(0)])
    write(tmp_path / "instruct" / "own.jsonl", [{"prompt": "a", "completion": "b"}])
    comparisons, demonstrations = files_of(tmp_path)
    assert comparisons.endswith("hh-rlhf/train.jsonl") and demonstrations.endswith("instruct/own.jsonl")
