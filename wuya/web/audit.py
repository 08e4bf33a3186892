"""The audit log: what people with power did. Each row holds the hash of the row before, so a change shows.

The hash is an HMAC with the service's key: whoever can write to the database alone can't forge a chain.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, select, text
from starlette.requests import Request

from wuya.feedback.tables import now
from wuya.files import to_json
from wuya.web.accounts.auth import Viewer, ip_prefix
from wuya.web.service import Service
from wuya.web.tables import AuditRow

_LOCK = 0x61756469  # "audi"


def record(
    connection: Connection,
    service: Service,
    action: str,
    *,
    viewer: Viewer | None = None,
    request: Request | None = None,
    object: str = "",
    object_id: str = "",
    diff: Mapping[str, Any] | None = None,
) -> None:
    """Append a row, in the transaction of what it is about."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    last = connection.execute(select(AuditRow.seq, AuditRow.hash).order_by(AuditRow.seq.desc()).limit(1)).first()
    row: dict[str, Any] = {
        "seq": last.seq + 1 if last else 1,
        "at": now().replace(microsecond=0),
        "actor_id": viewer.user_id if viewer else None,
        "actor_kind": "system" if viewer is None else "key" if viewer.scopes is not None else "user",
        "action": action,
        "object": object,
        "object_id": object_id,
        "ip_prefix": ip_prefix(request) if request else "",
        "request_id": str(request.scope.get("request_id", "")) if request else "",
        "diff": dict(diff or {}),
        "prev_hash": last.hash if last else "",
    }
    connection.execute(insert(AuditRow).values(**row, hash=row_hash(service.settings.secret, row)))


def row_hash(secret: bytes, row: Mapping[str, Any]) -> str:
    """The hash that chains a row to the one before."""
    content = {key: row[key] for key in row if key != "hash"} | {"at": row["at"].isoformat()}
    return hmac.new(secret, to_json(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def verify(connection: Connection, secret: bytes) -> tuple[int, int | None]:
    """How many rows there are, and the number of the first that was changed (None: all are as they were written)."""
    before, count = "", 0
    for row in connection.execute(select(AuditRow.__table__).order_by(AuditRow.seq)).mappings():
        count += 1
        expected = row_hash(secret, dict(row))
        if row["seq"] != count or row["prev_hash"] != before or not hmac.compare_digest(expected, row["hash"]):
            return count, int(row["seq"])
        before = row["hash"]
    return count, None


def rows(
    connection: Connection, *, before: int | None = None, action: str = "", limit: int = 100
) -> list[dict[str, Any]]:
    """Rows, newest first."""
    query = select(AuditRow.__table__).order_by(AuditRow.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditRow.seq < before)
    if action:
        query = query.where(AuditRow.action.startswith(action, autoescape=True))
    return [dict(row) for row in connection.execute(query).mappings()]


def count(connection: Connection) -> int:
    """Rows in all."""
    return int(connection.execute(select(func.count()).select_from(AuditRow)).scalar_one())
