"""A stage runs once; other budgets are never mixed with what is there, and an interrupted story says how to go on."""

import json
from pathlib import Path
from typing import Any

import pytest

from wuya.demo.stages import keep_other_aside, run_stage
from wuya.errors import Interrupted


def test_a_stage_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def stage() -> dict[str, Any]:
        calls.append(sum(range(200_000)))
        return {"found": 3}

    first, second = run_stage(tmp_path, "sft", stage), run_stage(tmp_path, "sft", stage)
    assert len(calls) == 1 and first == second and first["found"] == 3
    assert first["seconds"] > 0 and first["cpu_seconds"] >= 0


def test_a_stage_that_is_cut_off_has_no_result_and_the_hint_is_the_story(tmp_path: Path) -> None:
    def stopped() -> dict[str, Any]:
        raise Interrupted("stopped after step 3", hint="go on: `wuya ppo --resume`")

    with pytest.raises(Interrupted, match="stopped after step 3") as stop:
        run_stage(tmp_path, "ppo", stopped)
    assert "run the same command again" in stop.value.hint and not (tmp_path / "stages" / "ppo.json").exists()
    assert run_stage(tmp_path, "ppo", dict)["seconds"] >= 0


def test_another_seed_or_size_is_moved_aside(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    keep_other_aside(folder, {"seed": 0}, file="demo.json")
    run_stage(folder, "sft", dict)
    keep_other_aside(folder, {"seed": 0}, file="demo.json")
    assert (folder / "stages" / "sft.json").exists()
    keep_other_aside(folder, {"seed": 1}, file="demo.json")
    assert not (folder / "stages").exists() and (tmp_path / "demo.old-1" / "stages" / "sft.json").exists()
    assert json.loads((folder / "demo.json").read_text()) == {"seed": 1}
