"""Text that was shown is never lost: each piece is appended to a file before it is sent to the page.

The database gets an answer's text every half second, all answers in one transaction. A killed process would lose what
came since; the journal holds it. Appending costs microseconds and takes no lock. The file belongs to one process, which
holds a lock on it for life: whoever can lock another's journal knows that its owner is dead, and may replay it.

On a full disk answers go on: lines that could not be appended are tried again with the next piece, so only a kill in
the meantime loses them.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from wuya.files import make_folder

log = logging.getLogger("wuya.web.chat")

ROTATE_BYTES = 1 << 16


class Journal:
    """Append-only files of (generation, offset in the answer, text)."""

    def __init__(self, folder: Path, name: str) -> None:
        make_folder(folder)
        self._folder, self._name, self._number = folder, name, 0
        self._old: list[tuple[Path, int]] = []
        self._path, self._file = self._open()
        self._size = 0
        self._is_kept = False
        self._unwritten = bytearray()
        """Lines that a full disk did not take; before the last `rotate` there were `_before` bytes of them."""
        self._before = 0

    def append(self, pieces: Iterable[tuple[str, int, str]]) -> None:
        """Keep pieces of answers: generation, where in the answer it starts (in characters), text."""
        was_full = bool(self._unwritten)
        self._unwritten += b"".join(json.dumps(piece).encode() + b"\n" for piece in pieces)
        try:
            if os.write(self._file, self._unwritten) < len(self._unwritten):
                os.ftruncate(self._file, self._size)  # no half line before the next one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not was_full:
                log.error("the journal of answers cannot be written", extra={"reason": error.strerror})
            return
        self._size += len(self._unwritten)
        self._unwritten.clear()
        self._before = 0

    def rotate(self) -> None:
        """Go on in a new file, if this one is large. Call it before the database gets all that was appended."""
        self._before = len(self._unwritten)
        if self._size > ROTATE_BYTES:
            try:
                path, file = self._open()
            except OSError:  # no space, no descriptors: the old one serves
                return
            self._old.append((self._path, self._file))
            self._path, self._file, self._size = path, file, 0

    def keep(self) -> None:
        """Something in it was never saved: from now on nothing is forgotten, and the next start reads it all."""
        self._is_kept = True

    def drop_old(self) -> None:
        """Forget the files before the last `rotate`; call it when the database has got all of it."""
        if self._is_kept:
            return
        del self._unwritten[: self._before]
        self._before = 0
        for path, file in self._old:
            path.unlink(missing_ok=True)
            os.close(file)
        self._old.clear()

    def clear(self) -> None:
        """Forget everything: no answer is being written."""
        self._before = len(self._unwritten)
        self.drop_old()
        if self._size and not self._is_kept:
            os.ftruncate(self._file, 0)
            self._size = 0

    def close(self) -> None:
        """Remove the files, unless they are kept; a second time does nothing."""
        if self._file >= 0:
            self._old.append((self._path, self._file))
            self._file = -1
            self.drop_old()
            for _, file in self._old:
                os.close(file)
            self._old.clear()

    def _open(self) -> tuple[Path, int]:
        self._number += 1
        path = self._folder / f"{self._name}-{self._number}.journal"
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path, file


@contextlib.contextmanager
def left_behind(folder: Path) -> Iterator[dict[str, list[tuple[int, str]]]]:
    """Pieces by generation in the journals of dead processes; the files are removed when the block ends well."""
    taken: list[tuple[Path, int]] = []
    pieces: dict[str, list[tuple[int, str]]] = {}
    try:
        for path in sorted(folder.glob("*.journal")):
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            taken.append((path, file))
            for generation, offset, text in _lines(path):
                pieces.setdefault(generation, []).append((offset, text))
        yield pieces
        for path, _ in taken:
            path.unlink(missing_ok=True)
    finally:
        for _, file in taken:
            os.close(file)


def apply_pieces(text: str, pieces: list[tuple[int, str]]) -> str:
    """The text with the pieces that go beyond it; pieces that do not join on are left out."""
    for offset, piece in sorted(pieces):
        if offset <= len(text) < offset + len(piece):
            text = text[:offset] + piece
    return text


def _lines(path: Path) -> Iterator[tuple[str, int, str]]:
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):  # the last line of a killed process may be cut
            generation, offset, text = json.loads(line)
            yield str(generation), int(offset), str(text)
