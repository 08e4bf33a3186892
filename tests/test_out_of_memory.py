"""Every way a library says that memory ran out becomes the same words, with what to lower and how to resume."""

import errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.test_streams import shell
from wuya.out_of_memory import as_memory_error, note_choice


@dataclass(frozen=True)
class Training:
    out: Path
    resume: bool = False
    microbatch_size: int = 8
    activation_checkpointing: bool = False
    lora_rank: int = 0


TORCH_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "38654705664 bytes. Error code 12 (Cannot allocate memory)"
)
TORCH_CUDA = RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 10 GiB")


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (TORCH_CPU, "36.0 GiB"),
        (TORCH_CUDA, "2.50 GiB"),
        (MemoryError(), ""),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ""),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ""),
    ],
)
def test_the_words_name_the_command_the_size_and_what_to_lower(error: Exception, size: str, tmp_path: Path) -> None:
    found = as_memory_error(error, "sft", Training(tmp_path))
    assert found is not None and found.exit_code == 3
    assert "`wuya sft` ran out of memory" in str(found) and size in str(found)
    assert "`--microbatch_size 4`" in found.hint and "`--activation_checkpointing`" in found.hint
    assert "nothing had been saved yet" in found.hint


def test_a_saved_run_is_resumed_with_the_smaller_pass(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_000200").mkdir(parents=True)
    found = as_memory_error(TORCH_CPU, "sft", Training(tmp_path))
    assert found is not None
    assert f"`wuya sft --config {tmp_path}/config.yaml --resume --microbatch_size 4`" in found.hint


def test_settings_that_are_as_low_as_they_go_are_not_named(tmp_path: Path) -> None:
    found = as_memory_error(
        TORCH_CPU, "sft", Training(tmp_path, microbatch_size=1, activation_checkpointing=True, lora_rank=8)
    )
    assert found is not None and "--" not in found.hint and "close other programs" in found.hint


@pytest.mark.parametrize(("chosen", "named"), [(None, ""), (1, ""), (6, "`--microbatch_size 3`")])
def test_an_automatic_setting_is_halved_from_what_was_chosen(
    chosen: int | None, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wuya.out_of_memory._CHOSEN", {})
    if chosen is not None:
        note_choice("microbatch_size", chosen)
    found = as_memory_error(TORCH_CPU, "sft", Training(tmp_path, microbatch_size=0))
    assert found is not None and ("microbatch_size" in found.hint) == bool(named) and named in found.hint


def test_a_library_that_finds_no_room_while_it_is_imported() -> None:
    error = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    found = as_memory_error(error, "sft", None)
    assert found is not None and found.exit_code == 3 and "close other programs" in found.hint
    assert as_memory_error(ImportError("cannot import name 'x'"), "sft", None) is None
    done = shell("ulimit -v 200000; $PYTHON -m wuya env")
    assert (done.returncode, "Traceback" in done.stderr) == (3, False) and "`wuya env` ran out of memory" in done.stderr


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    for error in (RuntimeError("shape mismatch"), OSError(errno.ENOSPC, "full"), ValueError("out of memory?")):
        assert as_memory_error(error, "sft", Training(tmp_path)) is None
