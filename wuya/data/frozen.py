"""Frozen files: a snapshot has a manifest beside it, and a file that no longer fits its hash is never read."""

import json
from pathlib import Path
from typing import Any

from wuya.errors import DataError
from wuya.files import sha256_file


def manifest_of(path: Path) -> Path:
    """Where the manifest of a frozen file lies: `rm_pairs-1234.jsonl`, `rm_pairs-1234.manifest.json`."""
    return path.with_suffix(".manifest.json")


def frozen_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a frozen file; None for a file that nobody froze. Raises: DataError if a byte has changed."""
    manifest = manifest_of(path)
    if path.suffix != ".jsonl" or not manifest.is_file() or not path.is_file():
        return None
    try:
        row = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"`{manifest}` is damaged, so `{path}` can't be checked",
            found=str(error)[:200],
            hint="export it again: `wuya snapshot --help`",
        ) from error
    if not isinstance(row, dict) or not isinstance(expected := row.get("sha256"), str):
        return None  # another tool's manifest
    found = sha256_file(path)
    if found != expected:
        raise DataError(
            f"`{path}` was changed after it was frozen",
            found=f"sha256 {found[:12]}, frozen as {expected[:12]}",
            hint="export it again (`wuya snapshot --help`); to use an edited copy, give it another name",
        )
    return row
