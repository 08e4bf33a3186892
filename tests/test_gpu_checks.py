"""The GPU checks run on any machine, to their table."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_gpu_script_runs_to_its_table_on_any_machine(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "scripts" / "gpu_checks.py"))["main"](
        ["--out", str(tmp_path), "--size", "tiny", "--no_tests", "--recipes", "sft", "ppo"]
    )
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["recipe"] for row in rows] == ["sft", "ppo"]
    assert not [row for row in rows if "failed" in row]
    assert all(row["tokens_per_second"] > 0 and row["peak_bytes"] > row["planned_bytes"] > 0 for row in rows)
    assert (tmp_path / "rows.md").read_text().count("\n") == 4
