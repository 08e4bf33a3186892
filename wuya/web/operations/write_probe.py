"""Whether the database and the workspace take writes: on a full or read-only disk reading goes on, and writes fail.

One row proves little: SQLite overwrites room that its log already has, so the row is written where a message has no
place any more. Therefore a file of a few pages is written, too, beside the journals of answers.
"""

import os
import threading
import time
from pathlib import Path

from wuya.database.connection import writing
from wuya.database.labeling_tables import now
from wuya.errors import WuyaError
from wuya.files import make_folder
from wuya.web.accounts.store import set_setting
from wuya.web.service import Service

FRESH_SECONDS = 5.0
PROBE_BYTES = 256 << 10
"""Room that must be there: a long message with its copy in SQLite's log, and the text of answers in progress."""


class WriteProbe:
    """Writes one row now and then; in between the last finding counts, so that asking often costs nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at, self._works = -1e9, False

    def works(self, service: Service) -> bool:
        """Whether the last try, a few seconds old at most, was written to disk."""
        with self._lock:
            if time.monotonic() - self._at > FRESH_SECONDS:
                try:
                    with writing(service.database) as connection:
                        set_setting(connection, "write_probe", now().isoformat())
                    _write_file(service.settings.workspace)
                    self._works = True
                except (WuyaError, OSError):
                    self._works = False
                self._at = time.monotonic()
            return self._works


def _write_file(workspace: Path) -> None:
    """Raises: OSError, RunError."""
    path = make_folder(workspace) / f".write_probe.{os.getpid()}.tmp"
    try:
        with path.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def can_write(service: Service) -> bool:
    """Whether the service's database and workspace take writes."""
    if WriteProbe not in service.parts:
        service.put(WriteProbe())
    return service.get(WriteProbe).works(service)
