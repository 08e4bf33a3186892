"""The rate counts work since it was last asked for, and not the pauses."""

import pytest

from wuya.training import throughput
from wuya.training.throughput import Throughput


def test_pauses_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now)
    work = Throughput()
    now = 2.0
    work.count(100)
    with work.paused():
        now = 50.0
    assert work.rate() == 50.0
    now = 51.0
    work.count(10)
    assert work.rate() == 10.0
