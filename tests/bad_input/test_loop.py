"""`wuya loop`."""

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.bad_input.world import BROKEN, Refused, World, replaced
from wuya import cli
from wuya.files import FileLock

LOOP = (
    "loop --sft base --prompts prompts.jsonl --demonstrations demonstrations.jsonl --labelers labelers.json --out run"
)
LOOP += " --database feedback.db --rounds 1 --prompts_per_round 3 --k 2 --max_tokens 4 --device cpu"
LOOP += " --reward_model.batch_size 2 --ppo.num_updates 1 --ppo.rollout_batch_size 4 --ppo.minibatch_size 4"
LOOP += " --ppo.final_kl_prompts 0"


def test_the_command_works_on_whole_input(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(LOOP.split()) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "does not exist"),
        ([], "empty|too few|no prompt"),
        (['{"prompt": "Hel'], "not JSON"),
        ([{"prompt": [{"role": "robot", "content": "Hi"}]}], "robot"),
        ([{"prompt": f"Hello {n}"} for n in range(3)], "too few prompts"),
        ([{"prompt": f"{n} " + "stone " * 500} for n in range(6)], "context"),
    ],
    ids=["missing", "empty", "malformed", "role", "too-few", "too-long"],
)
def test_prompts_that_cannot_be_used(world: World, refused: Refused, rows: list[object] | None, says: str) -> None:
    if rows is not None:
        world.rows("bad.jsonl", *rows)
    assert re.search(says, refused(*replaced(LOOP, prompts="bad.jsonl")))
    assert not (world / "run" / "rounds.json").exists()


@pytest.mark.parametrize("field", ["labelers", "demonstrations", "evaluation_prompts"])
def test_missing_files_are_found_before_anything_is_computed(world: World, refused: Refused, field: str) -> None:
    assert "nope" in refused(*replaced(LOOP, **{field: "nope.jsonl"}))
    assert not (world / "run" / "round_01" / "samples").exists()


@pytest.mark.parametrize(("break_it", "says"), BROKEN)
def test_broken_checkpoints(world: World, refused: Refused, break_it: Callable[[World, str], None], says: str) -> None:
    break_it(world, "base")
    assert re.search(says, refused(*LOOP.split()))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"k": 1}, "at least 2"),
        ({"rounds": 0}, "rounds"),
        ({"round": 1}, "did you mean `--rounds`"),
        ({"ppo.updates": 1}, "did you mean `num_updates`"),
        ({"reward_model.batchsize": 1}, "did you mean `batch_size`"),
        ({"ppo.kl_coef": "high"}, "kl_coef"),
    ],
    ids=["k1", "rounds0", "unknown", "unknown-of-ppo", "unknown-of-reward", "wrong-type"],
)
def test_settings_are_refused_before_anything_is_computed(
    world: World, refused: Refused, fields: dict[str, object], says: str
) -> None:
    assert says in refused(*replaced(LOOP, **fields))
    assert not (world / "run" / "round_01" / "samples").exists()


def test_a_second_process_on_one_run(world: World, refused: Refused) -> None:
    with FileLock(world / "run" / "loop.lock"):
        assert f"process {os.getpid()}" in refused(*LOOP.split())


def test_places_that_cannot_be_written(world: World, refused: Refused) -> None:
    assert "cannot" in refused(*replaced(LOOP, out="/proc/wuya/run"), code=3)
    assert "a file is in the way" in refused(*replaced(LOOP, out="corpus.txt"), code=3)
    assert "/proc/wuya" in refused(*replaced(LOOP, database="/proc/wuya/f.db"), code=3)


def test_a_full_disk_and_then_space_again(
    world: World, refused: Refused, no_file_beyond: Callable[[int], AbstractContextManager[None]]
) -> None:
    assert cli.main("label --labeler simulated --labelers labelers.json --candidates answers.jsonl "
                    "--database feedback.db --out frozen".split()) == 0  # the database is there and whole  # fmt: skip
    with no_file_beyond(500):
        message = refused(*LOOP.split(), code=3)
    assert "write" in message and "space" in message
    assert cli.main(LOOP.split()) == 0, "the same command goes on when there is space"
