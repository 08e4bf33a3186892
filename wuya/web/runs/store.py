"""Runs of other machines in the database: they report by HTTP with a key of scope `runs:write`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from wuya.database.labeling_tables import RunRow, now, uuid7
from wuya.database.service_tables import RunEvent, RunMetric, RunSample
from wuya.web.errors import ApiError
from wuya.web.runs.folders import last_values

ALIVE_SECONDS = 120.0


def create(connection: Connection, *, name: str, owner: str, **values: Any) -> str:
    """A run that reports; a name that is taken is that run again, if it has the same owner."""
    row = connection.execute(select(RunRow.id, RunRow.owner_id).where(RunRow.name == name)).first()
    alive = {"status": "running", "heartbeat_at": now()}
    if row is not None:
        if row.owner_id != owner:
            raise ApiError(409, "name_taken", "there is a run of this name already", param="name")
        connection.execute(update(RunRow).where(RunRow.id == row.id).values(**values, **alive))
        return str(row.id)
    id = uuid7()
    connection.execute(insert(RunRow).values(id=id, name=name, owner_id=owner, **values, **alive))
    return id


def need(connection: Connection, id: str, owner: str = "") -> Mapping[str, Any]:
    """A reporting run, or 404; with `owner` only the owner's."""
    row = connection.execute(select(RunRow.__table__).where(RunRow.id == id)).mappings().first()
    if row is None or (owner and row["owner_id"] != owner):
        raise ApiError(404, "not_found", "there is no such run")
    return dict(row)


def beat(connection: Connection, id: str, status: str = "running") -> None:
    """The run lives, or has ended."""
    connection.execute(update(RunRow).where(RunRow.id == id).values(status=status, heartbeat_at=now()))


def add_metrics(connection: Connection, id: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Figures; a step that was sent before is replaced, so a batch can be sent again."""
    values = [dict(row) | {"run_id": id} for row in rows]
    _upsert(connection, RunMetric, values, ["run_id", "key", "step"], ["value", "wall"])
    return len(values)


def add_samples(connection: Connection, id: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Answers at a step."""
    values = [dict(row) | {"run_id": id} for row in rows]
    columns = ["prompt", "output", "ref_output", "reward", "kl", "scores"]
    _upsert(connection, RunSample, values, ["run_id", "step", "idx"], columns)
    return len(values)


def _upsert(connection: Connection, table: Any, rows: Sequence[Any], key: list[str], columns: list[str]) -> None:
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for start in range(0, len(rows), 200):
        statement = dialect.insert(table).values(rows[start : start + 200])
        changed = {name: statement.excluded[name] for name in columns}
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=changed))


def add_event(connection: Connection, id: str, level: str, text: str, step: int | None) -> None:
    """Something the run, or a person about it, says."""
    connection.execute(insert(RunEvent).values(id=uuid7(), run_id=id, level=level, text=text, step=step))


def events(connection: Connection, id: str) -> list[dict[str, Any]]:
    """What was said, newest first."""
    query = select(RunEvent.__table__).where(RunEvent.run_id == id).order_by(RunEvent.id.desc()).limit(200)
    return [dict(row) for row in connection.execute(query).mappings()]


def reporting(connection: Connection) -> list[Mapping[str, Any]]:
    """Runs that ever reported a figure or a heartbeat, newest first."""
    query = select(RunRow.__table__).where(RunRow.heartbeat_at.is_not(None)).order_by(RunRow.started_at.desc())
    return [dict(row) for row in connection.execute(query.limit(200)).mappings()]


def rows(connection: Connection, id: str) -> list[dict[str, Any]]:
    """Figures in the form of metrics.jsonl."""
    query = select(RunMetric.key, RunMetric.step, RunMetric.value, RunMetric.wall).where(RunMetric.run_id == id)
    by_step: dict[int, dict[str, Any]] = {}
    for key, step, value, wall in connection.execute(query.order_by(RunMetric.step)):
        row = by_step.setdefault(step, {"step": step, "time": wall})
        row[key] = value
    return list(by_step.values())


def samples(connection: Connection, id: str) -> list[dict[str, Any]]:
    """Answers in the form of samples.jsonl."""
    query = select(RunSample.__table__).where(RunSample.run_id == id).order_by(RunSample.step, RunSample.idx)
    return [
        {"step": row["step"], "prompt": row["prompt"], "completion": row["output"], "reference": row["ref_output"]}
        | {"score": row["reward"], "kl": row["kl"]}
        | row["scores"]
        for row in connection.execute(query.limit(5000)).mappings()
    ]


def summary(connection: Connection, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the list of runs shows."""
    recent = rows(connection, row["id"])
    age = (now() - row["heartbeat_at"]).total_seconds() if row["heartbeat_at"] else 1e9
    status = "stopped" if row["status"] == "running" and age > ALIVE_SECONDS else row["status"]
    latest = last_values(recent)
    key = next((name for name in ("objective/rlhf_reward", "accuracy", "loss") if name in latest), None)
    values = [r[key] for r in recent if key in r] if key else []
    return {
        "id": row["id"],
        "name": row["name"],
        "stage": row["stage"],
        "status": status,
        "remote": True,
        "step": max((r["step"] for r in recent), default=0),
        "planned": None,
        "started_at": row["started_at"].timestamp(),
        "updated_at": row["heartbeat_at"].timestamp() if row["heartbeat_at"] else None,
        "eta_seconds": None,
        "git_sha": row["git_sha"][:12],
        "latest": latest,
        "spark": {"key": key, "values": values[:: max(1, -(-len(values) // 40))]} if key else None,
        "has_model": False,
    }


def num_metrics(connection: Connection, id: str) -> int:
    """Figures of a run, for its limit."""
    count = select(func.count()).select_from(RunMetric).where(RunMetric.run_id == id)
    return int(connection.execute(count).scalar_one())
