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
PAIR_VOTE = {"type": "pairwise", "to_name": "answer1,answer2", "value": {"selected": "right"}}
PAIRWISE = {
    "data": {"prompt": "Why?", "answer1": "So.", "answer2": "Because."},
    "annotations": [{"completed_by": {"email": "ann@example"}, "result": [PAIR_VOTE]}],
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


@pytest.mark.parametrize("keys", [("zebra", "ape"), ("ape", "zebra")], ids=" ".join)
@pytest.mark.parametrize("selected", ["left", "right"])
def test_to_name_says_which_text_is_left_whatever_the_order_of_keys(
    tmp_path: Path, keys: tuple[str, str], selected: str
) -> None:
    data = {key: f"text of {key}" for key in keys} | {"prompt": "Why?", "model_1": "m", "model_2": "n"}
    vote = {"type": "pairwise", "to_name": "ape,zebra", "value": {"selected": selected}}
    [(_, _, order)] = votes(tmp_path, {"data": data, "annotations": [{"completed_by": 1, "result": [vote]}]})
    best = "ape" if selected == "left" else "zebra"
    assert f"text of {best}1" in order


def test_tags_with_numbers_of_their_own_find_their_texts_and_others_are_refused(tmp_path: Path) -> None:
    def row(to_name: str) -> dict[str, Any]:
        vote = {**PAIR_VOTE, "to_name": to_name}
        return {**PAIRWISE, "annotations": [{"completed_by": 1, "result": [vote]}]}

    assert votes(tmp_path, row("txt-1,txt-2"))[0][2] == "So.2 Because.1"
    assert votes(tmp_path, row("txt-2,txt-1"))[0][2] == "Because.2 So.1"
    for wrong in ("first,second", "answer1", "answer1,answer1", ""):
        with pytest.raises(DataError, match="to_name"):
            votes(tmp_path, row(wrong))


def test_other_controls_of_label_studio_say_nothing_about_the_order(tmp_path: Path) -> None:
    others = [
        {"type": "choices", "to_name": "prompt", "value": {"choices": ["unclear"]}},
        {"type": "rating", "to_name": "answer1", "value": {"rating": 4}},
        {"type": "textarea", "to_name": "prompt", "value": {"text": ["hm"]}},
    ]
    annotations = [{"completed_by": 1, "result": [*others, PAIR_VOTE]}, {"completed_by": 2, "result": others}]
    assert [who for who, _, _ in votes(tmp_path, {**PAIRWISE, "annotations": annotations})] == ["label_studio_1"]


def test_a_ranker_ranks_the_list_its_ids_belong_to(tmp_path: Path) -> None:
    def row(ranker: Any) -> dict[str, Any]:
        items = [{"id": "a", "body": "So."}, {"id": "b", "body": "Because."}]
        data = {"sources": [{"id": "x", "body": "a page"}], "items": items, "prompt": "Why?"}
        result = {"type": "ranker", "value": {"ranker": ranker}}
        return {"data": data, "annotations": [{"completed_by": 1, "result": [result]}]}

    for ranker in (["b", "a"], {"rank": ["b", "a"], "_": []}, {"_": ["a", "b"], "rank": ["b", "a"]}):
        assert votes(tmp_path, row(ranker))[0][2] == "So.2 Because.1"
    with pytest.raises(DataError, match="2 filled buckets"):
        votes(tmp_path, row({"good": ["a"], "bad": ["b"]}))


def test_a_choice_of_labels_beside_argillas_ranking_is_no_ranking(tmp_path: Path) -> None:
    fields = {"prompt": "Why?", "a": "So.", "b": "Because."}
    flaws = {
        "wrong_ones": [{"value": ["b", "a"], "user_id": "ann"}],
        "tags": [{"value": ["rude", "long"], "user_id": "ann"}],
    }
    with_ranks = [{"value": "a", "rank": 1}, {"value": "b", "rank": 2}]
    row = {"fields": fields, "responses": {**flaws, "order": [{"value": with_ranks, "user_id": "ann"}]}}
    assert votes(tmp_path, row) == [("ann", "Why?", "So.1 Because.2")]
    only = {"fields": fields, "responses": {"tags": flaws["tags"], "order": [{"value": ["b", "a"], "user_id": "bo"}]}}
    assert votes(tmp_path, only) == [("bo", "Why?", "Because.1 So.2")]
    unclear = {"fields": fields, "responses": {**flaws, "order": [{"value": ["a", "b"], "user_id": "ann"}]}}
    with pytest.raises(DataError, match="which question ranks"):
        votes(tmp_path, unclear)


@pytest.mark.parametrize(
    "odd",
    [
        {"data": {"prompt": "Why?"}, "annotations": 7},
        {"data": {"prompt": "Why?"}, "annotations": ["x"]},
        {"data": None, "annotations": []},
        {"data": {"prompt": "Why?"}, "annotations": [{"result": [{"type": "pairwise", "value": "left"}]}]},
        {"text": "of another file"},
        "no object",
    ],
    ids=str,
)
def test_a_row_no_tool_wrote_spoils_itself_alone(tmp_path: Path, odd: Any) -> None:
    bad = BadRows()
    assert len(votes(tmp_path, odd, PAIRWISE, bad=bad)) == 1 and bad.count == 1
    bad = BadRows()
    assert len(votes(tmp_path, PAIRWISE, odd, bad=bad)) == 1 and bad.count == 1


def test_a_system_message_and_an_input_belong_to_the_prompt_and_other_texts_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {"system": "Be brief.", "instruction": "Sum up:", "input": "A long text.", "background": "A war."}
    row = {**PAIRWISE, "data": {**shown, "answer1": "So.", "answer2": "Because.", "model": "m"}}
    (tmp_path / "export.json").write_text(json.dumps([row]))
    [ranking] = import_rankings(tmp_path / "export.json")
    assert [(m.role, m.content) for m in ranking.prompt.messages] == [
        ("system", "Be brief."),
        ("user", "Sum up:\n\nA long text."),
    ]
    assert "keys that are not read: data.background (line 1)." in capsys.readouterr().err
