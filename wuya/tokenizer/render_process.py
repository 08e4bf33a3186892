"""Foreign chat templates are programs: each runs in a small process of its own, which is ended when it takes too long.

Whatever a template does (loops for ever, `10 ** 10 ** 9`, a string of a terabyte), its process has half a second of
processor time and a gigabyte; the caller, and the chats of other models, go on. A chat costs a fraction of a
millisecond more than in this process. A template that took too long REPEATS times is not tried again.
"""

import atexit
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from wuya.errors import DataError, RunError
from wuya.tokenizer.template_engine import CPU_SECONDS, LARGEST_TEXT, MEMORY_BYTES, SIZE_BYTES

MOST_PROCESSES = 4
"""Templates whose processes are kept; the one used longest ago makes room."""
WALL_SECONDS = 20.0
"""A process that gets no processor for so long is given up."""
REPEATS = 3


class RenderProcess:
    """One template in one process, started when it is first needed, and again after a template has ended it."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._overruns = 0

    def ask(self, variables: dict[str, Any]) -> tuple[str, Any]:
        """The kind and value of the reply (template_engine.py). Raises DataError for a template beyond its limits."""
        with self._lock:
            if self._overruns >= REPEATS:
                raise _beyond_limits("it was ended three times before, and is not tried again")
            for last_try in (False, True):
                try:
                    kind, value = self._exchange(variables)
                    break
                except (OSError, EOFError, ValueError):
                    if self.close() != -signal.SIGPROF and not last_try:  # somebody killed it, not its own limit
                        continue
                    self._overruns += 1
                    raise _beyond_limits(
                        f"it was ended after {CPU_SECONDS:g} s of processor time, or {MEMORY_BYTES >> 20:,} MiB"
                    ) from None
                except BaseException:  # Ctrl-C between question and answer: the next answer would be the wrong one
                    self.close()
                    raise
        if kind == "memory":
            raise _beyond_limits(f"it takes more than {MEMORY_BYTES >> 20:,} MiB")
        return kind, value

    def close(self) -> int:
        """End the process, if there is one; the signal that it had ended by before, negative."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        if select.select([process.stdout], [], [], 0)[0]:  # at its end: the pipe closes a moment before it is gone
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        process.kill()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):  # what was still to be written has nobody to read it
                stream.close()
        return process.wait()

    def _exchange(self, variables: dict[str, Any]) -> tuple[str, Any]:
        if self._process is None:
            self._process = _started()
            _send(self._process, self._template)
        _send(self._process, variables)
        deadline = time.monotonic() + WALL_SECONDS
        size = int.from_bytes(_receive(self._process, SIZE_BYTES, deadline))
        if size > LARGEST_TEXT:
            raise ValueError(size)
        kind, value = json.loads(_receive(self._process, size, deadline))
        return kind, value


def _started() -> subprocess.Popen[bytes]:
    """A process that imports what this one would: its own session, so that Ctrl-C in the terminal is not its affair."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "wuya.tokenizer.template_engine"]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise RunError(
            "cannot start the process that renders the chat template", found=str(error),
            hint="free memory or file descriptors (`ulimit -n`), and run it again",
        ) from error  # fmt: skip


def _send(process: subprocess.Popen[bytes], value: object) -> None:
    data = pickle.dumps(value)
    assert process.stdin is not None
    process.stdin.write(len(data).to_bytes(SIZE_BYTES) + data)
    process.stdin.flush()


def _receive(process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    assert process.stdout is not None
    handle, data = process.stdout.fileno(), bytearray()
    while len(data) < size:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise EOFError
        if not (part := os.read(handle, min(size - len(data), 1 << 20))):
            raise EOFError
        data += part
    return bytes(data)


def _beyond_limits(found: str) -> DataError:
    return DataError(
        "the chat template takes too long or too much memory",
        found=found,
        hint="use a model whose template ends; templates of published models take a millisecond",
    )


_processes: OrderedDict[str, RenderProcess] = OrderedDict()
_guard = threading.Lock()


def render_process(template: str) -> RenderProcess:
    """The process of a template."""
    with _guard:
        process = _processes.pop(template, None) or RenderProcess(template)
        _processes[template] = process
        dropped = [_processes.popitem(last=False)[1] for _ in range(len(_processes) - MOST_PROCESSES)]
    for old in dropped:
        with old._lock:  # its caller is served first
            old.close()
    return process


def _forget() -> None:
    """A forked child must not talk through its parent's pipes, nor wait for a lock that nobody there holds."""
    global _guard
    _guard = threading.Lock()
    for process in _processes.values():
        if process._process is not None:
            process._process.returncode = 0  # not its child
    _processes.clear()


@atexit.register
def _close_all() -> None:
    for process in _processes.values():
        process.close()


os.register_at_fork(after_in_child=_forget)
