"""The runs of this machine, read from their folders: config.yaml, metrics.jsonl, samples.jsonl, model/wuya.json.

Files grow while a run goes on, so each is read on from where the last look ended. An id is the folder's path under
<workspace>/runs with `~` for `/`: "demo~ppo".
"""

import json
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_DEPTH = 4
MAX_RUNS = 500
Row = dict[str, Any]
_STAGES = (("ppo_epochs", "ppo"), ("rankings", "reward"), ("demonstrations", "sft"), ("shards", "pretrain"))


@dataclass(slots=True)
class _Tail:
    """A file of JSON lines, and how far it was read."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    _offset: int = 0
    _inode: int = 0

    def refresh(self) -> list[Row]:
        """All rows; a last line that is not whole yet waits, a damaged one is left out."""
        try:
            with self.path.open("rb") as file:
                info = os.fstat(file.fileno())
                if info.st_ino != self._inode or info.st_size < self._offset:
                    self.rows, self._offset, self._inode = [], 0, info.st_ino
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return self.rows
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for line in data[:whole].splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                self.rows.append(row)
        return self.rows


class RunFolders:
    """All runs under a folder. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tails: dict[Path, _Tail] = {}
        self._lock = threading.Lock()

    def ids(self) -> list[str]:
        """Every folder with a metrics file."""
        return [self.id_of(folder) for folder in _folders(self.root, MAX_DEPTH)][:MAX_RUNS]

    def id_of(self, folder: Path) -> str:
        """The id of a folder under the root."""
        return "~".join(folder.relative_to(self.root).parts)

    def folder(self, id: str) -> Path | None:
        """The folder of an id; None if there is no such run, or the id tries to leave the root."""
        parts = id.split("~")
        if not all(part and part not in (".", "..") and "/" not in part and "\0" not in part for part in parts):
            return None
        folder = self.root.joinpath(*parts)
        inside = folder.resolve().is_relative_to(self.root.resolve())
        return folder if inside and (folder / "metrics.jsonl").is_file() else None

    def rows(self, id: str, name: str = "metrics.jsonl") -> list[Row]:
        """Rows of one of a run's files."""
        folder = self.folder(id)
        if folder is None:
            return []
        with self._lock:
            tail = self._tails.setdefault(folder / name, _Tail(folder / name))
            return list(tail.refresh())

    def summary(self, id: str) -> dict[str, Any]:
        """What the list of runs shows."""
        folder = self.folder(id)
        assert folder is not None
        rows, config, made = self.rows(id), self.config(id), self.made(id)
        latest = last_values(rows)
        step = max((row["step"] for row in rows), default=0)
        times = [row["time"] for row in rows if isinstance(row.get("time"), int | float)]
        status = _status(folder, times[-1] if times else 0.0)
        planned = config.get("num_updates") or config.get("num_steps")
        headline = next((key for key in ("objective/rlhf_reward", "accuracy", "loss") if key in latest), None)
        return {
            "id": id,
            "name": id.replace("~", "/"),
            "stage": made.get("recipe") or _stage(config),
            "status": status,
            "remote": False,
            "step": step,
            "planned": planned if isinstance(planned, int) and planned >= step else None,
            "started_at": times[0] if times else None,
            "updated_at": times[-1] if times else None,
            "eta_seconds": _eta(times, step, planned) if status == "running" else None,
            "git_sha": str(made.get("git_sha", ""))[:12],
            "latest": latest,
            "spark": {"key": headline, "values": _spark(rows, headline)} if headline else None,
            "has_model": (folder / "model" / "config.json").is_file(),
        }

    def config(self, id: str) -> dict[str, Any]:
        """config.yaml."""
        folder = self.folder(id)
        try:
            found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) if folder else {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    def made(self, id: str) -> dict[str, Any]:
        """wuya.json of the model, or of the newest checkpoint while the run goes on."""
        folder = self.folder(id)
        return read_made(folder) if folder else {}

    def checkpoints(self, id: str) -> list[str]:
        """Names of the checkpoints that are kept, and `model` for the final one."""
        folder = self.folder(id)
        if folder is None:
            return []
        steps = sorted(p.name for p in (folder / "checkpoints").glob("step_*") if (p / "config.json").is_file())
        return [*steps, *(["model"] if (folder / "model" / "config.json").is_file() else [])]


def read_made(folder: Path) -> dict[str, Any]:
    """wuya.json of a run's model or newest checkpoint."""
    steps = sorted((folder / "checkpoints").glob("step_*"), reverse=True)
    for place in (folder / "model", *steps[:1], folder):
        try:
            found = json.loads((place / "wuya.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def is_number(value: object) -> bool:
    """Whether a value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def last_values(rows: list[Row]) -> dict[str, float]:
    """The newest value of every metric."""
    latest: dict[str, float] = {}
    for row in rows[-400:]:
        latest.update({key: row[key] for key in row if key not in ("step", "time") and is_number(row[key])})
    return latest


def _spark(rows: list[Row], key: str | None, *, num_points: int = 40) -> list[float]:
    values = [row[key] for row in rows if key in row and is_number(row[key])]
    stride = max(1, -(-len(values) // num_points))
    return [*values[:-1:stride], *values[-1:]]


def _folders(root: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir() or entry.is_symlink():
            continue
        if (entry / "metrics.jsonl").is_file():
            yield entry
        elif depth > 1:
            yield from _folders(entry, depth - 1)


def _status(folder: Path, last: float) -> str:
    try:
        process = int((folder / ".lock").read_text().strip() or 0)
    except (OSError, ValueError):
        process = 0
    if process and _is_ours(process):
        return "running"
    return "finished" if (folder / "model" / "config.json").is_file() else "stopped" if last else "new"


def _is_ours(process: int) -> bool:
    """Whether the process that holds the lock is alive (its number may have been given to another program)."""
    try:
        return (
            b"python" in Path(f"/proc/{process}/cmdline").read_bytes()
            or b"wuya" in Path(f"/proc/{process}/cmdline").read_bytes()
        )
    except OSError:
        return False


def _stage(config: dict[str, Any]) -> str:
    return next((stage for key, stage in _STAGES if key in config), "")


def _eta(times: list[float], step: int, planned: object) -> float | None:
    if not isinstance(planned, int) or len(times) < 2 or not 0 < step < planned:
        return None
    return (times[-1] - times[0]) / max(1, step - 1) * (planned - step)
