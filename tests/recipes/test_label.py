"""`wuya label`: a person at a terminal, simulated people or a file; always a frozen snapshot in the end."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from wuya.data.formats import read_rankings, write_rankings
from wuya.errors import ConfigError, DataError, Interrupted
from wuya.feedback.simulated import Labelers, Normaliser, make_labelers
from wuya.feedback.snapshot import open_snapshot
from wuya.feedback.store import FeedbackStore
from wuya.recipes import label
from wuya.recipes.label import LabelConfig
from wuya.records import Candidate, Message, Prompt, Ranking

TEXTS = (
    "That is great, I love dogs! Which breed is yours?",
    "ok",
    "dogs dogs dogs dogs dogs dogs",
    "I see. What do you do?",
)


@pytest.fixture
def config(tmp_path: Path) -> LabelConfig:
    rows = [
        {"id": f"p{i}", "prompt": f"My dog number {i} is barking a lot today", "candidates": list(TEXTS)}
        for i in range(4)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LabelConfig(
        candidates=tmp_path / "answers.jsonl", database=str(tmp_path / "wuya.db"), name="ann", out=tmp_path / "out"
    )


@pytest.fixture
def people(tmp_path: Path) -> Path:
    prompt = (Message("user", "My dog is barking"),)
    make_labelers(Normaliser.fit([(prompt, text) for text in TEXTS])).save(tmp_path / "labelers.json")
    return tmp_path / "labelers.json"


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_person_ranks_at_the_terminal(
    config: LabelConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines(monkeypatch, "2>1=3>4", "nonsense", "1>2", "1=2=3=4", "s", "q")
    path = label.run(config)
    shown = capsys.readouterr()
    assert shown.out.strip() == str(path), "stdout holds the result and nothing else"
    assert "can't read this order" in shown.err and "not placed: 3, 4" in shown.err
    assert all(text in shown.err for text in TEXTS)
    first, second = sorted(read_rankings(path), key=lambda r: len(set(r.ranks)))
    assert first.ranks == (1, 1, 1, 1)
    assert sorted(second.ranks) == [1, 2, 2, 3]
    assert {first.labeler, second.labeler} == {"ann"}
    with FeedbackStore(config.database) as store:
        assert len(list(store.open_answers())) == 2, "the skipped one and the one never reached"


def test_the_order_typed_is_the_order_shown(
    config: LabelConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines(monkeypatch, "1>2>3>4")
    [ranking] = read_rankings(label.run(replace(config, limit=1)))
    shown = capsys.readouterr().err
    shown_first = min(TEXTS, key=lambda text: shown.index(f"] {text}\n"))
    best = ranking.candidates[ranking.ranks.index(1)].text
    assert best == shown_first


def test_the_same_command_goes_on_where_it_stopped(config: LabelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    type_lines(monkeypatch, "1>2>3>4", "q")
    assert open_snapshot(label.run(config)).num_rows == 1
    type_lines(monkeypatch, *["1>2>3>4"] * 9)
    assert open_snapshot(label.run(config)).num_rows == 4


def test_ctrl_c_keeps_what_was_ranked(config: LabelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keys(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:
            line = super().readline()
            if not line:
                raise KeyboardInterrupt
            return line

    monkeypatch.setattr("sys.stdin", Keys("1>2>3>4\n"))
    with pytest.raises(Interrupted, match="your 1 rankings are kept"):
        label.run(config)
    with FeedbackStore(config.database) as store:
        assert len(list(store.rankings())) == 1


def test_simulated_people_rank_everything_and_repeat_it(config: LabelConfig, people: Path, tmp_path: Path) -> None:
    simulated = replace(config, labeler="simulated", labelers=people, overlap=2)
    path = label.run(simulated)
    found = list(read_rankings(path))
    assert len(found) == 8 and len({(r.prompt.id, r.labeler) for r in found}) == 8
    assert {r.source for r in found} == {"simulated"}
    labelers = Labelers.load(people)
    for ranking in found:
        again = labelers.named(ranking.labeler).rank(ranking.prompt, ranking.candidates)
        assert again.ranks == ranking.ranks, "they are what the labelers say"
    assert label.run(simulated) == path, "a second run adds nothing"
    other = replace(simulated, database=str(tmp_path / "other.db"), out=tmp_path / "other")
    assert label.run(other).name == path.name, "same people, same answers: same file, byte for byte"


def test_simulated_people_may_be_told_to_rank_at_random(config: LabelConfig, people: Path, tmp_path: Path) -> None:
    simulated = replace(config, labeler="simulated", labelers=people, overlap=5)
    honest = {(r.labeler, r.prompt.id): r.ranks for r in read_rankings(label.run(simulated))}
    spammed = replace(simulated, spammers=("labeler_2",), database=str(tmp_path / "other.db"), out=tmp_path / "other")
    votes = {(r.labeler, r.prompt.id): r.ranks for r in read_rankings(label.run(spammed))}
    assert honest.keys() == votes.keys()
    assert {who for who, prompt in votes if votes[who, prompt] != honest[who, prompt]} == {"labeler_2"}
    with pytest.raises(DataError, match="no labeler"):
        label.run(replace(spammed, spammers=("nobody",)))


def test_held_out_people_are_others(config: LabelConfig, people: Path) -> None:
    found = read_rankings(label.run(replace(config, labeler="simulated", labelers=people, group="held_out")))
    assert all(r.labeler.startswith("held_out") for r in found)


def test_finished_rankings_come_from_a_file(
    config: LabelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = Prompt("x", (Message("user", "Hi"),), "elsewhere")
    given = [Ranking(prompt, (Candidate("a"), Candidate("b")), (1, 2), name, round=2) for name in ("ann", "bob")]
    write_rankings(tmp_path / "given.jsonl", given)
    done = replace(config, candidates=None, labeler="file", rankings=tmp_path / "given.jsonl", json=True)
    path = label.run(done)
    assert [replace(r, created_at="") for r in read_rankings(path)] == given
    result = json.loads(capsys.readouterr().out)
    assert result["num_rows"] == result["num_new"] == 2 and result["path"] == str(path)
    assert result["agreement"]["mean"] == 1.0


def test_mistakes_are_named(config: LabelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--labelers FILE"):
        replace(config, labeler="simulated")
    with pytest.raises(ConfigError, match="--rankings FILE"):
        replace(config, labeler="file")
    with pytest.raises(ConfigError, match="overlap"):
        replace(config, overlap=0)
    with pytest.raises(DataError, match="does not exist"):
        label.run(replace(config, candidates=tmp_path / "missing.jsonl"))
    type_lines(monkeypatch, "q")
    with pytest.raises(DataError, match="nothing to export"):
        label.run(config)


@pytest.mark.parametrize("labeler", ["terminal", "simulated"])
def test_where_nothing_was_queued_the_hint_names_the_file_of_answers(
    config: LabelConfig, people: Path, labeler: str
) -> None:
    empty = replace(config, candidates=None, labeler=labeler, labelers=people, project="new")
    with pytest.raises(DataError, match="no answers are queued in project `new`") as error:
        label.run(empty)
    assert "wuya label --candidates" in error.value.hint


@pytest.mark.parametrize("form", ["webgpt", "pairs", "ranking"])
def test_unnamed_votes_that_contradict_each_other_are_all_kept(config: LabelConfig, tmp_path: Path, form: str) -> None:
    rows = {
        "webgpt": [
            {"question": {"full_text": "q"}, "answer_0": "a", "answer_1": "b", "score_0": s, "score_1": -s}
            for s in (1.0, 0.0, -1.0)
        ],
        "pairs": [{"prompt": "q", "chosen": c, "rejected": r} for c, r in ("ab", "ba", "ab")],
        "ranking": [{"prompt": "q", "candidates": ["a", "b"], "ranks": r} for r in ([1, 2], [2, 1], [1, 1])],
    }[form]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = replace(config, candidates=None, labeler="file", rankings=tmp_path / "votes.jsonl")
    first = label.run(told)
    assert len(list(read_rankings(first))) == 3
    assert label.run(told).read_bytes() == first.read_bytes()  # the same file again adds nothing


def test_a_named_second_opinion_is_a_bad_row_and_the_file_goes_in(
    config: LabelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "q", "candidates": ["a", "b"], "ranks": r, "labeler": who} for r, who in
            (([1, 2], "ann"), ([2, 1], "ann"), ([2, 1], "bob"))]  # fmt: skip
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = label.run(replace(config, candidates=None, labeler="file", rankings=tmp_path / "votes.jsonl"))
    assert [(r.labeler, r.ranks) for r in read_rankings(path)] == [("ann", (1, 2)), ("bob", (2, 1))]
    assert "'ann' has ranked" in capsys.readouterr().err
