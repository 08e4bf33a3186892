"""What this machine can do, measured once and kept: matrix products per second, memory bandwidth; and its memory."""

import json
import os
import platform
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from wuya.files import to_json, write_atomic

CGROUP = Path("/sys/fs/cgroup")
CONTAINER_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Of control groups, version 2 and 1: limit, use, statistics, and the line of cached files, which give way."""
SECONDS = 0.25
"""Length of each measurement."""
READ_FLOATS = 1 << 26
"""256 MB, more than any cache."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Speed and size of this machine."""

    device: str
    """cpu or cuda."""
    name: str
    memory_bytes: int
    """Of the accelerator where there is one, else of the machine."""
    free_bytes: int
    float32_flops: float
    """FLOP/s of a large matrix product."""
    bfloat16_flops: float
    read_bytes_per_second: float
    """Reading memory that is in no cache."""


def this_machine(cache: Path, *, remeasure: bool = False) -> Machine:
    """Memory now, and speeds from the cache file when it was written on the same machine with the same threads."""
    import torch

    memory, free = memory_of(cuda := torch.cuda.is_available())
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    key = f"{name}, {platform.node()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    speeds = None if remeasure else _cached(cache, key)
    if speeds is None:
        speeds = {
            "float32_flops": matmul_flops("float32", cuda=cuda),
            "bfloat16_flops": matmul_flops("bfloat16", cuda=cuda),
            "read_bytes_per_second": read_speed(cuda=cuda),
        }
        write_atomic(cache, to_json({"key": key, **speeds}, indent=2) + "\n")
    return Machine("cuda" if cuda else "cpu", name, memory, free, **speeds)


def memory_of(cuda: bool) -> tuple[int, int]:
    """(all, free) bytes of the current accelerator or of the machine; limits of a container or of `ulimit -v` count.

    What torch keeps of an accelerator's memory without using it is free, and so are a container's cached files.
    """
    if cuda:
        import torch

        free, total = torch.cuda.mem_get_info()
        return int(total), int(free) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    import psutil

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    for limit, used in (*_container_limits(), _process_limit()):
        if limit:
            total, free = min(total, limit), max(0, min(free, limit - used))
    return total, free


def _container_limits() -> list[tuple[int, int]]:
    """(limit, used) bytes of the control groups that have a limit. Files they can drop are not counted as used."""
    limits = []
    for limit, used, statistics, cached in CONTAINER_FILES:
        if (most := _number(CGROUP / limit)) is not None:
            limits.append((most, max(0, (_number(CGROUP / used) or 0) - _statistic(CGROUP / statistics, cached))))
    return limits


def _process_limit() -> tuple[int, int]:
    """(limit, used) bytes of this process's address space, as `ulimit -v` sets it; 0, 0 without a limit."""
    import psutil

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return (0, 0) if limit == resource.RLIM_INFINITY else (limit, int(psutil.Process().memory_info().vms))


def _number(path: Path) -> int | None:
    """A file that holds one number; None without the file, or for `max`."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _statistic(path: Path, name: str) -> int:
    """One line of a container's statistics; 0 if it isn't there."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)


def matmul_flops(dtype_name: str, *, cuda: bool) -> float:
    """FLOP/s of a product of square matrices: the fastest of many, since other work slows the rest."""
    import torch

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype_name]
    size = 4096 if cuda else 512
    a = torch.randn(size, size, device="cuda" if cuda else "cpu").to(dtype)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        a @ a
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(2 * size**3 / min(times))


def read_speed(*, cuda: bool) -> float:
    """Bytes per second of summing more than a cache holds."""
    import torch

    values = torch.ones(READ_FLOATS, device="cuda" if cuda else "cpu")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        float(values.sum())
        times.append(time.perf_counter() - start)
    return float(values.numel() * 4 / min(times))


def machine_dict(machine: Machine) -> dict[str, object]:
    """For JSON."""
    return {**asdict(machine), "cores": os.cpu_count()}


def _cached(cache: Path, key: str) -> dict[str, float] | None:
    try:
        stored = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if stored.pop("key", None) != key:
        return None
    try:
        return {name: float(stored[name]) for name in ("float32_flops", "bfloat16_flops", "read_bytes_per_second")}
    except (KeyError, TypeError, ValueError):
        return None
