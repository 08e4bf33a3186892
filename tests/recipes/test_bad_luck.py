"""Bad luck in every recipe: a full disk, SIGTERM at any moment, asserts stripped. It says so, and ends with the bits of
a straight run.

The slow part gives each run a real disk (tmpfs, where this machine lets us mount one) of random sizes.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.processes import forked
from tests.recipes.recipe_list import RECIPES, TinyRecipe, write_inputs
from tests.recipes.test_every_recipe import newest, numbers, same_bits
from tests.recipes.test_kill_schedule import wait_for
from wuya.errors import RunError, WuyaError

ONE_PER_MODULE = {recipe.module: recipe for recipe in reversed(RECIPES)}.values()
SOME = [
    pytest.param(recipe, marks=() if recipe.module in ("pretrain", "ppo") else pytest.mark.slow)
    for recipe in ONE_PER_MODULE
]
REFUSED = r"cannot write `.*(file too large|no space left)|MiB free"
CLONE_NEWNS = 0x00020000
SAVE_EACH: dict[str, Any] = {"save_every": 1}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wuya.training.run.write_report", lambda *_: None)


def assert_same_run(straight: Path, other: Path) -> None:
    """Weights, state, metrics but for times, and samples."""
    assert same_bits(newest(straight), newest(other)) and same_bits(straight / "model", other / "model")
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (straight, other)
    ]
    assert numbers(rows[0]) == numbers(rows[1])
    texts = [file.read_text() if (file := run / "samples.jsonl").exists() else "" for run in (straight, other)]
    assert texts[0] == texts[1]


def leftovers(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("recipe", ONE_PER_MODULE, ids=lambda recipe: recipe.id)
def test_a_full_disk_is_an_error_in_words_and_the_run_resumes_with_the_same_bits(
    recipe: TinyRecipe, inputs: Path, tmp_path: Path, no_file_beyond: Callable[[int], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip  # capsys: logs go to memory, not into a file that may not grow
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    recipe.run(inputs, straight, **SAVE_EACH)
    sizes = [
        100,
        (straight / "config.yaml").stat().st_size + 1,
        newest(straight).joinpath("config.json").stat().st_size,
    ]
    sizes += [size - 1 for size in sorted({file.stat().st_size for file in newest(straight).rglob("*")})[-2:]]
    for size in sizes:  # config, metrics, a small file of the checkpoint, weights or state
        with (
            no_file_beyond(size),
            pytest.raises(RunError, match=REFUSED) as found,
        ):
            recipe.run(inputs, stopped, resume=True, **SAVE_EACH)
        assert found.value.exit_code == 3 and "free some space" in found.value.hint
        assert not leftovers(stopped)
    recipe.run(inputs, stopped, resume=True, **SAVE_EACH)
    assert_same_run(straight, stopped)


def terminated(recipe: TinyRecipe, inputs: Path, out: Path, *, after: float, again: float | None) -> int:
    """SIGTERM a run after so many seconds, and perhaps once more; its exit code, -15 before it had begun to train."""

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            recipe.run(inputs, out, resume=True, **SAVE_EACH)
        except WuyaError as error:
            os._exit(error.exit_code)
        except KeyboardInterrupt:
            os._exit(130)

    pid = forked(work)
    for pause in (after, again):
        if pause is not None:
            time.sleep(pause)
            os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("recipe", SOME, ids=lambda recipe: recipe.id)
def test_sigterm_at_any_moment_once_or_twice(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    rng = random.Random(recipe.id)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    seconds = wait_for(lambda: recipe.run(inputs, straight, **SAVE_EACH))
    for again in (None, 0.02, None, 0.1):
        code = terminated(recipe, inputs, stopped, after=rng.uniform(0, seconds), again=again)
        assert code in (0, 130, -signal.SIGTERM), "the error is above"
        for folder in (stopped / "checkpoints").glob("step_*"):
            assert (folder / "checksums.json").exists()
    wait_for(lambda: recipe.run(inputs, stopped, resume=True, **SAVE_EACH))
    assert_same_run(straight, stopped)


def on_small_disk(disk: Path, kib: int, work: Callable[[], object], then: Callable[[], object]) -> str:
    """Run `work` on a disk of so many KiB, free space, run `then`; how `work` ended. In a process of its own."""
    disk.mkdir(exist_ok=True)

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "wuya", disk], check=True, capture_output=True)

    reading, writing = os.pipe()

    def child() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
        subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)
        mount(f"size={kib}k")
        try:
            work()
            ended = "done"
        except RunError:
            ended = "full"
        assert not leftovers(disk)
        mount("remount,size=100m")
        then()
        os.write(writing, ended.encode())

    pid = forked(child)
    os.close(writing)
    with os.fdopen(reading) as told:
        ended = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return ended


def can_mount() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "wuya", "/tmp"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="may not mount a tmpfs here")
@pytest.mark.parametrize("recipe", ONE_PER_MODULE, ids=lambda recipe: recipe.id)
def test_disks_of_random_sizes(recipe: TinyRecipe, inputs: Path, tmp_path: Path) -> None:
    rng = random.Random(recipe.id)
    straight, disk = tmp_path / "straight", tmp_path / "disk"
    recipe.run(inputs, straight, **SAVE_EACH)
    whole = sum(file.stat().st_size for file in straight.rglob("*") if file.is_file()) // 1024
    ends = []
    for kib in (4, *(rng.randrange(8, whole) for _ in range(5))):
        out = disk / "run"

        def resume(out: Path = out) -> None:
            recipe.run(inputs, out, resume=True, **SAVE_EACH)
            assert_same_run(straight, out)

        ends.append(on_small_disk(disk, kib, lambda out=out: recipe.run(inputs, out, **SAVE_EACH), resume))
    assert "full" in ends
