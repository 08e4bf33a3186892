"""Documents and numbers about them on disk, so that a corpus never has to fit in memory; and ordered work in parallel.

A `TextSpool` holds texts end to end, a `Column` one fixed-size row a document. Reading goes through plain `pread`:
pages of a memory map would count as memory of the process. `Workers.map` shares batches among processes and returns
results in the order of the batches, so nothing downstream can tell how many workers there were.
"""

import multiprocessing
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wuya.console import warn
from wuya.data.words import Ints
from wuya.errors import RunError

BatchT = TypeVar("BatchT")
ResultT = TypeVar("ResultT")
StateT = TypeVar("StateT")
_worker_state: Any = None


class TextSpool:
    """Append-only texts in one file; the offsets (8 bytes a text) are kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w+b", buffering=1 << 20)
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Add one text; lone surrogates are kept as they are."""
        data = text.encode("utf-8", "surrogatepass")
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def num_bytes(self, index: int) -> int:
        """Bytes of one text."""
        return self._ends[index + 1] - self._ends[index]

    def sizes(self) -> Ints:
        """[N] bytes of every text."""
        ends = np.frombuffer(self._ends, np.int64)
        return np.asarray(ends[1:] - ends[:-1], np.int64)

    def __getitem__(self, index: int) -> str:
        """Read one text."""
        return self.read_bytes(index).decode("utf-8", "surrogatepass")

    def read_bytes(self, index: int) -> bytes:
        """Read one text, not decoded."""
        return os.pread(self._file.fileno(), self.num_bytes(index), self._ends[index])

    def flush(self) -> None:
        """Make everything appended readable."""
        self._file.flush()

    def close(self) -> None:
        """Close and delete the file."""
        with suppress(OSError):  # a full disk was reported when it mattered; what is left is deleted unread
            self._file.close()
        self.path.unlink(missing_ok=True)


class Column:
    """Append-only rows of one shape and type in a file."""

    def __init__(self, path: Path, dtype: DTypeLike, width: int = 1) -> None:
        self.path, self.dtype, self.width = path, np.dtype(dtype), width
        self._file = path.open("w+b", buffering=1 << 18)

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows [M] or [M, width]."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).data if rows.size else b"")

    def flush(self) -> None:
        """Make everything appended readable."""
        self._file.flush()

    def read(self) -> NDArray[Any]:
        """The whole column: [N], or [N, width]."""
        rows = np.fromfile(self.path, self.dtype)
        return rows if self.width == 1 else rows.reshape(-1, self.width)

    def gather(self, indices: Ints) -> NDArray[Any]:
        """[M, width] the rows of some documents."""
        row_bytes = self.dtype.itemsize * self.width
        rows = np.empty((len(indices), self.width), self.dtype)
        for place, index in enumerate(indices.tolist()):
            data = os.pread(self._file.fileno(), row_bytes, index * row_bytes)
            rows[place] = np.frombuffer(data, self.dtype)
        return rows

    def slice(self, start: int, length: int) -> NDArray[Any]:
        """Consecutive rows of a column of width 1."""
        data = os.pread(self._file.fileno(), length * self.dtype.itemsize, start * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype)

    def close(self) -> None:
        """Close and delete the file."""
        with suppress(OSError):  # a full disk was reported when it mattered; what is left is deleted unread
            self._file.close()
        self.path.unlink(missing_ok=True)


class Workers(Generic[StateT]):
    """A number of processes that share a read-only state; with one worker everything runs in this process."""

    def __init__(self, state: StateT, num_workers: int) -> None:
        """Args:
        state: handed to every worker once; must pickle.
        num_workers: processes beside this one; 1 = none.
        """
        self._state = state
        self._num_workers = num_workers
        self._pool = _pool(num_workers, state) if num_workers > 1 else None

    def __enter__(self) -> Self:
        return self

    def map(
        self, function: Callable[[StateT, BatchT], ResultT], batches: Iterable[BatchT]
    ) -> Iterator[tuple[BatchT, ResultT]]:
        """Yield (batch, function(state, batch)) in order, with at most two batches a worker under way."""
        if self._pool is None:
            for batch in batches:
                yield batch, function(self._state, batch)
            return
        waiting: deque[tuple[BatchT, Future[ResultT]]] = deque()
        source = iter(batches)
        try:
            while True:
                for batch in islice(source, 2 * self._num_workers - len(waiting)):
                    waiting.append((batch, self._pool.submit(_call, function, batch)))
                if not waiting:
                    return
                batch, future = waiting.popleft()
                yield batch, future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process died, most likely for lack of memory", hint="run the same command with `--workers 1`"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)


def _pool(num_workers: int, state: object) -> ProcessPoolExecutor | None:
    """A pool, or None with a warning where the system gives no semaphores: a container whose /dev/shm is gone."""
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker, initargs=(state,))
    except (OSError, ImportError) as error:
        warn(f"one process works instead of {num_workers}: no semaphores here, which lie in /dev/shm ({error})")
        return None


def _start_worker(state: object) -> None:
    global _worker_state
    _worker_state = state


def _call(function: Callable[[Any, BatchT], ResultT], batch: BatchT) -> ResultT:
    return function(_worker_state, batch)
