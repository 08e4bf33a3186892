"""What training reads is frozen, hashed and the same whenever it is exported."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.databases import Databases
from tests.feedback.examples import prompt, ranking
from wuya.data.formats import read_comparisons, read_demonstrations, read_prompts, read_rankings
from wuya.errors import DataError
from wuya.feedback.data_card import script_of
from wuya.feedback.reading import Selection
from wuya.feedback.snapshot import open_snapshot
from wuya.feedback.store import FeedbackStore
from wuya.records import Demonstration, Feedback, Message


def test_training_reads_a_frozen_hashed_file(store: FeedbackStore, tmp_path: Path) -> None:
    given = [ranking("p1", "ann"), ranking("p1", "bob", (1, 2, 3)), ranking("p2", "ann", (1, 2), round=1)]
    store.add_rankings(given)
    frozen = store.export_snapshot("rm_rankings", tmp_path / "out")
    assert frozen.path.name == f"rm_rankings-{frozen.sha256[:12]}.jsonl"
    assert [replace(r, created_at="") for r in read_rankings(frozen.path)] == given
    assert open_snapshot(frozen.path) == frozen
    assert store.export_snapshot("rm_rankings", tmp_path / "again").sha256 == frozen.sha256
    assert store.counts()["exports"] == 1, "the same content is one export"
    store.add_rankings([ranking("p3")])
    newer = store.export_snapshot("rm_rankings", tmp_path / "out")
    assert newer.path != frozen.path and frozen.path.exists() and newer.num_rows == 4
    assert store.counts()["exports"] == 2


def test_the_snapshot_depends_on_the_votes_not_on_when_they_came(
    store: FeedbackStore, databases: Databases, tmp_path: Path
) -> None:
    given = [ranking(f"p{i}", labeler) for i in range(5) for labeler in ("ann", "bob")]
    store.add_rankings(given)
    with databases.new(tmp_path / "other.db") as second, FeedbackStore(second) as other:
        for one in reversed(given):
            other.add_rankings([one])
        assert (
            other.export_snapshot("rm_rankings", tmp_path / "b").sha256
            == store.export_snapshot("rm_rankings", tmp_path / "a").sha256
        )


def test_a_changed_snapshot_is_refused(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_rankings([ranking()])
    frozen = store.export_snapshot("rm_rankings", tmp_path)
    frozen.path.write_text(frozen.path.read_text().replace("second", "SECOND"))
    with pytest.raises(DataError, match="changed after it was frozen"):
        open_snapshot(frozen.path)
    with pytest.raises(DataError, match="not a snapshot"):
        open_snapshot(tmp_path / "missing.jsonl")


def test_selections_choose_round_labeler_project_and_source(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_rankings([ranking("p1", "ann"), ranking("p1", "bob"), ranking("p2", "ann", round=1, source="simulated")])
    store.add_rankings([ranking("p3", "ann")], project="other")

    def chosen(**fields: object) -> list[tuple[str, str]]:
        return [(r.prompt.id, r.labeler) for r in store.rankings(Selection(**fields))]  # type: ignore[arg-type]

    assert chosen(project="default") == [("p1", "ann"), ("p1", "bob"), ("p2", "ann")]
    assert chosen(rounds=(1,)) == chosen(sources=("simulated",)) == [("p2", "ann")]
    assert chosen(labelers=("bob",)) == [("p1", "bob")]
    frozen = store.export_snapshot("rm_rankings", tmp_path, selection=Selection(rounds=(1,)))
    assert frozen.num_rows == 1 and frozen.filter == {"rounds": (1,)}
    with pytest.raises(DataError, match="nothing to export"):
        store.export_snapshot("rm_rankings", tmp_path, selection=Selection(rounds=(7,)))


def test_every_kind_of_snapshot_reads_back(store: FeedbackStore, tmp_path: Path) -> None:
    store.add_rankings([ranking("p1", "ann", (2, 1, 2))])
    store.add_demonstrations([Demonstration(prompt("p1"), Message("assistant", "an answer"), "ann")])
    store.add_feedback(Feedback(prompt("p1"), "x", 1))
    pairs = list(read_comparisons(store.export_snapshot("rm_pairs", tmp_path).path))
    assert [(c.chosen, c.rejected) for c in pairs] == [("second", "first"), ("second", "answer 3")], (
        "the tie is dropped"
    )
    assert {c.group for c in pairs} == {"p1"}
    assert list(read_demonstrations(store.export_snapshot("sft", tmp_path).path)) == list(store.demonstrations())
    assert list(read_prompts(store.export_snapshot("prompts", tmp_path).path)) == [prompt("p1")]
    assert json.loads(store.export_snapshot("feedback", tmp_path).path.read_text())["value"] == 1
    raw = json.loads(store.export_snapshot("raw", tmp_path).path.read_text())
    assert raw["ranks"] == [2, 1, 2] and raw["created_at"] and raw["active_ms"] is None


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("What is a crow?", "Latin"),
        ("\u4e4c\u9e26\u662f\u4ec0\u4e48\uff1f", "Chinese"),
        ("\u30ab\u30e9\u30b9\u306f\u4f55\u3067\u3059\u304b", "Japanese"),
        ("\u0427\u0442\u043e \u0442\u0430\u043a\u043e\u0435 \u0432\u043e\u0440\u043e\u043d\u0430?", "Cyrillic"),
        ("Translate \u4e4c\u9e26 into English", "Latin"),
        ("1 + 1 = ?", "no letters"),
    ],
)
def test_the_data_card_names_the_script_of_prompts(text: str, script: str) -> None:
    assert script_of(text) == script
