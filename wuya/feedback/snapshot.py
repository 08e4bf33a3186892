"""Frozen, hashed files between the database and training: a run reads a snapshot, never the live database.

A snapshot is `KIND-HASH.jsonl` with `KIND-HASH.manifest.json` and a data card, `KIND-HASH.card.md`, beside it; HASH is
the start of the file's SHA-256. The same content always gets the same name, and a file that no longer fits its hash is
refused.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from wuya.data.frozen import frozen_manifest, manifest_of
from wuya.errors import DataError
from wuya.feedback.data_card import CardFacts, counted, data_card
from wuya.feedback.rows import SCHEMA_VERSION
from wuya.files import to_json, write_atomic

Kind = Literal["sft", "rm_rankings", "rm_pairs", "dpo", "kto", "prompts", "feedback", "raw"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen file and what it holds."""

    path: Path
    kind: str
    num_rows: int
    sha256: str
    filter: dict[str, Any]
    schema_version: int = SCHEMA_VERSION


def write_snapshot(
    rows: Iterable[Mapping[str, object]], folder: Path, *, kind: Kind, filter: Mapping[str, Any] | None = None
) -> Snapshot:
    """Write rows as a snapshot into `folder`. Raises DataError when there are none."""
    facts = CardFacts()
    lines = [to_json(row) for row in counted(rows, facts)]
    if not lines:
        raise DataError(
            f"there is nothing to export as {kind}",
            found=f"filter {dict(filter)}" if filter else "an empty store",
            hint="label some tasks (`wuya label`), or drop the filter",
        )
    content = ("\n".join(lines) + "\n").encode(errors="surrogatepass")
    digest = hashlib.sha256(content).hexdigest()
    path = Path(folder) / f"{kind}-{digest[:12]}.jsonl"
    write_atomic(path, content)
    snapshot = Snapshot(path, kind, len(lines), digest, dict(filter or {}))
    manifest = asdict(snapshot) | {"path": path.name}
    write_atomic(manifest_of(path), to_json(manifest, indent=1) + "\n")
    card = data_card(
        facts, kind=kind, name=path.name, sha256=digest, schema_version=SCHEMA_VERSION, chosen=snapshot.filter
    )
    write_atomic(path.with_suffix(".card.md"), card)
    return snapshot


def open_snapshot(path: Path) -> Snapshot:
    """The snapshot a file is, after checking that not a byte has changed. Raises: DataError."""
    path = Path(path)
    for file in (path, manifest_of(path)):
        if not file.is_file():
            raise DataError(f"`{path}` is not a snapshot", found=f"no `{file.name}`")
    row = frozen_manifest(path)
    assert row is not None
    return Snapshot(path, row["kind"], row["num_rows"], row["sha256"], row["filter"], row["schema_version"])
