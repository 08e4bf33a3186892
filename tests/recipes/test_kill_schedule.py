"""SIGKILL at random moments of every recipe and of the loop: each ends with the bits of a run that nobody disturbed.

The moments are drawn over the whole run: while it reads its inputs, trains, writes a checkpoint, evaluates, and writes
its last files. `pytest -m slow tests/recipes/test_kill_schedule.py` kills 100 times; the unit suite one of each recipe.
"""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.processes import forked
from tests.recipes.recipe_list import RECIPES, TinyRecipe, write_inputs
from tests.recipes.test_every_recipe import newest, numbers, same_bits
from tests.recipes.test_loop import config as loop_config  # noqa: F401  # a fixture
from wuya.recipes import loop
from wuya.recipes.loop import LoopConfig

KILLS = 4
"""Of each of the recipes' runs; and of the loop as many as make 100 altogether."""
LOOP_KILLS = max(4, 100 - KILLS * len(RECIPES))
ONE_PER_MODULE = {recipe.module: recipe for recipe in reversed(RECIPES)}.values()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wuya.training.run.write_report", lambda out, metrics: None)


def kill_at_random(
    work: Callable[[], object], *, kills: int, seconds: float, seed: str, again: Callable[[], Any]
) -> int:
    """Start `work` in a process of its own and SIGKILL it within so many seconds, `kills` times; returns the restarts.

    Args:
        again: what makes a run that had ended before its moment start from nothing, so that every kill hits a live one.
    """
    rng, done, restarts = random.Random(seed), 0, 0
    while done < kills:
        pid = forked(work)
        time.sleep(rng.uniform(0.0, seconds))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            done += 1
        else:
            assert os.WEXITSTATUS(status) == 0, "a resumed run failed; its error is above"
            again()
            restarts += 1
            assert restarts <= 20 * kills, "the run is too short to be killed"
    return restarts


def wait_for(work: Callable[[], object]) -> float:
    """Run it in a process of its own to its end; returns the seconds."""
    start = time.monotonic()
    _, status = os.waitpid(forked(work), 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    return time.monotonic() - start


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def kill_and_compare(recipe: TinyRecipe, inputs: Path, tmp_path: Path, *, kills: int) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    changes: dict[str, Any] = {"save_every": 1}
    seconds = wait_for(lambda: recipe.run(inputs, straight, **changes))
    kill_at_random(
        lambda: recipe.run(inputs, killed, resume=True, **changes),
        kills=kills,
        seconds=seconds,
        seed=recipe.id,
        again=lambda: shutil.rmtree(killed),
    )
    wait_for(lambda: recipe.run(inputs, killed, resume=True, **changes))
    assert same_bits(newest(straight), newest(killed)) and same_bits(straight / "model", killed / "model")
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (straight, killed)
    ]
    assert numbers(rows[0]) == numbers(rows[1])
    assert (straight / "samples.jsonl").exists() == (killed / "samples.jsonl").exists()
    if (straight / "samples.jsonl").exists():
        assert (straight / "samples.jsonl").read_text() == (killed / "samples.jsonl").read_text()


@pytest.mark.parametrize("recipe", ONE_PER_MODULE, ids=lambda recipe: recipe.id)
def test_killed_once_it_ends_with_the_same_bits(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    kill_and_compare(recipe, inputs, tmp_path, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
def test_killed_again_and_again_it_ends_with_the_same_bits(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    kill_and_compare(recipe, inputs, tmp_path, kills=KILLS)


@pytest.mark.slow
def test_a_loop_killed_again_and_again_ends_with_the_same_policy(loop_config: LoopConfig) -> None:  # noqa: F811
    straight = replace(loop_config, out=loop_config.out.with_name("straight"))
    straight = replace(straight, database=str(loop_config.out.with_name("straight.db")))
    seconds = wait_for(lambda: loop.run(straight))

    def again() -> None:
        shutil.rmtree(loop_config.out)
        for file in Path(loop_config.database).parent.glob("wuya.db*"):
            file.unlink()

    kill_at_random(lambda: loop.run(loop_config), kills=LOOP_KILLS, seconds=seconds, seed="loop", again=again)
    wait_for(lambda: loop.run(loop_config))
    for number in (1, 2):
        policies = [config.out / f"round_0{number}" / "ppo" / "model" for config in (straight, loop_config)]
        assert same_bits(*policies)
    found = [json.loads((config.out / "rounds.json").read_text()) for config in (straight, loop_config)]
    assert [row["win_rate"] for row in found[0]] == [row["win_rate"] for row in found[1]]
