"""`wuya sample`."""

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.bad_input.world import BROKEN, Refused, World, replaced
from wuya import cli
from wuya.files import FileLock

SAMPLE = "sample base --prompts prompts.jsonl --out run --k 2 --max_tokens 4 --device cpu"


def test_the_command_works_on_whole_input(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(SAMPLE.split()) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "does not exist"),
        ([], "empty|no prompt"),
        (['{"prompt": "Hel', "[]"], "not JSON|JSON object"),
        ([{"prompt": [{"role": "robot", "content": "Hi"}]}], "robot"),
        ([{"prompt": "stone " * 500}], "context"),
        ([{"text": "a corpus row"}], "prompt"),
    ],
    ids=["missing", "empty", "malformed", "role", "too-long", "other-format"],
)
def test_prompts_that_cannot_be_used(world: World, refused: Refused, rows: list[object] | None, says: str) -> None:
    if rows is not None:
        world.rows("bad.jsonl", *rows)
    assert re.search(says, refused(*replaced(SAMPLE, prompts="bad.jsonl")))


def test_prompts_that_are_not_utf8(world: World, refused: Refused) -> None:
    (world / "bad.jsonl").write_bytes(b'{"prompt": "caf\xe9"}\n')
    assert "UTF-8" in refused(*replaced(SAMPLE, prompts="bad.jsonl"))


def test_bad_rows_among_good_ones_are_counted_and_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.rows("some.jsonl", {"prompt": "Hello"}, '{"prompt": ', {"prompt": "How are you?"})
    assert cli.main(replaced(SAMPLE, prompts="some.jsonl")) == 0
    assert "some.jsonl:2: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"k": 1}, "at least 2"), ({"k": 0}, "`k`"), ({"max_tokens": 64}, "max_tokens"), ({"kk": 3}, "unknown setting")],
    ids=["k1", "k0", "no-room", "unknown-flag"],
)
def test_settings(world: World, refused: Refused, fields: dict[str, object], says: str) -> None:
    assert re.search(says, refused(*replaced(SAMPLE, **fields)))


def test_unknown_key_in_a_file(world: World, refused: Refused) -> None:
    (world / "c.yaml").write_text("promts: x\n")
    assert "did you mean `prompts`" in refused(*SAMPLE.split(), "--config", "c.yaml")


@pytest.mark.parametrize(("break_it", "says"), BROKEN)
def test_broken_checkpoints(world: World, refused: Refused, break_it: Callable[[World, str], None], says: str) -> None:
    break_it(world, "base")
    assert re.search(says, refused(*SAMPLE.split()))


def test_a_reward_model_does_not_answer(world: World, refused: Refused) -> None:
    assert "reward model" in refused(*SAMPLE.replace("base", "reward").split())


def test_a_second_process_on_one_run(world: World, refused: Refused) -> None:
    with FileLock(world / "run" / ".lock"):
        assert f"process {os.getpid()}" in refused(*SAMPLE.split())


def test_places_that_cannot_be_written(world: World, refused: Refused) -> None:
    assert "cannot" in refused(*replaced(SAMPLE, out="/proc/wuya/run"), code=3)
    assert "a file is in the way" in refused(*replaced(SAMPLE, out="corpus.txt"), code=3)


def test_a_database_that_cannot_be_written_is_found_before_an_answer_is_sampled(world: World, refused: Refused) -> None:
    assert "/proc/wuya" in refused(*replaced(SAMPLE, database="/proc/wuya/f.db"), code=3)


def test_a_full_disk(
    world: World, refused: Refused, no_file_beyond: Callable[[int], AbstractContextManager[None]]
) -> None:
    with no_file_beyond(500):
        message = refused(*SAMPLE.split(), code=3)
    assert "cannot write" in message and "free some space" in message
    assert cli.main([*SAMPLE.split(), "--resume"]) == 0, "the same command goes on when there is space"
