"""Runs in processes of their own, and what happens to them: SIGKILL at random moments."""

import dataclasses
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tqdm import tqdm


def forked(work: Callable[[], object], **environment: str) -> int:
    """Start `work` in a copy of this process (torch is loaded already); returns its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            tqdm.set_lock(threading.RLock())  # tqdm's own is shared by forks: one that is killed would keep it for ever
            os.environ.update(environment)
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def kill_and_resume(run: Callable[[Any], object], config: Any, *, kills: int, within: float = 0.3) -> list[str]:
    """Train in processes of their own, SIGKILL each at a random moment after its first update; let the last finish.

    Args:
        within: seconds after a process's first row of metrics in which its moment lies.

    Returns the newest checkpoint's name after each kill, "" for none; every one under a final name must be whole.
    """
    rng = random.Random(0)
    metrics, found = config.out / "metrics.jsonl", []
    for _ in range(kills):
        size = metrics.stat().st_size if metrics.exists() else 0
        pid = forked(lambda: run(dataclasses.replace(config, resume=True)))
        deadline = time.monotonic() + 60
        while (not metrics.exists() or metrics.stat().st_size <= size) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.random() * within)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        checkpoints = sorted((config.out / "checkpoints").glob("step_*"))
        for checkpoint in checkpoints:
            assert (checkpoint / "resume" / "state.pt").exists() and (checkpoint / "model.safetensors").exists()
        found.append(checkpoints[-1].name if checkpoints else "")
    run(dataclasses.replace(config, resume=True))
    return found


def two_ranks(work: Callable[[int], object], *, seconds: float = 60) -> list[int]:
    """Run `work(rank)` in two forked processes with what `torchrun` would have set; their exit codes, in order of rank.

    A process that still runs after so many seconds is killed and its code is -9.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    pids = [forked(partial(work, rank), RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in range(2)]
    codes: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0 if time.monotonic() > deadline else os.WNOHANG)
                if ended:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]
