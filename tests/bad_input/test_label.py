"""`wuya label`."""

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing

import pytest

from tests.bad_input.world import RANKING, Refused, World, replaced
from wuya import cli

LABEL = "label --labeler simulated --labelers labelers.json --candidates answers.jsonl --database feedback.db"
LABEL += " --out frozen"
IMPORT = "label --labeler file --rankings rankings.jsonl --database feedback.db --out frozen"


@pytest.mark.parametrize("command", [LABEL, IMPORT])
def test_the_command_works_on_whole_input(world: World, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.main(command.split()) == 0, capsys.readouterr().err


ANSWERS = {"prompt": "Hello?", "candidates": RANKING["candidates"]}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "does not exist"),
        ([], "no answers"),
        (['{"prompt": "Hel', "7"], "not JSON"),
        ([{**ANSWERS, "prompt": [{"role": "robot", "content": "Hi"}]}], "robot"),
        ([{**ANSWERS, "candidates": ["one"]}], "at least 2"),
        ([{**ANSWERS, "candidates": "one, two"}], "candidates"),
        ([{"prompt": "Hello?"}], "candidates"),
    ],
    ids=["missing", "empty", "malformed", "role", "one-answer", "text", "no-answers"],
)
def test_answers_that_cannot_be_ranked(world: World, refused: Refused, rows: list[object] | None, says: str) -> None:
    if rows is not None:
        world.rows("bad.jsonl", *rows)
    assert re.search(says, refused(*replaced(LABEL, candidates="bad.jsonl")))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "does not exist"),
        ([], "no ranking|empty"),
        (['{"prompt": "Hel'], "not JSON"),
        ([{**RANKING, "ranks": [1, 2]}], "3|omit|every"),
        ([{**RANKING, "ranks": [1, None, 2]}], "rank"),
        ([{**RANKING, "candidates": RANKING["candidates"][:1], "ranks": [1]}], "2|two"),
    ],
    ids=["missing", "empty", "malformed", "omits", "null", "one-answer"],
)
def test_rankings_that_make_no_sense(world: World, refused: Refused, rows: list[object] | None, says: str) -> None:
    if rows is not None:
        world.rows("bad.jsonl", *rows)
    assert re.search(says, refused(*replaced(IMPORT, rankings="bad.jsonl")))


@pytest.mark.parametrize("field", ["candidates", "rankings"])
def test_files_that_are_not_utf8(world: World, refused: Refused, field: str) -> None:
    (world / "bad.jsonl").write_bytes(b'{"prompt": "caf\xe9", "candidates": ["a", "b"], "ranks": [1, 2]}\n')
    command = {"candidates": LABEL, "rankings": IMPORT}[field]
    assert "UTF-8" in refused(*replaced(command, **{field: "bad.jsonl"}))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no labelers file"), ("{", "not a labelers file"), ("[]", "not a labelers file"), ("{}", "not a labelers")],
    ids=["missing", "half", "list", "empty"],
)
def test_labelers(world: World, refused: Refused, content: str | None, says: str) -> None:
    (world / "labelers.json").unlink()
    if content is not None:
        (world / "labelers.json").write_text(content)
    assert says in refused(*LABEL.split())


@pytest.mark.parametrize(
    ("fields", "says"), [({"overlap": 0}, "overlap"), ({"labler": "x"}, "did you mean `--labeler`")], ids=str
)
def test_settings(world: World, refused: Refused, fields: dict[str, object], says: str) -> None:
    assert says in refused(*replaced(LABEL, **fields))


def test_a_file_that_is_no_database(world: World, refused: Refused) -> None:
    assert "not an SQLite database" in refused(*replaced(LABEL, database="corpus.txt"))
    with closing(sqlite3.connect(world / "foreign.db")) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    assert "not a wuya database" in refused(*replaced(LABEL, database="foreign.db"))


def test_a_database_that_another_process_keeps_locked(
    world: World, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(LABEL.split()) == 0
    monkeypatch.setattr("wuya.database.connection.BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(world / "feedback.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "locked by another process" in refused(*replaced(LABEL, round=2))


def test_places_that_cannot_be_written(world: World, refused: Refused) -> None:
    assert "/proc/wuya" in refused(*replaced(LABEL, database="/proc/wuya/f.db"), code=3)
    assert "cannot" in refused(*replaced(LABEL, out="/proc/wuya/frozen"), code=3)
    assert "a file is in the way" in refused(*replaced(LABEL, out="corpus.txt"), code=3)


@pytest.mark.parametrize("size", [20_000, 200_000], ids=["migrating", "ranking"])
def test_a_full_disk_keeps_what_was_there(
    world: World, refused: Refused, no_file_beyond: Callable[[int], AbstractContextManager[None]], size: int
) -> None:
    many = [{**ANSWERS, "prompt": f"Hello {n}? {'stone ' * 100}"} for n in range(300)]
    world.rows("answers.jsonl", *many)
    with no_file_beyond(size):
        message = refused(*LABEL.split(), code=3)
    assert "write" in message and "space" in message
    assert cli.main(LABEL.split()) == 0, "the same command goes on when there is space"
    [snapshot] = (world / "frozen").glob("*.jsonl")
    assert len({json.dumps(json.loads(line)["prompt"]) for line in snapshot.read_text().splitlines()}) == len(many)
