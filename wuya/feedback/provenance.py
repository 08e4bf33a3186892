"""Who made what from which data: exports, runs and checkpoints; every model can be traced to the votes behind it."""

from typing import Any

from sqlalchemy import Connection, insert, select, update

from wuya.database.labeling_tables import Export, ModelVersion, RunRow, uuid7
from wuya.feedback.bulk import ensure_models
from wuya.feedback.snapshot import Snapshot


def record_export(connection: Connection, snapshot: Snapshot) -> str:
    """Write that a snapshot was frozen; the same content is one export. Its id."""
    known = select(Export.id).where(Export.kind == snapshot.kind, Export.sha256 == snapshot.sha256)
    id = connection.execute(known).scalar()
    if id is None:
        id = uuid7()
        columns = {"filter": snapshot.filter, "n_rows": snapshot.num_rows, "sha256": snapshot.sha256}
        connection.execute(insert(Export).values(id=id, kind=snapshot.kind, path=str(snapshot.path), **columns))
    return id


def register(
    connection: Connection,
    name: str,
    *,
    kind: str,
    path: str,
    parent: str,
    reward_model: str,
    run: str,
    snapshot: Snapshot | None,
    round: int,
    sha256: str,
) -> str:
    """See `FeedbackStore.register_model`."""
    ids = ensure_models(connection, [name, parent, reward_model])
    data = record_export(connection, snapshot) if snapshot else None
    run_id = connection.execute(select(RunRow.id).where(RunRow.name == run)).scalar() if run else None
    if run and run_id is None:
        run_id = uuid7()
        connection.execute(insert(RunRow).values(id=run_id, name=run, stage=kind, data_export_id=data))
    values = {
        "kind": kind,
        "path": path,
        "parent_id": ids.get(parent),
        "reward_model_id": ids.get(reward_model),
        "run_id": run_id,
        "data_export_id": data,
        "round": round,
        "sha256": sha256,
    }
    connection.execute(update(ModelVersion).where(ModelVersion.id == ids[name]).values(**values))
    return ids[name]


def lineage(connection: Connection, name: str) -> list[dict[str, Any]]:
    """See `FeedbackStore.lineage`."""
    versions = ModelVersion.__table__
    parent, reward = versions.alias("parent"), versions.alias("reward")
    chain: list[dict[str, Any]] = []
    while name and name not in {row["name"] for row in chain}:
        columns = ModelVersion.name, ModelVersion.kind, ModelVersion.round, ModelVersion.path, ModelVersion.sha256
        named = parent.c.name.label("parent"), reward.c.name.label("reward_model"), Export.sha256.label("data_sha256")
        query = (
            select(*columns, *named)
            .outerjoin(parent, parent.c.id == ModelVersion.parent_id)
            .outerjoin(reward, reward.c.id == ModelVersion.reward_model_id)
            .outerjoin(Export, Export.id == ModelVersion.data_export_id)
            .where(ModelVersion.name == name)
        )
        row = connection.execute(query).mappings().first()
        if row is None:
            break
        chain.append(dict(row))
        name = row["parent"] or ""
    return chain
