"""The runs of this machine, read from their folders: config.yaml, metrics.jsonl, samples.jsonl, model/wuya.json.

Files grow while a run goes on, so each is read on from where the last look ended. An id is the folder's path under
<workspace>/runs with `~` for `/`: "demo~ppo".
"""

import json
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_DEPTH = 4
MAX_RUNS = 500
MAX_CONFIG_BYTES, MAX_CONFIG_VALUES = 1 << 18, 10_000
"""Of a config.yaml; a larger one is not shown."""
MAX_FILE_BYTES = 64 << 20
"""Of any other file that is read whole."""
TAIL_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link may lead anywhere, and opening a pipe would wait for somebody to write."""
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
            with open(os.open(self.path, TAIL_FLAGS), "rb") as file:
                info = os.fstat(file.fileno())
                if not stat.S_ISREG(info.st_mode):
                    return self.rows
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
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and is_count(row.get("step")):
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
        return folder if self._is_inside(folder) and _is_run(folder) else None

    def _is_inside(self, path: Path) -> bool:
        return is_inside(path, self.root)

    def has_model(self, folder: Path) -> bool:
        """Whether a run has weights of its own; a link out of the runs is none."""
        return self._is_inside(folder / "model" / "config.json") and (folder / "model" / "config.json").is_file()

    def _is_checkpoint(self, place: Path) -> bool:
        return self._is_inside(place) and (place / "config.json").is_file()

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
        folder = self.root.joinpath(*id.split("~"))  # it may have been deleted since it was listed
        rows, config, made = self.rows(id), self.config(id), self.made(id)
        latest = last_values(rows)
        step = max((row["step"] for row in rows), default=0)
        times = [row["time"] for row in rows if is_number(row.get("time"))]
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
            "has_model": self.has_model(folder),
        }

    def config(self, id: str) -> dict[str, Any]:
        """config.yaml."""
        folder = self.folder(id)
        try:
            if folder is None or (folder / "config.yaml").stat().st_size > MAX_CONFIG_BYTES:
                return {}
            found = yaml.safe_load(read_text(folder / "config.yaml", self.root))
        except (OSError, yaml.YAMLError, ValueError, RecursionError):  # ValueError: no UTF-8, impossible dates
            return {}
        return found if isinstance(found, dict) and _num_values(found, MAX_CONFIG_VALUES) <= MAX_CONFIG_VALUES else {}

    def made(self, id: str) -> dict[str, Any]:
        """wuya.json of the model, or of the newest checkpoint while the run goes on."""
        folder = self.folder(id)
        return read_made(folder, self.root) if folder else {}

    def checkpoints(self, id: str) -> list[str]:
        """Names of the checkpoints that are kept, and `model` for the final one."""
        folder = self.folder(id)
        if folder is None:
            return []
        steps = sorted(p.name for p in (folder / "checkpoints").glob("step_*") if self._is_checkpoint(p))
        return [*steps, *(["model"] if self.has_model(folder) else [])]


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path stays under a folder when links are followed: who writes a run chooses where its links lead."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself; Python 3.13 says OSError
        return False


def read_text(path: Path, root: Path) -> str:
    """A file of a run under `root`.

    Raises:
        OSError: there is none, it is a pipe (reading waits for ever) or too large, or a link leads out.
        ValueError: it is no UTF-8.
    """
    if not is_inside(path, root):
        raise PermissionError(f"`{path}` leads out of the runs")
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        raise FileNotFoundError(f"`{path}` is no file, or too large")
    return path.read_text(encoding="utf-8")


def read_made(folder: Path, root: Path) -> dict[str, Any]:
    """wuya.json of a run's model or newest checkpoint."""
    steps = sorted((folder / "checkpoints").glob("step_*"), reverse=True)
    for place in (folder / "model", *steps[:1], folder):
        try:
            found = json.loads(read_text(place / "wuya.json", root))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def is_count(value: object) -> bool:
    """Whether a value can be a step."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_number(value: object) -> bool:
    """Whether a value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # NaN is not


def _num_values(value: object, most: int) -> int:
    """Values inside a value, counted up to `most`: YAML's aliases make 300 bytes into millions, or into a circle."""
    count, waiting = 0, [value]
    while waiting and count <= most:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return count


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


def _is_run(folder: Path) -> bool:
    """Whether a folder has a file of metrics; a link is none, wherever it leads."""
    metrics = folder / "metrics.jsonl"
    return metrics.is_file() and not metrics.is_symlink()


def _folders(root: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir() or entry.is_symlink():
            continue
        if _is_run(entry):
            yield entry
        elif depth > 1:
            yield from _folders(entry, depth - 1)


def _status(folder: Path, last: float) -> str:
    try:
        process = int(read_text(folder / ".lock", folder).strip() or 0)
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
