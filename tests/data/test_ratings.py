"""Answers judged one by one are read from TRL's form and from ours; a row whose meaning is unclear is a bad row."""

import json
from pathlib import Path
from typing import Any

import pytest

from wuya.data.ratings import holds_ratings, read_ratings
from wuya.files import BadRows


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_messages_and_thumbs_are_read_with_their_weight(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hello"}]
    path = written(
        tmp_path / "ratings.jsonl",
        {"prompt": "hello", "completion": "hi", "label": True, "weight": 0.5, "labeler": "ann"},
        {"prompt": chat, "completion": [{"role": "assistant", "content": "go away"}], "label": False},
        {"id": "x", "prompt": chat, "completion": "hm", "value": -1, "reasons": [], "finished": False},
    )
    bad = BadRows()
    first, second, third = read_ratings(path, bad)
    assert not bad.count and holds_ratings(path)
    assert (first.candidate.text, first.desirable, first.weight, first.labeler) == ("hi", True, 0.5, "ann")
    assert (second.candidate.text, second.desirable) == ("go away", False)
    assert not third.desirable and not third.candidate.finished
    assert first.prompt.id == second.prompt.id == third.prompt.id  # the same messages, whatever the row's id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": "good"}, "`label` must be"),
        ({"label": None}, "`label` must be"),
        ({"label": True, "value": -1}, "`label` must be"),
        ({"completion": "  "}, "empty"),
        ({"weight": 0}, "weight"),
        ({"weight": True}, "weight"),
        ({"finished": "no"}, "finished"),
        ({"prompt": [{"role": "assistant", "content": "hi"}]}, "nothing is left to answer"),
    ],
)
def test_an_unclear_row_spoils_itself_and_no_other(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good = {"prompt": "hello", "completion": "hi", "label": True}
    bad = BadRows()
    found = list(read_ratings(written(tmp_path / "ratings.jsonl", good, good | change, good), bad))
    assert len(found) == 2 and bad.count == 1 and reason in bad.summary()


def test_rankings_and_pairs_are_no_ratings(tmp_path: Path) -> None:
    assert not holds_ratings(written(tmp_path / "a.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"}))
    assert not holds_ratings(written(tmp_path / "b.jsonl", {"prompt": "p", "completion": "a demonstration"}))


def test_a_rating_keeps_the_context_of_its_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = {
        "prompt": "And Wales?",
        "completion": "Cardiff.",
        "label": True,
        "history": [["France?", "Paris."]],
    }
    tools = [{"name": "map"}]
    row |= {"system": "Be brief.", "tools": tools, "page": "a book", "reasons": ["x"]}
    path = written(tmp_path / "a.jsonl", row)
    [rating] = read_ratings(path, BadRows())
    assert [m.content for m in rating.prompt.messages] == ["Be brief.", "France?", "Paris.", "And Wales?"]
    assert len(rating.prompt.tools) == 1
    warning = capsys.readouterr().err
    assert "page (line 1)" in warning and "reasons" not in warning
