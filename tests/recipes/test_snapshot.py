"""`wuya snapshot`: every kind from one store, read back by our readers, with a card that says what it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from wuya.data.formats import read_comparisons, read_demonstrations, read_rankings
from wuya.errors import ConfigError
from wuya.feedback.snapshot import Kind, open_snapshot
from wuya.feedback.store import FeedbackStore
from wuya.files import read_jsonl
from wuya.recipes.snapshot import SnapshotConfig, run
from wuya.records import Candidate, Comparison, Demonstration, Feedback, Message, Prompt, Ranking


@pytest.fixture
def database(tmp_path: Path) -> Path:
    ask = Prompt("p", (Message("user", "why?"),), source="chat")
    with FeedbackStore(tmp_path / "wuya.db") as store:
        candidates = tuple(Candidate(text, model="sft") for text in ("a", "b", "c"))
        store.add_rankings([Ranking(ask, candidates, (1, 2, 2), "ann"), Ranking(ask, candidates, (3, 2, 1), "spam")])
        store.add_comparisons([Comparison(ask, "x", "y", "bob", source="regenerate")])
        store.add_comparisons([Comparison(ask, "e", "f", "judge")], source="eval")
        store.add_feedback(Feedback(ask, "meh", -1, better_answer="ideal"), user="bob", message_id="m1")
        store.add_feedback(Feedback(ask, "nice", 1), user="bob", message_id="m2")
        store.add_demonstrations([Demonstration(ask, Message("assistant", "shown"), "ann")])
    return tmp_path / "wuya.db"


def freeze(database: Path, kind: Kind, **changes: Any) -> Path:
    return run(SnapshotConfig(kind=kind, database=str(database), out=database.parent / "out", **changes))


def test_pairs_come_from_everywhere_with_source_and_weight_and_without_evaluations(database: Path) -> None:
    path = freeze(database, "rm_pairs", without_labelers=("spam",))
    rows = [(c.source, c.chosen, c.rejected, c.weight) for c in read_comparisons(path)]
    assert rows == [
        ("ranking", "a", "b", 1.0),
        ("ranking", "a", "c", 1.0),
        ("regenerate", "x", "y", 0.25),
        ("better_answer", "ideal", "meh", 0.5),
        ("thumbs", "nice", "meh", 0.5),
    ]
    assert [r.weight for r in read_rankings(path)] == [row[-1] for row in rows]  # the reward model's view of the file
    changed = freeze(database, "rm_pairs", without_labelers=("spam",), weights={"regenerate": 0.0, "thumbs": 1.0})
    assert [c.weight for c in read_comparisons(changed) if c.source == "thumbs"] == [1.0]
    assert changed.name != path.name and open_snapshot(changed).filter["weights"]["regenerate"] == 0.0


def test_the_forms_of_trl(database: Path) -> None:
    row = next(row for _, row in read_jsonl(freeze(database, "dpo")))
    assert row["prompt"] == [{"role": "user", "content": "why?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "a"}] and row["rejected"][0]["role"] == "assistant"
    assert next(iter(read_comparisons(freeze(database, "dpo")))).chosen == "a"
    kto = {(row["completion"][0]["content"], row["label"]) for _, row in read_jsonl(freeze(database, "kto"))}
    assert kto == {("meh", False), ("ideal", True), ("nice", True)}


def test_demonstrations_with_and_without_what_users_wrote(database: Path) -> None:
    assert [d.completion for d in read_demonstrations(freeze(database, "sft"))] == ["shown"]
    assert [d.completion for d in read_demonstrations(freeze(database, "sft", better_answers=True))] == [
        "shown",
        "ideal",
    ]


def test_every_kind_has_a_card_and_simulated_votes_are_named_in_it(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("sft", "rm_rankings", "rm_pairs", "dpo", "kto", "prompts", "feedback", "raw"):
        path = freeze(database, kind)
        card = path.with_suffix(".card.md").read_text()
        assert path.name in card and open_snapshot(path).sha256 in card and "simulated" not in card
    with FeedbackStore(database) as store:
        answers = (Candidate("a"), Candidate("b"))
        store.add_rankings([Ranking(Prompt("q", (Message("user", "!"),)), answers, (1, 2), "sim", source="simulated")])
    path = freeze(database, "rm_rankings", json=True)
    assert "1 of 3 rows were made by simulated labelers" in path.with_suffix(".card.md").read_text()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_rows"] == 3


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="thumb"):
        SnapshotConfig(kind="dpo", weights={"thumb": 1.0})
