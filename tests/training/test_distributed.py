"""At world size 1 nothing happens; devices and dtypes are what the machine has."""

import os
import socket

import pytest
import torch
from torch import nn

from wuya.errors import ConfigError
from wuya.training import distributed


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


def in_group(rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                in_group(rank, port)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
