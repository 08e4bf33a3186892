"""Which model answers: versions with their lineage, aliases that point to one, promote and roll back.

A promotion loads the new weights first and changes the alias then; streams that run finish on the old weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from wuya.errors import WuyaError
from wuya.feedback.database import reading, writing
from wuya.feedback.tables import ModelAlias, ModelVersion, RunRow, uuid7
from wuya.web import audit
from wuya.web.accounts.auth import Viewer
from wuya.web.errors import ApiError
from wuya.web.runs.watching import folders_of
from wuya.web.service import Service

_KINDS = {"pretrain": "base", "sft": "sft", "reward": "rm", "ppo": "policy"}
WEIGHTS = "model.safetensors"


def versions(connection: Connection) -> list[dict[str, Any]]:
    """Registered versions, newest first, with the names of their parents."""
    parent, reward = ModelVersion.__table__.alias("parent"), ModelVersion.__table__.alias("reward")
    query = (
        select(
            ModelVersion.__table__,
            parent.c.name.label("parent"),
            reward.c.name.label("reward_model"),
            RunRow.name.label("run"),
        )
        .outerjoin(parent, parent.c.id == ModelVersion.parent_id)
        .outerjoin(reward, reward.c.id == ModelVersion.reward_model_id)
        .outerjoin(RunRow, RunRow.id == ModelVersion.run_id)
        .order_by(ModelVersion.created_at.desc())
        .limit(500)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def aliases(connection: Connection) -> list[dict[str, Any]]:
    """Aliases and what they point to."""
    query = select(ModelAlias.__table__, ModelVersion.name.label("version"))
    query = query.outerjoin(ModelVersion, ModelVersion.id == ModelAlias.active_version_id).order_by(ModelAlias.alias)
    return [dict(row) for row in connection.execute(query).mappings()]


def found_in_runs(service: Service) -> list[dict[str, Any]]:
    """Finished models of this workspace that can be registered, with what their wuya.json says about them."""
    folders = folders_of(service)
    found = []
    for id in folders.ids():
        folder = folders.folder(id)
        if folder is None or not (folder / "model" / "config.json").is_file():
            continue
        made = folders.made(id)
        found.append(
            {
                "run": id,
                "name": id.replace("~", "/"),
                "kind": _KINDS.get(str(made.get("recipe", "")), ""),
                "created_at": made.get("created_at"),
                "parents": made.get("parents", {}),
                "win_rate": win_rates(folder),
            }
        )
    return found


def win_rates(folder: Path) -> dict[str, Any]:
    """Figures of the evaluation beside a run that name its checkpoint: {"ppo_vs_sft": {...}}."""
    try:
        report = json.loads((folder.parent / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
        return {key: value for key, value in report["win_rate"].items() if key.startswith(f"{folder.name}_vs_")}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def register(service: Service, run: str, viewer: Viewer, *, note: str = "") -> dict[str, Any]:
    """Make a version of a run's final model, with its parents; the same weights are one version."""
    folder = folders_of(service).folder(run)
    if folder is None or not (folder / "model" / "config.json").is_file():
        raise ApiError(404, "not_found", "this run has no finished model")
    with writing(service.database) as connection:
        id = _ensure(connection, folder / "model", name=run.replace("~", "/"), note=note, depth=0)
        audit.record(connection, service, "model.register", viewer=viewer, object="model_version", object_id=id)
    with reading(service.database) as connection:
        return next(version for version in versions(connection) if version["id"] == id)


def _ensure(connection: Connection, place: Path, *, name: str, note: str, depth: int) -> str:
    """The version of a model folder and, before it, those of its parents."""
    try:
        made = json.loads((place / "wuya.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = {}
    parents = {role: parent for role, parent in made.get("parents", {}).items() if isinstance(parent, dict)}
    ids: dict[str, str] = {}
    for role, parent in parents.items():
        path = Path(str(parent.get("path", "")))
        if depth < 6 and (path / "config.json").is_file():
            ids[role] = _ensure(connection, path, name=_name_of(path), note="", depth=depth + 1)
    known = connection.execute(select(ModelVersion.__table__).where(ModelVersion.path == str(place))).mappings().first()
    values: dict[str, Any] = {
        "kind": _KINDS.get(str(made.get("recipe", "")), ""),
        "path": str(place),
        "ctx_len": _context_length(place),
        "tokenizer_sha": str(made.get("tokenizer_fingerprint", ""))[:64],
        "parent_id": next((id for role, id in ids.items() if role != "reward"), None),
        "reward_model_id": ids.get("reward"),
    }
    if note:
        values["note"] = note
    if known is not None:
        connection.execute(update(ModelVersion).where(ModelVersion.id == known["id"]).values(**values))
        return str(known["id"])
    taken = set(connection.execute(select(ModelVersion.name).where(ModelVersion.name.startswith(name))).scalars())
    free = next(n for i in range(1, len(taken) + 2) if (n := name if i == 1 else f"{name} {i}") not in taken)
    id = uuid7()
    connection.execute(insert(ModelVersion).values(id=id, name=free, **values))
    return id


def _name_of(path: Path) -> str:
    parts = [part for part in path.parts[-3:] if part not in ("model", "checkpoints")]
    return "/".join(parts[-2:])


def _context_length(place: Path) -> int:
    try:
        config: Mapping[str, Any] = json.loads((place / "config.json").read_text(encoding="utf-8"))
        return int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
    except (OSError, ValueError, TypeError):
        return 0


async def switch(service: Service, alias: str, version: Mapping[str, Any]) -> None:
    """Load a version's weights behind an alias; an error leaves everything as it was."""
    path = str(version["path"])
    if not path or not (path.startswith("package:") or Path(path).exists()):
        raise ApiError(409, "files_missing", f"the files of {version['name']} are not there any more")
    try:
        await service.engine.load(alias, path)
    except WuyaError as error:
        raise ApiError(409, "load_failed", error.what) from error


def point(service: Service, alias: str, version_id: str, viewer: Viewer, *, rolled_back: bool) -> dict[str, Any]:
    """Make an alias point to a version, remembering the one before."""
    with writing(service.database) as connection:
        row = connection.execute(select(ModelAlias.__table__).where(ModelAlias.alias == alias)).mappings().first()
        before = row["active_version_id"] if row else None
        history = list(row["history"]) if row else []
        if rolled_back:
            history = history[:-1]
        elif before and before != version_id:
            history = [*history, before][-50:]
        values = {"active_version_id": version_id, "history": history}
        if row is None:
            connection.execute(insert(ModelAlias).values(alias=alias, **values))
        else:
            connection.execute(update(ModelAlias).where(ModelAlias.alias == alias).values(**values))
        still_used = set(connection.execute(select(ModelAlias.active_version_id)).scalars())
        connection.execute(update(ModelVersion).where(ModelVersion.id == version_id).values(state="live"))
        if before and before not in still_used:
            connection.execute(update(ModelVersion).where(ModelVersion.id == before).values(state="retired"))
        action = "model.rollback" if rolled_back else "model.promote"
        diff = {"alias": alias, "from": before, "to": version_id}
        audit.record(connection, service, action, viewer=viewer, object="model", object_id=alias, diff=diff)
    with reading(service.database) as connection:
        return next(row for row in aliases(connection) if row["alias"] == alias)


def version(connection: Connection, id: str) -> Mapping[str, Any]:
    """A version, or 404."""
    row = connection.execute(select(ModelVersion.__table__).where(ModelVersion.id == id)).mappings().first()
    if row is None:
        raise ApiError(404, "not_found", "there is no such model version")
    return dict(row)


def lineage(connection: Connection, id: str) -> list[dict[str, Any]]:
    """A version and its ancestors, newest first."""
    by_id = {row["id"]: row for row in versions(connection)}
    chain: list[dict[str, Any]] = []
    current: str | None = id
    while current in by_id and len(chain) < 20:
        row = by_id[current]
        chain.append({key: row[key] for key in ("id", "name", "kind", "sha256", "reward_model", "run", "created_at")})
        current = row["parent_id"]
    return chain
