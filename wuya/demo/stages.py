"""Stages of a story: each runs once, and what it found and took is kept, so that a story goes on where it stopped."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wuya.console import say
from wuya.errors import Interrupted
from wuya.files import make_folder, to_json, write_atomic


def run_stage(folder: Path, name: str, stage: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a stage unless it is done; its result, seconds and seconds of CPU are kept in stages/<name>.json."""
    marker = make_folder(folder / "stages") / f"{name}.json"
    if marker.exists():
        result: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        say(f"done before, in {result['seconds']:.0f} s")
        return result
    started, cpu = time.monotonic(), _cpu_seconds()
    try:
        result = stage()
    except Interrupted as stop:  # its own hint resumes the stage alone, not the story
        raise Interrupted(stop.what, hint="run the same command again: what is finished is kept") from None
    result["seconds"], result["cpu_seconds"] = time.monotonic() - started, _cpu_seconds() - cpu
    write_atomic(marker, to_json(result, indent=1) + "\n")
    say(f"{name}: {result['seconds']:.0f} s")
    return result


def _cpu_seconds() -> float:
    """User and system time of this process and its finished children: on a shared machine the honest measure."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def keep_other_aside(folder: Path, identity: Mapping[str, Any], *, file: str) -> None:
    """Stages of another seed, size or budget are moved to <name>.old-1, ...: never mixed with these, never deleted."""
    path = folder / file
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != dict(identity):
        old = next(p for n in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.old-{n}")).exists())
        old.mkdir()
        for item in folder.iterdir():
            if item.suffix != ".lock":
                shutil.move(item, old / item.name)
        say(f"`{folder}` held another seed, size or budget: moved to `{old}`")
    write_atomic(path, to_json(dict(identity)) + "\n")
