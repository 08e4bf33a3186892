"""Every format gives the same records, what we write we read back, and bad rows are named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from wuya.data.formats import (
    read_comparisons,
    read_demonstrations,
    read_prompts,
    read_rankings,
    write_demonstrations,
    write_prompts,
    write_rankings,
)
from wuya.errors import DataError
from wuya.files import BadRows
from wuya.records import Candidate, Demonstration, Message, Prompt, Ranking

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Caw!"}
HH = "\n\nHuman: Hi\n\nAssistant: Hm?\n\nHuman: Well\n\nAssistant:"


def write(tmp_path: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Caw!"}]},
        {"instruction": "Hi", "input": "", "output": "Caw!"},
        {"instruction": "Hi", "output": "Caw!"},
        {"prompt": "Hi", "completion": "Caw!"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"question": "Hi", "answer": "Caw!"},
    ],
    ids=lambda row: "+".join(row),
)
def test_demonstrations_from_every_format(tmp_path: Path, row: dict[str, Any]) -> None:
    [demonstration] = read_demonstrations(write(tmp_path, row))
    assert demonstration.messages == (Message("user", "Hi"), Message("assistant", "Caw!"))
    assert demonstration.completion == "Caw!"
    [prompt] = read_prompts(write(tmp_path, row))
    assert prompt == demonstration.prompt
    assert prompt.source == "rows.jsonl"


def test_system_messages_and_inputs_are_kept(tmp_path: Path) -> None:
    [alpaca] = read_demonstrations(
        write(tmp_path, {"instruction": "Sum", "input": "1 2", "output": "3", "system": "Be"})
    )
    assert alpaca.prompt.messages == (Message("system", "Be"), Message("user", "Sum\n\n1 2"))
    chat = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Caw!"}]
    [sharegpt] = read_demonstrations(write(tmp_path, {"system": "Be", "conversations": chat}))
    assert sharegpt.prompt.messages == (Message("system", "Be"), Message("user", "Hi"))


def test_json_arrays_gz_and_parquet_hold_rows_too(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"messages": [USER, ANSWER]}] * 2
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    for name in ("a.json", "b.jsonl.gz", "c.parquet"):
        assert [d.completion for d in read_demonstrations(tmp_path / name)] == ["Caw!"] * 2


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
        {"prompt": [USER], "chosen": "good", "rejected": "bad"},
        {"prompt": [USER], "chosen": [{"role": "assistant", "content": "good"}], "rejected": "bad"},
        {
            "prompt": "Hi",
            "chosen": [USER, {"role": "assistant", "content": "good"}],
            "rejected": [USER, {"role": "assistant", "content": "bad"}],
        },
        {
            "chosen": [USER, {"role": "assistant", "content": "good"}],
            "rejected": [USER, {"role": "assistant", "content": "bad"}],
        },
        {"chosen": "\n\nHuman: Hi\n\nAssistant: good", "rejected": "\n\nHuman: Hi\n\nAssistant: bad"},
    ],
    ids=["text", "messages", "mixed", "whole chats", "implicit prompt", "hh-rlhf text"],
)
def test_comparisons_from_every_form(tmp_path: Path, row: dict[str, Any]) -> None:
    [comparison] = read_comparisons(write(tmp_path, row))
    assert comparison.prompt.messages == (Message("user", "Hi"),)
    assert (comparison.chosen, comparison.rejected) == ("good", "bad")
    [ranking] = read_rankings(write(tmp_path, row))
    assert [c.text for c in ranking.candidates] == ["good", "bad"]
    assert ranking.ranks == (1, 2)


def test_hh_rlhf_text_gives_turns(tmp_path: Path) -> None:
    [comparison] = read_comparisons(write(tmp_path, {"prompt": HH, "chosen": " yes", "rejected": " no"}))
    assert [m.role for m in comparison.prompt.messages] == ["user", "assistant", "user"]


def test_rankings_in_native_and_ordered_form(tmp_path: Path) -> None:
    native = {"prompt": "Hi", "candidates": ["a", {"text": "b", "token_ids": [1, 2]}, "c"], "ranks": [2, 1, 2]}
    [ranking] = read_rankings(write(tmp_path, native))
    assert ranking.ranks == (2, 1, 2)
    assert ranking.candidates[1] == Candidate("b", (1, 2))
    for order in ([1, [0, 2]], [[1], [0, 2]]):
        [same] = read_rankings(write(tmp_path, {"prompt": "Hi", "responses": ["a", "b", "c"], "ranking": order}))
        assert same.ranks == (2, 1, 2)
    pairs = list(read_comparisons(write(tmp_path, native)))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("b", "a"), ("b", "c")]  # a and c are a tie
    assert len({pair.group for pair in pairs}) == 1 and pairs[0].group


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "candidates": ["a"], "ranks": [1]}, "at least 2 answers, found 1"),
        ({"prompt": "Hi", "candidates": ["a", "b", "c"], "ranks": [1, 2]}, "omits an answer: 3 candidates, 2 ranks"),
        ({"prompt": "Hi", "candidates": ["a", "b"], "ranks": [1, None]}, "omits an answer"),
        ({"prompt": "Hi", "candidates": ["a", "b"], "ranks": [1, 3]}, "without gaps"),
        ({"prompt": "Hi", "candidates": ["a", "b"], "ranks": [0, 1]}, "without gaps"),
        ({"prompt": "Hi", "candidates": ["a", "b"], "ranks": [1.0, 2.0]}, "whole numbers"),
        ({"prompt": "Hi", "candidates": ["a", 3], "ranks": [1, 2]}, "a candidate is a text"),
        ({"prompt": "Hi", "candidates": "ab", "ranks": [1, 2]}, "not a list"),
        ({"prompt": "Hi", "candidates": ["a", "b", "a"], "ranks": [1, 2, 3]}, "two answers are the same text"),
    ],
)
def test_a_bad_ranking_is_a_named_row(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    good = {"prompt": "Hi", "candidates": ["a", "b"], "ranks": [1, 1]}
    bad = BadRows()
    [ranking] = read_rankings(write(tmp_path, good, row), bad)
    assert ranking.ranks == (1, 1)
    assert bad.count == 1
    assert "rows.jsonl:2: " in bad.summary() and reason in bad.summary()
    with pytest.raises(DataError, match=r"rows\.jsonl:2: "):
        list(read_rankings(write(tmp_path, good, row)))


def test_the_same_text_may_tie_with_itself_and_lose_when_it_was_cut_off(tmp_path: Path) -> None:
    cut = {"text": "a", "finished": False}
    rows = [
        {"prompt": "Hi", "candidates": ["a", "a", "b"], "ranks": [1, 1, 2]},
        {"prompt": "Hi", "candidates": ["a", cut, "b"], "ranks": [1, 3, 2]},
    ]
    assert [ranking.ranks for ranking in read_rankings(write(tmp_path, *rows))] == [(1, 1, 2), (1, 3, 2)]
    for order in ([0, 1, 2], [[0, 2], 1]):
        bad = BadRows()
        with pytest.raises(DataError):
            list(read_rankings(write(tmp_path, {"prompt": "Hi", "responses": ["a", "a", "b"], "ranking": order}), bad))
        assert "two answers are the same text" in bad.summary()


@pytest.mark.parametrize(
    ("order", "reason"),
    [([0], "omits an answer: index 1"), ([0, 0, 1], "twice"), ([0, 2], "indices 0 to 1"), ([1, "0"], "indices 0 to 1")],
)
def test_a_bad_order_is_a_named_row(tmp_path: Path, order: list[Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        list(read_rankings(write(tmp_path, {"prompt": "Hi", "responses": ["a", "b"], "ranking": order})))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER]}, "must end with the assistant, ends with user"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "the answer is empty"),
        ({"messages": [ANSWER]}, "an answer and no prompt"),
        ({"messages": [ANSWER, ANSWER]}, "the prompt ends with the assistant"),
        ({"messages": [{"role": "wizard", "content": "x"}, ANSWER]}, "message 1 has an unknown role 'wizard'"),
        ({"messages": [{"role": "user", "content": None}, ANSWER]}, "content of message 1 is not text, found nothing"),
        ({"messages": ["Hi", ANSWER]}, "message 1 is not an object"),
        ({"messages": []}, "an empty one"),
        ({"messages": "Hi"}, "expected a list of messages, found str"),
        ({"message": [USER, ANSWER]}, "no `messages` (keys: message)"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "x"}]}', "surrogate"),
        ("{not json", "not JSON"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_a_bad_demonstration_is_a_named_row(tmp_path: Path, row: Any, reason: str) -> None:
    bad = BadRows()
    path = write(tmp_path, {"messages": [USER, ANSWER]}, row)
    assert len(list(read_demonstrations(path, bad))) == 1
    assert bad.count == 1
    assert "rows.jsonl:2: " in bad.summary() and reason in bad.summary()


def test_pairs_without_preference_or_prompt_are_bad(tmp_path: Path) -> None:
    for row, reason in (
        ({"prompt": "Hi", "chosen": "x", "rejected": "x"}, "the same"),
        ({"chosen": "x", "rejected": "y"}, "no `prompt`"),
        ({"prompt": "Hi", "chosen": [USER], "rejected": "y"}, "one message of the assistant"),
        ({"prompt": [USER, ANSWER], "chosen": "x", "rejected": "y"}, "ends with the assistant"),
    ):
        with pytest.raises(DataError, match=reason):
            list(read_comparisons(write(tmp_path, row)))


def test_a_file_of_another_or_no_format_names_its_keys(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        list(read_demonstrations(write(tmp_path, {"prompt": "Hi", "chosen": "a", "rejected": "b"}), BadRows()))
    assert "rows with prompt, chosen, rejected; that is the format `comparison`" in str(error.value)
    with pytest.raises(DataError) as error:
        list(read_rankings(write(tmp_path, {"foo": 1, "bar": 2}), BadRows()))
    assert "rows with foo, bar" in str(error.value)
    assert "ranking: prompt, candidates, ranks" in str(error.value)


def test_an_empty_or_all_bad_file_is_an_error(tmp_path: Path) -> None:
    for rows, reason in (((), "an empty file"), (({"messages": []},), "1 bad rows"), (("{",), "1 bad rows")):
        with pytest.raises(DataError, match="no usable demonstrations") as error:
            list(read_demonstrations(write(tmp_path, *rows), BadRows()))
        assert reason in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        list(read_demonstrations(tmp_path / "missing.jsonl"))


def test_equal_prompts_have_equal_ids_unless_the_row_names_one(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "Hi"}, {"prompt": [USER]}, {"prompt": "Ho"}, {"prompt": "Hi", "id": 7})
    first, same, other, named = (prompt.id for prompt in read_prompts(path))
    assert first == same != other
    assert named == "7"


def test_what_we_write_we_read_back(tmp_path: Path) -> None:
    prompt = Prompt("p1", (Message("system", "Be"), Message("user", "Hi \u4e4c\n")), source="chat", author="h4sh")
    demonstration = Demonstration(prompt, Message("assistant", "Caw!"), labeler="ann")
    ranking = Ranking(
        prompt,
        (
            Candidate("a", (5, 2), model="runs/sft", temperature=0.7),
            Candidate("", (9,), finished=False),
            Candidate("c"),
        ),
        (1, 2, 1),
        labeler="ann",
        round=3,
        source="edit",
        created_at="2026-01-01T00:00:00Z",
        flags={"harmful": False, "quality": 6, "violent": None},
    )
    write_prompts(tmp_path / "p.jsonl", [prompt])
    write_demonstrations(tmp_path / "d.jsonl", [demonstration])
    write_rankings(tmp_path / "r.jsonl", [ranking])
    assert list(read_prompts(tmp_path / "p.jsonl")) == [prompt]
    assert list(read_demonstrations(tmp_path / "d.jsonl")) == [demonstration]
    assert list(read_rankings(tmp_path / "r.jsonl")) == [ranking]
    assert list(read_prompts(tmp_path / "r.jsonl")) == [prompt]


def test_real_human_comparisons_and_rankings_read_without_a_bad_row_but_contradictions(test_data: Path) -> None:
    bad, contradictions = BadRows(), BadRows()
    assert len(list(read_comparisons(test_data / "hh-rlhf" / "dev.jsonl.gz", bad))) == 428
    assert len(list(read_rankings(test_data / "zh" / "oasst_rankings.jsonl.gz", contradictions))) == 587
    assert contradictions.count == 5 and all("the same text" in example for example in contradictions.examples)
    assert len(list(read_demonstrations(test_data / "zh" / "oasst_sft.jsonl.gz", bad))) == 568
    assert bad.count == 0
