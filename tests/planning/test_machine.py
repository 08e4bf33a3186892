"""Memory that is free: a container's limit less what it uses counts, cached files don't."""

from pathlib import Path

import psutil
import pytest

from wuya.planning import machine

GIB = 1 << 30


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_its_limit_less_what_it_uses(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    limit, used, statistics, cached = machine.CONTAINER_FILES[2 - version]
    for name, text in ((limit, f"{GIB}\n"), (used, f"{GIB // 2}\n"), (statistics, f"anon 5\n{cached} {GIB // 4}\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.memory_of(cuda=False) == (GIB, 3 * GIB // 4)


def test_without_a_limit_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    total, free = machine.memory_of(cuda=False)
    assert total == psutil.virtual_memory().total and 0 < free < total
