"""The base model learns; how the work is cut (microbatches, stops, kills, processes) never changes what it learns."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.recipes.processes import forked, kill_and_resume
from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.config import save_config
from wuya.errors import ConfigError, DataError, Interrupted, NotFinite
from wuya.files import read_jsonl
from wuya.recipes import pretrain
from wuya.recipes.pretrain import PretrainConfig, run
from wuya.training.run import Run

Make = Callable[..., PretrainConfig]
STEPS = 8


@pytest.fixture
def make(corpus: Path, tiny_model: dict[str, int]) -> Make:
    """A config for a run of a second, in `corpus / out`."""

    def config(out: str = "run", **changes: Any) -> PretrainConfig:
        fields: dict[str, Any] = {
            "data": corpus / "train", "tokenizer": corpus / "tokenizer", "out": corpus / out, "model": tiny_model,
            "num_tokens": STEPS * 8 * 16, "context_length": 16, "batch_size": 8, "microbatch_size": 8, "log_every": 1,
            "save_every": 5, "num_samples": 0, "device": "cpu", **changes,
        }  # fmt: skip
        return PretrainConfig(**fields)

    return config


def losses(out: Path) -> list[float]:
    return [row["loss"] for _, row in read_jsonl(out / "metrics.jsonl") if "loss" in row]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_it_learns_and_leaves_everything_a_person_wants_to_see(make: Make, corpus: Path, optimizer: str) -> None:
    rate = 0.02 if optimizer == "muon" else 0.01
    config = make(
        optimizer=optimizer, learning_rate=rate, num_tokens=40 * 8 * 16, validation_data=corpus / "validation",
        num_samples=1, validation_windows=8,
    )  # fmt: skip
    final = run(config)
    seen = losses(config.out)
    assert seen[0] > 5.4 and seen[-1] < 2.5  # ln 297 = 5.69
    everything = [row for _, row in read_jsonl(config.out / "metrics.jsonl")]
    assert max(row["lr"] for row in everything if "lr" in row) == pytest.approx(rate)
    rows = [row for row in everything if "validation/loss" in row]
    assert rows[-1]["step"] == config.num_steps and rows[-1]["validation/bits_per_byte"] < 1.5
    assert {"prompt", "completion"} <= next(read_jsonl(config.out / "samples.jsonl"))[1].keys()
    assert sorted(p.name for p in (config.out / "checkpoints").iterdir()) == ["step_000035", "step_000040"]
    assert "validation/bits_per_byte" in (config.out / "report.html").read_text()
    model, tokenizer = load_checkpoint(final)
    assert model.config.vocab_size == tokenizer.vocab_size


def test_one_microbatch_of_eight_equals_eight_of_one(make: Make) -> None:
    run(make("whole", dtype="float32"))  # in bf16 sums of eight round otherwise than one by one
    run(make("cut", microbatch_size=1, dtype="float32"))
    assert losses(make("cut").out) == pytest.approx(losses(make("whole").out), rel=1e-5)


def test_activation_checkpointing_changes_nothing(make: Make) -> None:
    run(make("plain", num_tokens=4 * 128))
    run(make("again", num_tokens=4 * 128, activation_checkpointing=True))
    assert_same_bits(weights(make("plain").out), weights(make("again").out))


def test_stop_and_resume_equals_a_straight_run_bit_for_bit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, stopped = make("straight"), make("stopped")
    run(straight)
    log = Run.log

    def stop_after_six(self: Run, step: int, values: Any) -> None:
        log(self, step, values)
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "log", stop_after_six)
    with pytest.raises(Interrupted, match=r"wuya pretrain --config .*stopped/config.yaml --resume") as caught:
        run(stopped)
    assert caught.value.exit_code == 130
    assert (stopped.out / "checkpoints" / "step_000006").is_dir()
    monkeypatch.undo()
    torch.rand(3)  # the state of the global generator must not matter
    run(make("stopped", resume=True))
    assert_same_bits(weights(stopped.out), weights(straight.out))
    assert losses(stopped.out) == losses(straight.out)


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_ends_with_the_same_bits(make: Make, kills: int) -> None:
    changes = {"save_every": 3, "num_tokens": kills * 15 * 128}
    run(make("straight", **changes))
    kill_and_resume(run, make("killed", **changes), kills=kills)
    assert_same_bits(weights(make("killed").out), weights(make("straight").out))
    assert losses(make("killed").out) == losses(make("straight").out)


def train_in_two_processes(config: PretrainConfig) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    pids = [forked(lambda: run(config), RANK=str(rank), **common) for rank in range(2)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]


def test_two_processes_have_the_bits_of_one(make: Make) -> None:
    run(make("one", microbatch_size=4))
    train_in_two_processes(make("two", microbatch_size=4))
    assert losses(make("two").out) == losses(make("one").out)
    assert_same_bits(weights(make("two").out), weights(make("one").out))


@pytest.mark.slow
def test_torchrun_gives_the_losses_of_one_process(make: Make, corpus: Path) -> None:
    run(make("one", optimizer="adamw", learning_rate=0.003))
    config = make("two", optimizer="adamw", learning_rate=0.003)
    save_config(config, corpus / "two.yaml")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "wuya"]
    command = [*launch, "pretrain", "--config", str(corpus / "two.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert losses(config.out) == pytest.approx(losses(make("one").out), rel=1e-5)
    assert len(losses(config.out)) == STEPS


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(*args, **kwargs) * (float("nan") if calls == 7 else 1.0)

    real = pretrain.nats_sum
    monkeypatch.setattr(pretrain, "nats_sum", broken)
    with pytest.raises(NotFinite, match="step 7") as caught:
        run(make())
    assert caught.value.exit_code == 3 and "step_000005" in str(caught.value)
    model, _ = load_checkpoint(make().out)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_further_pretraining_starts_from_the_checkpoint(make: Make) -> None:
    run(make("first", num_tokens=24 * 128))
    run(make("second", init=make("first").out, model={}, warmdown=0.9))
    assert losses(make("second").out)[0] < 3.0


def test_data_of_another_tokenizer_is_refused(make: Make, corpus: Path) -> None:
    manifest = json.loads((corpus / "train" / "manifest.json").read_text())
    (corpus / "train" / "manifest.json").write_text(json.dumps({**manifest, "vocab_size": 301}))
    with pytest.raises(DataError, match="another tokenizer"):
        run(make())


def test_settings_that_contradict_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match="multiple"):
        make(microbatch_size=3)
    with pytest.raises(ConfigError, match="shares"):
        make(warmup=0.5, warmdown=0.6)
    with pytest.raises(ConfigError, match="no model preset"):
        run(make(preset="tinny"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # torch's own, of whatever its compiler imports
def test_compiled_losses_are_the_eager_ones(make: Make, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(corpus / "compiled-code"))  # none that a killed process left half
    run(make("eager", num_tokens=4 * 128))
    run(make("compiled", num_tokens=4 * 128, compile=True))
    assert losses(make("compiled").out) == pytest.approx(losses(make("eager").out), rel=1e-4)


def test_an_encoder_is_not_trained_to_predict_what_it_reads(make: Make) -> None:
    with pytest.raises(ConfigError, match="full attention has already read"):
        pretrain.run(make(model={"attention": "full"}))


def test_compile_without_a_compiler_is_refused_before_anything_is_computed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain.shutil, "which", lambda name: None)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
            run(make(compile=True))


@pytest.mark.filterwarnings("ignore")  # tensorboard's own
def test_tensorboard_files_are_written_where_the_package_is(make: Make) -> None:
    pytest.importorskip("tensorboard")
    config = make(num_tokens=2 * 128, tensorboard=True)
    run(config)
    assert list((config.out / "tensorboard").glob("events.out.tfevents.*"))
