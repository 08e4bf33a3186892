"""The audit log: what people with power did. Each row holds the hash of the row before, so a change shows.

The hash is an HMAC with the service's key: whoever can write to the database alone can't forge a chain.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, select, text
from starlette.requests import Request

from wuya.database.labeling_tables import now
from wuya.database.service_tables import AuditRow
from wuya.files import to_json
from wuya.web.accounts import store
from wuya.web.accounts.auth import Viewer, ip_prefix
from wuya.web.service import Service

_LOCK = 0x61756469  # "audi"
HEAD = "audit_head"
"""Setting with the number of the newest row and a keyed hash of it."""
NEW_KEY = "key.new"
"""The service's key was lost and an admin of the machine started it with a new one."""


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
    hashed = row_hash(service.settings.secret, row)
    connection.execute(insert(AuditRow).values(**row, hash=hashed))
    head = {"seq": row["seq"], "mark": _mark(service.settings.secret, row["seq"], hashed)}
    store.set_setting(connection, HEAD, head)


def row_hash(secret: bytes, row: Mapping[str, Any]) -> str:
    """The hash that chains a row to the one before."""
    content = {key: row[key] for key in row if key != "hash"} | {"at": row["at"].isoformat()}
    return hmac.new(secret, to_json(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _mark(secret: bytes, seq: int, hashed: str) -> str:
    return hmac.new(secret, f"audit head {seq} {hashed}".encode(), hashlib.sha256).hexdigest()


def verify(connection: Connection, secret: bytes) -> tuple[int, int | None]:
    """How many rows there are, and the number of the first that was changed (None: all are as they were written).

    Rows before the last `key.new` were hashed with a key that is lost: of those only the chain is checked. The head,
    kept apart, tells when the newest rows are gone.
    """
    before, count = "", 0
    renewed = connection.execute(select(func.max(AuditRow.seq)).where(AuditRow.action == NEW_KEY)).scalar() or 0
    for row in connection.execute(select(AuditRow.__table__).order_by(AuditRow.seq)).mappings():
        count += 1
        is_own = row["seq"] < renewed or hmac.compare_digest(row_hash(secret, dict(row)), row["hash"])
        if row["seq"] != count or row["prev_hash"] != before or not is_own:
            return count, int(row["seq"])
        before = row["hash"]
    head = store.setting(connection, HEAD, None)
    if head and not (head.get("seq") == count and hmac.compare_digest(_mark(secret, count, before), head["mark"])):
        return count, count + 1
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
