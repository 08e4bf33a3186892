"""Files that are whole or absent: atomic writes, locks, hashes, JSON lines.

Everything wuya writes goes to a temporary name beside its place, is flushed to the disk and then renamed, so a crash, a
full disk or Ctrl-C never leaves half a file under a final name.
"""

import fcntl
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from wuya.errors import DataError, RunError, RunLocked, WuyaError

FULL_DISK = frozenset({ENOSPC, EDQUOT, EFBIG})
NO_PERMISSION = frozenset({EACCES, EPERM, EROFS})


def default_workspace() -> Path:
    """The folder that holds everything commands write: `$WUYA_WORKSPACE`, else `./workspace`."""
    return Path(os.environ.get("WUYA_WORKSPACE") or "workspace")


def as_run_error(error: Exception, path: Path | str) -> RunError | None:
    """The message for a full disk or a missing permission; None for any other error."""
    number, where = _system_error(error), getattr(error, "filename", None) or path
    reason = os.strerror(number).lower() if number else ""
    if number in FULL_DISK:
        return RunError(
            f"cannot write `{where}`: {reason}",
            hint="free some space, or write elsewhere (`--out`, or WUYA_WORKSPACE=/other/disk), and run it again; "
            "what was finished before is intact",
        )
    if number in NO_PERMISSION:
        return RunError(
            f"cannot write `{where}`: {reason}",
            hint="choose a folder you may write to (`--out`, or WUYA_WORKSPACE=/a/folder/of/yours)",
        )
    return None


def _system_error(error: Exception) -> int | None:
    """The errno behind an exception, also where a library written in another language wraps it in its own exception."""
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    if found := re.search(r"\(os error (\d+)\)", text):  # Rust: safetensors, tokenizers
        return int(found.group(1))
    full = ("PytorchStreamWriter failed", "unexpected pos", "database or disk is full")  # torch.save, SQLite
    return ENOSPC if any(words in text for words in full) else None


@contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """Turn a full disk or a missing permission inside the block into a RunError (exit code 3)."""
    try:
        yield
    except Exception as error:
        if run_error := as_run_error(error, path):
            raise run_error from error
        raise


def make_folder(path: Path | str) -> Path:
    """Create a folder and its parents, with a clear error when that isn't possible."""
    path, workspace = Path(path), default_workspace()
    try:
        with write_errors(path):
            if path.absolute().is_relative_to(workspace.absolute()) and not workspace.exists():
                make_private(workspace)
            path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(
            f"cannot create the folder `{path}`: a file is in the way", hint=f"remove it: `rm {error.filename or path}`"
        ) from error
    except FileNotFoundError as error:  # a system folder such as /proc
        raise RunError(
            f"cannot create the folder `{path}`", hint="choose another folder: `--out workspace/...`"
        ) from error
    return path


def make_private(workspace: Path) -> None:
    """Create a workspace that only its owner can enter: it holds chats, keys, and what people think of answers."""
    workspace.parent.mkdir(parents=True, exist_ok=True)
    workspace.mkdir(mode=0o700, exist_ok=True)


def open_to_others(*paths: Path) -> list[Path]:
    """Those of the paths that exist and that other accounts of this machine may read or write."""
    return [path for path in paths if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]


def write_atomic(path: Path | str, data: str | bytes) -> None:
    """Write a whole file or leave what was there."""
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with write_errors(path), temporary.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        with write_errors(path):
            temporary.replace(path)
            fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder; when the block succeeds it becomes `path` (replacing any), else it is removed."""
    path = Path(path)
    make_folder(path.parent)
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        with write_errors(path):
            temporary.mkdir()
            yield temporary
            for item in sorted(temporary.rglob("*")):
                if item.is_file():
                    with item.open("rb") as file:
                        os.fsync(file.fileno())
            if path.exists():
                path.rename(retired)
            temporary.rename(path)
            fsync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if retired.exists() and not path.exists():  # the second rename failed: put the old folder back
            retired.rename(path)
        shutil.rmtree(retired, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Clean up after processes that were killed: remove their temporary folders, put back a retired one."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        owner, _, kind = leftover.name.removeprefix(f".{path.name}.").partition(".")
        if not owner.isdigit() or kind not in {"tmp", "old"} or Path("/proc", owner).exists():
            continue
        if kind == "old" and not path.exists():
            leftover.rename(path)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def fsync_folder(path: Path) -> None:
    """Make the renames inside a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path | str) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(obj: object) -> str:
    """Hex digest of a value's canonical JSON: keys sorted, no spaces."""
    return hashlib.sha256(to_json(obj, sort_keys=True).encode()).hexdigest()


def to_json(obj: object, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Strict JSON that any reader accepts: NaN and infinities become null, paths text, arrays numbers."""
    separators = (",", ":") if indent is None else None
    plain = _plain(obj)
    return json.dumps(
        plain, ensure_ascii=False, indent=indent, sort_keys=sort_keys, separators=separators, allow_nan=False
    )


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch values, without importing either
        return _plain(value.tolist())
    raise TypeError(f"cannot write {type(value).__name__} as JSON: {value!r}")


def append_jsonl(path: Path | str, row: Mapping[str, object]) -> None:
    """Add one row to a JSON-lines file in one write, so that readers never see half a row."""
    path = Path(path)
    line = (to_json(row) + "\n").encode()
    make_folder(path.parent)
    with write_errors(path), path.open("ab", buffering=0) as file:
        written = file.write(line)
        if written != len(line):  # the disk filled up within the row: take the half row back
            file.truncate(file.tell() - (written or 0))
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))


@dataclass(slots=True)
class BadRows:
    """Rows of data files that were skipped: all are counted, the first `keep` are named."""

    count: int = 0
    keep: int = 5
    examples: list[str] = field(default_factory=list)

    def add(self, file: Path | str, line: int, reason: str) -> None:
        """Count a row; `line` starts at 1."""
        self.count += 1
        if len(self.examples) < self.keep:
            self.examples.append(f"{file}:{line}: {reason}")

    def summary(self) -> str:
        """Text for people: how many rows were skipped and the first of them, or the empty string when none were."""
        if not self.count:
            return ""
        rest = self.count - len(self.examples)
        more = [f"  ... and {rest:,} more"] if rest else []
        noun = "row was" if self.count == 1 else "rows were"
        return "\n".join([f"{self.count:,} bad {noun} skipped:", *(f"  {text}" for text in self.examples), *more])


def read_json_object(path: Path, error: type[WuyaError] = DataError) -> dict[str, Any]:
    """A JSON object from a file somebody else may have written; raises `error`, naming the file, for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as problem:
        raise error(f"`{path}` cannot be read as JSON", found=str(problem)[:200]) from problem
    if not isinstance(value, dict):
        raise error(f"`{path}` does not hold a JSON object", found=type(value).__name__)
    return value


def is_plain_name(name: object) -> bool:
    """Whether a value can name a file inside a folder, and nothing elsewhere."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name and len(name) < 200


def read_jsonl(path: Path | str, bad: BadRows | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) of a JSON-lines file, plain or `.gz`; blank lines are ignored.

    A row that is not UTF-8, not JSON or not an object is added to `bad`, or without it raises DataError with file:line.
    """
    path = Path(path)
    with open_data(path) as file:
        lines = enumerate(file, start=1)
        number = 0
        while True:
            try:
                number, line = next(lines)
            except StopIteration:
                return
            except (EOFError, OSError, zlib.error) as error:  # a truncated or foreign .gz
                raise DataError(
                    f"cannot read `{path}` after line {number}: {error}", hint="the file is damaged; get it again"
                ) from error
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 text: {error.reason} at byte {error.start}"
            except (json.JSONDecodeError, RecursionError) as error:
                reason = f"not JSON: {error}"
            else:
                if isinstance(row, dict):
                    yield number, row
                    continue
                reason = f"expected a JSON object {{...}}, found {type(row).__name__}"
            if bad is None:
                raise DataError(f"{path}:{number}: {reason}", hint="one JSON object a line, in UTF-8")
            bad.add(path, number, reason)


def open_data(path: Path | str) -> IO[bytes]:
    """Open a data file for reading bytes, unpacking `.gz`; a missing or unreadable file is a DataError."""
    path = Path(path)
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except FileNotFoundError:
        raise DataError(
            f"`{path}` does not exist", hint=f"look for it: `ls {path.parent}`; relative paths start at {Path.cwd()}"
        ) from None
    except IsADirectoryError:
        raise DataError(f"`{path}` is a folder, not a file", hint=f"name one of its files: `ls {path}`") from None
    except PermissionError:
        raise DataError(f"`{path}` may not be read", hint=f"check its mode: `ls -l {path}`") from None


class FileLock:
    """One process at a time: an advisory lock that the system releases when the process ends, however it ends."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        make_folder(self.path.parent)
        with write_errors(self.path):
            file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            file.close()
            raise RunLocked(
                f"`{self.path.parent}` is in use by another process",
                found=f"process {owner}" if owner else "",
                hint="wait for it, stop it, or choose another folder with `--out`",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()  # releases the lock; the file stays, removing it would race with the next owner
            self._file = None
