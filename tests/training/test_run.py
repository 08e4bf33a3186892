"""A run folder is whole whatever happens to the process that writes it."""

import errno
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from wuya.errors import CheckpointError, ConfigError, Interrupted, NotFinite, RunError, RunLocked
from wuya.training import run as run_module
from wuya.training.run import Run, is_due, truncate_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A recipe's config."""

    out: Path
    """The run folder."""
    learning_rate: float = 0.1
    """Peak rate."""
    save_every: int = 2
    """Free to differ on resume."""
    resume: bool = False
    """Go on."""


def write_model(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # no tensors, but whole


def train(out: Path, steps: int, *, first: int = 0, **changes: Any) -> None:
    config = Config(out=out, **changes)
    with Run(out, config, resume=config.resume, verb="sft") as run:
        loaded = run.load_state()
        assert (loaded[0] if loaded else 0) == first
        for step in range(first + 1, first + steps + 1):
            run.log(step, {"loss": 1.0 / step})
            run.sample(step, [{"prompt": "p", "completion": "c"}])
            if run.save_is_due(step, every=config.save_every, last=0):
                run.save(step, write_model, {"tensor": torch.tensor([step])})


def rows(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_config_is_written_before_step_zero_and_state_round_trips(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, 4)
    assert yaml.safe_load((out / "config.yaml").read_text())["learning_rate"] == 0.1
    with Run(out, Config(out=out, resume=True), resume=True) as run:
        loaded = run.load_state()
    assert loaded is not None
    step, state = loaded
    assert step == 4 and int(state["tensor"]) == 4
    assert state["model_folder"] == str(out / "checkpoints" / "step_000004")


def test_rows_after_the_last_checkpoint_are_taken_back_on_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, 5)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a row
    train(out, 2, first=4, resume=True)
    assert rows(out / "metrics.jsonl") == rows(out / "samples.jsonl") == [1, 2, 3, 4, 5, 6]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train(tmp_path / "run", 9)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step_000006", "step_000008"]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run")
    with Run(config.out, config), pytest.raises(RunLocked) as caught, Run(config.out, config):
        pass
    assert caught.value.exit_code == 2
    with Run(config.out, config) as again:
        assert again.out == config.out, "free again"


def test_a_finished_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    train(tmp_path / "run", 2)
    with pytest.raises(ConfigError, match=r"already holds a run[\s\S]*wuya sft --config .* --resume"):
        train(tmp_path / "run", 2)


def test_resume_with_other_settings_names_them(tmp_path: Path) -> None:
    train(tmp_path / "run", 2)
    with pytest.raises(ConfigError, match=r"learning_rate: 0.1 -> 0.2"):
        train(tmp_path / "run", 2, first=2, resume=True, learning_rate=0.2)
    train(tmp_path / "run", 2, first=2, resume=True, save_every=1)  # touches no number


def test_resume_of_nothing_starts_from_the_beginning(tmp_path: Path) -> None:
    train(tmp_path / "run", 2, resume=True)
    assert rows(tmp_path / "run" / "metrics.jsonl") == [1, 2]


def test_ctrl_c_saves_and_prints_the_line_that_goes_on(tmp_path: Path) -> None:
    config = Config(out=tmp_path / "my run")
    before = signal.getsignal(signal.SIGINT)  # a background job may have been started with the signal ignored
    with pytest.raises(Interrupted) as caught, Run(config.out, config, verb="sft") as run:
        os.kill(os.getpid(), signal.SIGINT)
        assert run.save_is_due(1, every=100, last=100)
        run.save(1, write_model, {})
    assert caught.value.exit_code == 130
    assert f"wuya sft --config '{config.out}/config.yaml' --resume" in caught.value.hint
    assert (config.out / "checkpoints" / "step_000001" / "resume" / "state.pt").exists()
    assert signal.getsignal(signal.SIGINT) is before  # given back


def test_ctrl_c_twice_stops_at_once(tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), Run(config.out, config):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_not_finite_names_the_value_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run")
    with (
        pytest.raises(NotFinite, match=r"step 2 \(found: loss=nan\)[\s\S]*step_000001"),
        Run(config.out, config) as run,
    ):
        run.require_finite(1, loss=1.0, grad_norm=0.5)
        run.save(1, write_model, {})
        run.require_finite(2, loss=float("nan"), grad_norm=0.5)


def test_a_failed_save_leaves_the_checkpoint_before_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", 2)

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "state.pt")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(RunError, match="no space left") as caught:
        train(tmp_path / "run", 2, first=2, resume=True)
    assert caught.value.exit_code == 3
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000002"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    train(tmp_path / "run", 2)
    half = tmp_path / "run" / "checkpoints" / ".step_000004.123.tmp"
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    train(tmp_path / "run", 2, first=2, resume=True)
    assert not half.exists()


def test_where_no_checkpoint_is_whole_nothing_is_resumed_or_moved(tmp_path: Path) -> None:
    train(tmp_path / "run", 4)
    states = [tmp_path / "run" / "checkpoints" / f"step_00000{step}" / "resume" / "state.pt" for step in (2, 4)]
    for state in states:
        state.write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"no checkpoint in it is whole") as caught:
        train(tmp_path / "run", 2, first=2, resume=True)
    assert all(f"`{state}` differs from what was written" in str(caught.value) for state in states)
    assert all(state.exists() for state in states)


@pytest.mark.parametrize("list_of", [b"", b"{", b"[]", b"{}", b'{"resume/state.pt": 3}', b"\xff"])
def test_a_damaged_list_of_digests_is_a_damaged_checkpoint(
    tmp_path: Path, list_of: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", 4)
    (tmp_path / "run" / "checkpoints" / "step_000004" / "checksums.json").write_bytes(list_of)
    train(tmp_path / "run", 1, first=2, resume=True)
    assert "step_000004/checksums.json` is damaged" in capsys.readouterr().err


def test_a_checkpoint_of_an_older_version_has_no_digests_and_is_resumed(tmp_path: Path) -> None:
    train(tmp_path / "run", 2)
    folder = tmp_path / "run" / "checkpoints" / "step_000002"
    (folder / "checksums.json").unlink()
    train(tmp_path / "run", 1, first=2, resume=True)
    for listed in (tmp_path / "run").rglob("checksums.json"):
        listed.unlink()
    for state in (tmp_path / "run").rglob("state.pt"):
        state.write_bytes(b"half")
    with pytest.raises(CheckpointError, match="no checkpoint in it is whole"):
        train(tmp_path / "run", 1, first=2, resume=True)


def test_other_kernels_are_named_in_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", 2)
    stored = run_module.kernel_choices()
    monkeypatch.setattr(run_module, "kernel_choices", lambda: {**stored, "threads": "64"})
    train(tmp_path / "run", 1, first=2, resume=True)
    assert f"threads: {stored['threads']} -> 64" in capsys.readouterr().err


def test_the_global_generators_go_on_where_they_were(tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run")
    with Run(config.out, config) as run:
        torch.manual_seed(3)
        run.save(1, write_model, {})
        expected = torch.rand(4)
    with Run(config.out, Config(out=config.out, resume=True), resume=True) as run:
        torch.rand(7)
        run.load_state()
        assert torch.equal(torch.rand(4), expected)


def test_state_that_could_not_be_loaded_safely_is_refused_while_saving(tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run")
    with Run(config.out, config) as run, pytest.raises(AssertionError, match="path"):
        run.save(1, write_model, {"path": tmp_path})


def test_finish_links_the_model_and_writes_the_report(tmp_path: Path) -> None:
    config = Config(out=tmp_path / "run")
    with Run(config.out, config) as run:
        run.log(1, {"loss": 2.0})
        run.log(2, {"loss": 1.0})
        run.sample(2, [{"prompt": "<b>", "completion": "x"}])
        run.save(2, write_model, {})
        model = run.finish()
    assert sorted(p.name for p in model.iterdir()) == ["checksums.json", "model.safetensors"]
    assert list(json.loads((model / "checksums.json").read_text())) == ["model.safetensors"]
    page = (config.out / "report.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page and page.count("<figure>") == 1 and "learning_rate: 0.1" in page


def test_is_due_every_so_often_and_at_the_end() -> None:
    assert [step for step in range(1, 8) if is_due(step, 3, 7)] == [3, 6, 7]
    assert [step for step in range(1, 8) if is_due(step, 0, 7)] == [7]


def test_truncating_before_everything_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    truncate_rows(tmp_path / "metrics.jsonl", -1)
    assert not (tmp_path / "metrics.jsonl").exists()
