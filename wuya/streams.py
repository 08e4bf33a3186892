"""What a command starts with, whoever started it: three open standard streams, and UTF-8 for names and text.

A daemon or a script may close stdout (`>&-`); then the first file that is opened gets number 1, and whatever a library
prints lands in it. `LC_ALL=C` with `PYTHONUTF8=0` leaves Python with ASCII, which names no folder in Chinese. A log
that nobody reads any more (`2>&1 | head`, a closed terminal), or whose disk is full, must not end a run of days, let
alone with code 0.
"""

import errno
import io
import os
import sys
from typing import TextIO

READER_GONE = frozenset({errno.EPIPE, errno.EIO})
"""The reader of a pipe ended; the terminal was closed."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Of the disk that holds the log; what is written once there is space again is kept."""


def set_up_streams() -> None:
    """Open what is closed, restart in UTF-8 where the locale has only ASCII, and let stderr outlive its reader."""
    for number in range(3):
        _require_open(number)
    _restart_in_utf8()
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # they live as long as the process
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # text of a model in an encoding that cannot write it
    sys.stderr = log_stream(2)


def log_stream(number: int) -> TextIO:
    """A text stream for logs on a file descriptor; after its reader has gone, what is written vanishes."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    raw = io.BufferedWriter(_Log(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", line_buffering=True, write_through=True)


class _Log(io.FileIO):
    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # any buffer
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in DISK_FULL:
                return memoryview(data).nbytes
            if error.errno not in READER_GONE:
                raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # libraries and child processes write there, too
        return memoryview(data).nbytes


def _require_open(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
        os.set_inheritable(number, True)


def _restart_in_utf8() -> None:
    """The encoding of file names is settled before any of our code runs, so it takes a new start (30 ms, once)."""
    if sys.getfilesystemencoding().lower() == "ascii" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"  # worker processes, too
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
