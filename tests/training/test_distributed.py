"""At world size 1 nothing happens; devices and dtypes are what the machine has."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.recipes.processes import two_ranks
from wuya.errors import ConfigError, WuyaError
from wuya.training import distributed
from wuya.training.run import Run


def test_one_process_needs_no_group() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather(3) == [3] and distributed.any_rank(True) and not distributed.any_rank(False)
    assert list(distributed.local_rows(3)) == [0, 1, 2]
    model = nn.Linear(2, 2)
    distributed.broadcast_weights(model)
    distributed.reduce_gradients(model.parameters())
    assert model.weight.grad is None


def test_dtype_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(distributed, "has_bfloat16", lambda device, has=has: has)
        assert distributed.resolve_dtype("auto", cpu) == expected
    assert distributed.resolve_dtype("bfloat16", cpu) == torch.bfloat16


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a torch device"):
        distributed.resolve_device("cpuu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            distributed.resolve_device("cuda")


def in_group(rank: int) -> None:
    distributed.init("cpu")
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))
    a.grad = torch.full((3,), float(rank + 1))
    if rank == 0:
        b.grad = torch.ones(2, 2)  # the other rank had no rows for this parameter
    distributed.reduce_gradients([a, b])
    assert a.grad.tolist() == [3.0] * 3 and b.grad is not None and b.grad.tolist() == [[1.0] * 2] * 2
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(rank)
    distributed.broadcast_weights(model)
    assert model.weight.tolist() == [[0.0] * 2] * 2
    assert distributed.any_rank(rank == 1) and distributed.gather(rank) == [0, 1]
    assert list(distributed.local_rows(5)) == ([0, 2, 4] if rank == 0 else [1, 3])
    distributed.shutdown()


def test_two_processes_add_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET_ELEMENTS", 2)  # several buckets
    assert two_ranks(in_group) == [0, 0]


def test_tensors_meet_on_the_device_of_the_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL takes no CPU tensor: counts kept there must be moved and brought back. (The real one: `pytest -m gpu`.)"""
    seen = []

    def all_reduce(tensor: torch.Tensor) -> None:
        seen.append(tensor.dtype)
        tensor += 1

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "group_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    totals = torch.zeros(3, dtype=torch.float64)
    assert distributed.all_reduce_sum(totals) is totals and totals.tolist() == [1.0] * 3
    monkeypatch.setattr(distributed, "group_device", lambda: torch.device("meta"))
    with pytest.raises(NotImplementedError):  # it did move them: nothing comes back from there
        distributed.all_reduce_sum(totals)
    assert seen == [torch.float64] * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A recipe's config."""

    seed: int = 0
    """Something to compare."""


def enter_a_used_folder(rank: int, out: Path) -> None:
    distributed.init("cpu")
    try:
        with Run(out, Settings(), verb="sft"):  # only rank 0 looks into the folder
            pass
    except WuyaError as error:
        (out / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    distributed.shutdown()


def test_where_rank_0_fails_every_rank_ends_in_words(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_000001").mkdir(parents=True)
    assert two_ranks(partial(enter_a_used_folder, out=tmp_path), seconds=20) == [0, 0]
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said[0].startswith("ConfigError: ") and "already holds a run" in said[0]
    assert said[1].startswith("RunError: rank 0 could not prepare")
