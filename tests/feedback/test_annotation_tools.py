"""Exports of Argilla and Label Studio, as their servers write them, become rankings."""

import json
from pathlib import Path
from typing import Any

import pytest

from wuya.errors import DataError
from wuya.feedback.importers import import_rankings
from wuya.files import BadRows

ARGILLA_2 = {
    "id": "r1",
    "fields": {"instruction": "Why?", "response-1": "So.", "response-2": "Because.", "response-3": "Who knows."},
    "responses": {
        "ranking": [
            {"value": ["response-2", "response-1", "response-3"], "user_id": "ann"},
            {"value": [{"value": "response-1", "rank": 1}, {"value": "response-2", "rank": 1}], "user_id": "bob"},
        ],
        "comment": [{"value": "hm", "user_id": "ann"}],
    },
}
ARGILLA_1 = {
    "fields": {"prompt": "Why?", "a": "So.", "b": "Because."},
    "responses": [
        {"values": {"order": {"value": [{"value": "a", "rank": 2}, {"value": "b", "rank": 1}]}}, "user_id": "ann",
         "status": "submitted"},
        {"values": {"order": {"value": [{"value": "a", "rank": 1}, {"value": "b", "rank": 2}]}}, "user_id": "bob",
         "status": "discarded"},
    ],
}  # fmt: skip
RANKER = {
    "id": 7,
    "data": {
        "prompt": "Why?",
        "items": [{"id": "x", "title": "A", "body": "So."}, {"id": "y", "title": "B", "body": "Because."}],
    },
    "annotations": [
        {"completed_by": 3, "result": [{"type": "ranker", "value": {"ranker": {"rank": ["y", "x"]}}}]},
        {"completed_by": 4, "was_cancelled": True, "result": []},
    ],
}
PAIRWISE = {
    "data": {"prompt": "Why?", "answer1": "So.", "answer2": "Because."},
    "annotations": [
        {"completed_by": {"email": "ann@example"}, "result": [{"type": "pairwise", "value": {"selected": "right"}}]}
    ],
}


def votes(path: Path, *rows: Any, bad: BadRows | None = None) -> list[tuple[str, str, str]]:
    """(labeler, prompt, order as text) of each ranking."""
    (path / "export.json").write_text(json.dumps(list(rows)))
    return [
        (
            r.labeler,
            r.prompt.messages[0].content,
            " ".join(f"{c.text}{rank}" for c, rank in zip(r.candidates, r.ranks, strict=True)),
        )
        for r in import_rankings(path / "export.json", bad)
    ]


def test_argilla_2_ranks_by_name_or_with_ties(tmp_path: Path) -> None:
    assert votes(tmp_path, ARGILLA_2) == [
        ("ann", "Why?", "Because.1 So.2 Who knows.3"),
        ("bob", "Why?", "So.1 Because.1"),
    ]


def test_argilla_1_votes_that_were_discarded_do_not_count(tmp_path: Path) -> None:
    assert votes(tmp_path, ARGILLA_1) == [("ann", "Why?", "So.2 Because.1")]


def test_label_studio_rankers_and_pairs(tmp_path: Path) -> None:
    assert votes(tmp_path, RANKER) == [("label_studio_3", "Why?", "So.2 Because.1")]
    assert votes(tmp_path, PAIRWISE) == [("ann@example", "Why?", "So.2 Because.1")]


def test_a_vote_that_names_what_is_not_there_is_a_bad_row(tmp_path: Path) -> None:
    wrong = {**ARGILLA_1, "fields": {"prompt": "Why?", "a": "So."}}
    with pytest.raises(DataError, match="not there: b"):
        votes(tmp_path, wrong)
    bad = BadRows()
    assert len(votes(tmp_path, ARGILLA_1, wrong, bad=bad)) == 1 and bad.count == 1
