"""Tokens per second of training proper: time spent on validation, samples and saving does not count."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Throughput:
    """Counts units of work since the last time somebody asked for the rate."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._count = 0

    def count(self, units: int) -> None:
        """Add finished work."""
        self._count += units

    def rate(self) -> float:
        """Units per second since the last call (or the beginning)."""
        now = time.perf_counter()
        rate = self._count / max(now - self._start, 1e-9)
        self._start, self._count = now, 0
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the block is not counted."""
        begun = time.perf_counter()
        yield
        self._start += time.perf_counter() - begun
