import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from wuya.data.spool import Column, TextSpool, Workers
from wuya.errors import RunError


def double(factor: int, batch: list[int]) -> list[int]:
    return [factor * item for item in batch]


def die(_: int, batch: list[int]) -> list[int]:
    os._exit(9)


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    spool = TextSpool(tmp_path / "texts")
    texts = ["one", "", "zw\u00f6lf \u4e2d\u6587 \U0001f600", "lone \ud800 surrogate"]
    for text in texts:
        spool.append(text)
    spool.flush()
    assert [spool[i] for i in range(len(spool))] == texts
    assert spool.sizes().tolist() == [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    spool.append("more after reading sizes")
    assert len(spool) == 5
    spool.close()
    assert not (tmp_path / "texts").exists()


def test_columns_gather_rows_and_slices(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.uint32).reshape(6, 2)
    column = Column(tmp_path / "rows", np.uint32, width=2)
    column.append(rows[:4])
    column.append(rows[:0])
    column.append(rows[4:])
    column.flush()
    assert np.array_equal(column.read(), rows)
    assert np.array_equal(column.gather(np.array([5, 0])), rows[[5, 0]])
    flat = Column(tmp_path / "flat", np.uint16)
    flat.append(np.arange(10))
    flat.flush()
    assert flat.slice(3, 4).tolist() == [3, 4, 5, 6]
    column.close()
    flat.close()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_batches(num_workers: int) -> None:
    batches = [[i, i + 1] for i in range(9)]
    with Workers(10, num_workers) as workers:
        results = list(workers.map(double, iter(batches)))
    assert results == [(batch, [10 * item for item in batch]) for batch in batches]


def test_a_worker_that_dies_is_reported_with_a_way_out() -> None:
    with pytest.raises(RunError, match="worker process died"), Workers(0, 2) as workers:
        list(workers.map(die, [[1], [2]]))


def test_without_semaphores_one_process_does_the_work(
    no_file_beyond: Callable[[int], AbstractContextManager[None]], capsys: pytest.CaptureFixture[str]
) -> None:
    with no_file_beyond(0):  # a semaphore is a small file in /dev/shm
        workers = Workers(10, 2)
    with workers:
        assert list(workers.map(double, [[1], [2]])) == [([1], [10]), ([2], [20])]
    assert "warning: one process works instead of 2" in capsys.readouterr().err
