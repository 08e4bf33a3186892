"""Model versions in the database: a folder of weights is one version, with those it was trained from.

Every answer names the version that wrote it. So what is served is registered when it answers for the first time, also
if nobody pressed "Register" on the models page.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, text, update

from wuya.database.labeling_tables import ModelVersion, uuid7
from wuya.feedback.bulk import ensure_models

_KINDS = {"pretrain": "base", "sft": "sft", "reward": "rm", "ppo": "policy"}
_LOCK = 0x76657273  # "vers"
_DEPTH = 6


def kind_of(recipe: object) -> str:
    """base, sft, rm, policy; empty for what we don't know."""
    return _KINDS.get(str(recipe), "")


def of_served(connection: Connection, alias: str, path: str) -> str:
    """The version behind an alias, made if need be. What has no folder here (an upstream's model) goes by its alias."""
    if connection.dialect.name == "postgresql":  # two web processes may meet a new model at once
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    place = weights_in(Path(path)) if path else None
    if place is not None:
        return ensure(connection, place, name=name_of(place))
    known = connection.execute(select(ModelVersion.id).where(ModelVersion.path == path)).scalar() if path else None
    return str(known) if known else ensure_models(connection, [alias])[alias]


def weights_in(path: Path) -> Path | None:
    """The folder with the config.json: the path itself, or `model` in it. Also a file (GGUF) is a place."""
    if path.is_file():
        return path.resolve()
    return next((place.resolve() for place in (path, path / "model") if (place / "config.json").is_file()), None)


def ensure(connection: Connection, place: Path, *, name: str, note: str = "", depth: int = 0) -> str:
    """The version of a model folder and, before it, those of its parents; the id."""
    place = place.resolve()
    made = _read(place / "wuya.json")
    parents = {role: parent for role, parent in made.get("parents", {}).items() if isinstance(parent, dict)}
    ids: dict[str, str] = {}
    for role, parent in parents.items():
        path = Path(str(parent.get("path", "")))
        if depth < _DEPTH and (path / "config.json").is_file():
            ids[role] = ensure(connection, path, name=name_of(path), depth=depth + 1)
    known = connection.execute(select(ModelVersion.id).where(ModelVersion.path == str(place))).scalar()
    values: dict[str, Any] = {
        "kind": kind_of(made.get("recipe", "")),
        "path": str(place),
        "ctx_len": _context_length(place),
        "tokenizer_sha": str(made.get("tokenizer_fingerprint", ""))[:64],
        "parent_id": next((id for role, id in ids.items() if role != "reward"), None),
        "reward_model_id": ids.get("reward"),
    }
    if note:
        values["note"] = note
    if known is not None:
        connection.execute(update(ModelVersion).where(ModelVersion.id == known).values(**values))
        return str(known)
    taken = set(connection.execute(select(ModelVersion.name).where(ModelVersion.name.startswith(name))).scalars())
    free = next(n for i in range(1, len(taken) + 2) if (n := name if i == 1 else f"{name} {i}") not in taken)
    id = uuid7()
    connection.execute(insert(ModelVersion).values(id=id, name=free, **values))
    return id


def name_of(path: Path) -> str:
    """The last two folders that say something: `demo/ppo`."""
    parts = [part for part in path.parts[-3:] if part not in ("model", "checkpoints")]
    return "/".join(parts[-2:])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _context_length(place: Path) -> int:
    config: Mapping[str, Any] = _read(place / "config.json")
    try:
        return int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
    except (ValueError, TypeError):
        return 0
