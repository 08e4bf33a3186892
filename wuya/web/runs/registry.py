"""Which model answers, in the database: versions with their lineage, aliases with their live version and canary."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, func, insert, select, update

from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import ModelAlias, ModelVersion, RunRow
from wuya.database.service_tables import ChatFeedback, ChatMessage, Generation
from wuya.web import audit
from wuya.web.accounts.auth import Viewer
from wuya.web.errors import ApiError
from wuya.web.runs.folders import read_text
from wuya.web.runs.watching import folders_of
from wuya.web.service import Service
from wuya.web.traffic import traffic_of
from wuya.web.versions import ensure, kind_of, name_of, weights_in


def versions(connection: Connection) -> list[dict[str, Any]]:
    """Registered versions, newest first, with the names of their parents; only one with weights here can answer."""
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
    rows = connection.execute(query).mappings()
    return [
        dict(row) | {"has_weights": bool(row["path"]) and weights_in(Path(row["path"])) is not None} for row in rows
    ]


def aliases(connection: Connection) -> list[dict[str, Any]]:
    """Aliases and what they point to."""
    canary = ModelVersion.__table__.alias("canary")
    query = (
        select(ModelAlias.__table__, ModelVersion.name.label("version"), canary.c.name.label("canary"))
        .outerjoin(ModelVersion, ModelVersion.id == ModelAlias.active_version_id)
        .outerjoin(canary, canary.c.id == ModelAlias.canary_version_id)
        .order_by(ModelAlias.alias)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def alias_row(connection: Connection, alias: str) -> dict[str, Any] | None:
    """One alias."""
    return next((row for row in aliases(connection) if row["alias"] == alias), None)


def opinions(connection: Connection, version_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """What people made of the chats' answers of some versions: {version: {answers, good, bad}}."""
    good, bad = (func.sum(case((ChatFeedback.value == value, 1), else_=0)) for value in (1, -1))
    query = (
        select(ChatMessage.model_version_id, func.count(ChatMessage.id.distinct()), good, bad)
        .outerjoin(ChatFeedback, ChatFeedback.message_id == ChatMessage.id)
        .where(ChatMessage.model_version_id.in_(sorted(version_ids)))
        .group_by(ChatMessage.model_version_id)
    )
    return {
        id: {"answers": answers, "good": int(up), "bad": int(down)}
        for id, answers, up, down in connection.execute(query)
    }


def found_in_runs(service: Service) -> list[dict[str, Any]]:
    """Finished models of this workspace that can be registered, with what their wuya.json says about them."""
    folders = folders_of(service)
    found = []
    for id in folders.ids():
        folder = folders.folder(id)
        if folder is None or not folders.has_model(folder):
            continue
        made = folders.made(id)
        found.append(
            {
                "run": id,
                "name": id.replace("~", "/"),
                "kind": kind_of(made.get("recipe", "")),
                "created_at": made.get("created_at"),
                "parents": made.get("parents", {}),
                "win_rate": win_rates(folder, folders.root),
            }
        )
    return found


def win_rates(folder: Path, root: Path) -> dict[str, Any]:
    """Figures of the evaluation beside a run that name its checkpoint: {"ppo_vs_sft": {...}}."""
    try:
        report = json.loads(read_text(folder.parent / "evaluation" / "evaluation.json", root))
        return {key: value for key, value in report["win_rate"].items() if key.startswith(f"{folder.name}_vs_")}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def answering(serving: Mapping[str, str], versions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each alias of the engine answers with: {alias: {name, version_id, path}}; a short name where it has none."""
    by_path = {row["path"]: row for row in versions if row["path"]}
    found = {}
    for alias, path in serving.items():
        place = weights_in(Path(path)) if path and "://" not in path else None
        row = by_path.get(str(place)) or by_path.get(path)
        short = name_of(place) if place else path
        found[alias] = {"name": row["name"] if row else short, "version_id": row["id"] if row else None, "path": path}
    return found


def register(service: Service, run: str, viewer: Viewer, *, note: str = "") -> dict[str, Any]:
    """Make a version of a run's final model, with its parents; the same weights are one version."""
    folders = folders_of(service)
    folder = folders.folder(run)
    if folder is None or not folders.has_model(folder):
        raise ApiError(404, "not_found", "this run has no finished model")
    with writing(service.database) as connection:
        id = ensure(connection, folder / "model", name=run.replace("~", "/"), note=note)
        audit.record(connection, service, "model.register", viewer=viewer, object="model_version", object_id=id)
    with reading(service.database) as connection:
        return next(version for version in versions(connection) if version["id"] == id)


class Canary(NamedTuple):
    """A version on trial, and its share of the chats."""

    version_id: str
    percent: int


def point(
    service: Service, alias: str, version_id: str, viewer: Viewer, *, before: str | None, rolled_back: bool = False
) -> dict[str, Any]:
    """Make an alias point to a version, remembering the one before. A canary of this version ends."""
    with writing(service.database) as connection:
        row = alias_row(connection, alias) or {"history": [], "canary_version_id": None}
        history = list(row["history"])
        if rolled_back:
            history = history[:-1]
        elif before and before != version_id:
            history = [*history, before][-50:]
        values: dict[str, Any] = {"active_version_id": version_id, "history": history}
        if row["canary_version_id"] == version_id:
            values |= {"canary_version_id": None, "canary_pct": 0}
        _set_alias(connection, alias, values)
        _mark_states(connection, before)
        action = "model.rollback" if rolled_back else "model.promote"
        diff = {"alias": alias, "from": before, "to": version_id}
        audit.record(connection, service, action, viewer=viewer, object="model", object_id=alias, diff=diff)
    return _changed(service, alias)


def point_canary(
    service: Service, alias: str, canary: Canary | None, viewer: Viewer, *, active: str | None
) -> dict[str, Any]:
    """Give an alias a canary with a share of its chats, or (None) take it away.

    Args:
        active: what the alias answers with, for an alias that the registry does not know yet.
    """
    with writing(service.database) as connection:
        before = (alias_row(connection, alias) or {}).get("canary_version_id")
        id, percent = canary or (None, 0)
        values = {"active_version_id": active, "canary_version_id": id, "canary_pct": percent}
        _set_alias(connection, alias, values)
        _mark_states(connection, before)
        diff = {"alias": alias, "version": id or before, "percent": percent}
        audit.record(connection, service, "model.canary", viewer=viewer, object="model", object_id=alias, diff=diff)
    return _changed(service, alias)


def is_awaited(connection: Connection, version_id: str) -> bool:
    """Whether answers of a version wait for the engine."""
    waiting = select(Generation.id).where(Generation.model_version_id == version_id, Generation.state == "queued")
    return connection.execute(waiting.limit(1)).first() is not None


def _set_alias(connection: Connection, alias: str, values: Mapping[str, Any]) -> None:
    if not connection.execute(update(ModelAlias).where(ModelAlias.alias == alias).values(**values)).rowcount:
        connection.execute(insert(ModelAlias).values(alias=alias, **values))


def _mark_states(connection: Connection, before: str | None) -> None:
    """Versions that answer are live; the one that did until now is retired."""
    columns = (ModelAlias.active_version_id, ModelAlias.canary_version_id)
    used = {id for pair in connection.execute(select(*columns)) for id in pair if id}
    connection.execute(update(ModelVersion).where(ModelVersion.id.in_(sorted(used))).values(state="live"))
    if before and before not in used:
        connection.execute(update(ModelVersion).where(ModelVersion.id == before).values(state="retired"))


def _changed(service: Service, alias: str) -> dict[str, Any]:
    traffic_of(service).reload()
    with reading(service.database) as connection:
        row = alias_row(connection, alias)
    assert row is not None
    return row


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
