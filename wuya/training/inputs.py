"""What a run reads: every file and folder that its config names, with a hash, so that nobody resumes on other data.

    inputs.json    {"demonstrations": {"path": "d.jsonl", "sha256": "..."}, "base": {...}, ...}

It is written before step 0 and compared on `--resume`; each checkpoint's wuya.json repeats it.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wuya.checkpoints.checkpoint import describe_parent
from wuya.checkpoints.fingerprint import fingerprint
from wuya.errors import CheckpointError, ConfigError, DataError
from wuya.files import to_json, write_atomic

INPUTS = "inputs.json"
NOT_READ = frozenset({"out", "database"})
"""Fields that name what a command writes."""

Inputs = dict[str, dict[str, str]]


def inputs_of(config: object) -> Inputs:
    """Path, digest of the weights or the file, and digest of everything, of each input that is there; by field."""
    found: Inputs = {}
    for name, path in _named_paths(config):
        described = _described(path)
        if described is not None:
            found[name] = described
    return found


def write_inputs(out: Path, inputs: Inputs) -> None:
    """Keep them in the run folder."""
    write_atomic(out / INPUTS, to_json(inputs, indent=1) + "\n")


def record_inputs(provenance: Path, inputs: Inputs) -> None:
    """Say in a checkpoint's wuya.json what the run read at its start: a path may hold something else by now."""
    if not provenance.is_file():
        return
    row = json.loads(provenance.read_text(encoding="utf-8"))
    parents = row.get("parents") or {}
    known = {role: {key: inputs[role][key] for key in ("path", "sha256")} for role in parents if role in inputs}
    row |= {"parents": {**parents, **known}, "inputs": inputs}
    write_atomic(provenance, to_json(row, indent=2) + "\n")


def require_same_inputs(out: Path, inputs: Inputs, *, start_anew: str) -> None:
    """Refuse to resume where an input is not what the run was started with, naming it. Older runs kept no list.

    Args:
        start_anew: what to do instead, for the hint.
    """
    try:
        before: Inputs = json.loads((out / INPUTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError as error:
        raise ConfigError(f"`{out / INPUTS}` is damaged", found=str(error)) from error
    both = [name for name in before if name in inputs]  # reading says what is wrong with a file that is gone
    changed = [name for name in both if inputs[name]["content"] != before[name].get("content")]
    if changed:
        paths = ", ".join(f"{name} `{before[name]['path']}`" for name in changed)
        first = changed[0]
        now = inputs[first]["content"]
        raise ConfigError(
            f"what `{out}` learns from has changed since it was started: {paths}",
            found=f"{first}: sha256 {now[:12]}, started with {before[first].get('content', '')[:12]}",
            hint=f"put back what was there; or start anew: {start_anew}",
        )


def keep_inputs(out: Path, config: object, *, free: Iterable[str] = (), start_anew: str) -> None:
    """`require_same_inputs` and `write_inputs` for a command that goes on by itself when it is typed again.

    Args:
        free: fields whose files may change.
    """
    inputs = {name: found for name, found in inputs_of(config).items() if name not in free}
    require_same_inputs(out, inputs, start_anew=start_anew)
    write_inputs(out, inputs)


def _named_paths(config: object) -> Iterator[tuple[str, str]]:
    assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(config):
        if field.name not in NOT_READ:
            yield from _paths_in(field.name, getattr(config, field.name))


def _paths_in(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Path):
        yield name, str(value)
    elif isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        for number, part in enumerate(parts):
            place = part.rpartition(":")[0] if ".py:" in part else part
            if "/" in place or "." in place or Path(place, "config.json").exists() or Path(place, "model").exists():
                yield (f"{name}[{number}]" if len(parts) > 1 else name), place
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _paths_in(f"{name}[{key}]", item if isinstance(item, str | Path) else Path(str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _paths_in(f"{name}[{number}]", item)


def _described(path: str) -> dict[str, str] | None:
    try:
        described = describe_parent(path)
        place = Path(described["path"])
    except (CheckpointError, DataError):  # a folder that is no checkpoint: shards, a corpus
        place = Path(path)
        described = {"path": path, "sha256": ""}
    if not place.exists():
        return None
    content = fingerprint(place)
    return {**described, "sha256": described["sha256"] or content, "content": content}
