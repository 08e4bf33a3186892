"""Freed memory is kept or given back, as asked; seen from outside, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, json, mmap
from wuya.allocator import set_up_allocator
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE
mode = set_up_allocator()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
start = resident()
blocks = [libc.malloc(8_000_000) for _ in range(5)]
for block in blocks:
    libc.memset(block, 1, 8_000_000)
held = resident() - start
for block in blocks:
    libc.free(block)
print(json.dumps([mode, held, resident() - start]))
"""


def run(**environment: str) -> tuple[str, int, int]:
    base = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "WUYA_ALLOCATOR"))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**base, **environment})
    mode, held, left = json.loads(done.stdout)
    return mode, held, left


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_blocks_stay_or_go() -> None:
    mode, held, left = run()
    assert mode == "keep" and held > 39e6 and left > 30e6
    mode, held, left = run(WUYA_ALLOCATOR="return")
    assert mode == "return" and held > 39e6 and left < 1e6


@pytest.mark.parametrize("environment", [{"WUYA_ALLOCATOR": "system"}, {"MALLOC_MMAP_THRESHOLD_": "1000000"}])
def test_who_sets_something_else_gets_it(environment: dict[str, str]) -> None:
    assert run(**environment)[0] == "system"
