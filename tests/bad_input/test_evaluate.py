"""`wuya evaluate`."""

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.bad_input.world import BROKEN, Refused, World, replaced
from wuya import cli
from wuya.files import FileLock

EVALUATE = "evaluate --sft base --prompts prompts.jsonl --labelers labelers.json --out run --num_prompts 4"
EVALUATE += " --max_tokens 4 --device cpu"


def test_the_command_works_on_whole_input(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(replaced(EVALUATE, policies="{p: base}", reward_model="reward")) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "does not exist"),
        ([], "empty|no prompt"),
        (['{"prompt": "Hel'], "not JSON"),
        ([{"prompt": [{"role": "robot", "content": "Hi"}]}], "robot"),
        ([{"prompt": "stone " * 500}], "context"),
    ],
    ids=["missing", "empty", "malformed", "role", "too-long"],
)
def test_prompts_that_cannot_be_used(world: World, refused: Refused, rows: list[object] | None, says: str) -> None:
    if rows is not None:
        world.rows("bad.jsonl", *rows)
    assert re.search(says, refused(*replaced(EVALUATE, prompts="bad.jsonl")))


@pytest.mark.parametrize("content", [b"", b"caf\xe9", None], ids=["empty", "latin1", "missing"])
def test_texts_that_cannot_be_used(world: World, refused: Refused, content: bytes | None) -> None:
    if content is not None:
        (world / "texts.txt").write_bytes(content)
    assert "texts.txt" in refused(*replaced(EVALUATE, texts="texts.txt"))


@pytest.mark.parametrize(
    "fields",
    [
        {"labelers": "nope.json"},
        {"base": "base", "shots": "nope.jsonl"},
        {"judge": "base", "judge_turns": "nope.jsonl"},
        {"policies": "{p: nope}"},
        {"reward_model": "nope"},
        {"reward_model": "nope.py:score"},
    ],
    ids=lambda fields: list(fields)[-1],
)
def test_missing_files(world: World, refused: Refused, fields: dict[str, object]) -> None:
    assert "nope" in refused(*replaced(EVALUATE, **fields))


@pytest.mark.parametrize(("break_it", "says"), BROKEN)
def test_broken_checkpoints(world: World, refused: Refused, break_it: Callable[[World, str], None], says: str) -> None:
    break_it(world, "base")
    assert re.search(says, refused(*EVALUATE.split()))


@pytest.mark.parametrize(
    "fields",
    [
        {"policies": "{p: other}"},
        {"tax_only": "{p: other}"},
        {"base": "other", "shots": "demonstrations.jsonl"},
        {"judge": "other", "judge_turns": "demonstrations.jsonl"},
        {"sft": "other", "reward_model": "reward"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_models_of_another_vocabulary(world: World, refused: Refused, fields: dict[str, object]) -> None:
    assert "tokenizer" in refused(*replaced(EVALUATE, **fields))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_prompts": 0}, "num_prompts"),
        ({"max_tokens": 64}, "context"),
        ({"polices": "{p: base}"}, "did you mean `--policies`"),
        ({"policies": "{sft: base}"}, "another row"),
    ],
    ids=str,
)
def test_settings(world: World, refused: Refused, fields: dict[str, object], says: str) -> None:
    assert says in refused(*replaced(EVALUATE, **fields))


def test_a_second_process_on_one_run(world: World, refused: Refused) -> None:
    with FileLock(world / "run" / ".lock"):
        assert f"process {os.getpid()}" in refused(*EVALUATE.split())


def test_places_that_cannot_be_written(world: World, refused: Refused) -> None:
    assert "cannot" in refused(*replaced(EVALUATE, out="/proc/wuya/run"), code=3)
    assert "a file is in the way" in refused(*replaced(EVALUATE, out="corpus.txt"), code=3)


def test_a_full_disk(
    world: World, refused: Refused, no_file_beyond: Callable[[int], AbstractContextManager[None]]
) -> None:
    with no_file_beyond(200):
        message = refused(*EVALUATE.split(), code=3)
    assert "cannot write" in message and "free some space" in message
