"""API keys and the usage ledger in the database. Queries only; who may do what is in `desk` and `manage`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, func, insert, or_, select, update

from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import User, now, uuid7
from wuya.database.service_tables import ApiKey, UsageRow
from wuya.web.accounts.store import set_setting, setting
from wuya.web.api.key_text import new_key, sha256_of
from wuya.web.usage import month_start

Note = Callable[[Connection, str], None]
"""Called with the id of what was changed, in the same transaction: the audit log."""
SEEN_EVERY = timedelta(minutes=1)
"""`last_used_at` is no finer than this: a write a minute, not one a request."""
LIMITS = "api_key_limits"
"""Name of a service setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """What a person chooses of a key."""

    name: str = ""
    scopes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """Aliases that it may use; empty: all."""
    rpm: int | None = None
    """Requests a minute; None: no limit."""
    tpm: int | None = None
    """Tokens a minute."""
    monthly_tokens: int | None = None
    """Budget of a calendar month (UTC)."""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord(KeySettings):
    """A key as it may be shown: never its secret."""

    id: str
    user_id: str
    owner: str = ""
    prefix: str
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    used_tokens: int = 0
    """In this calendar month."""


# ---- keys


def _no_note(connection: Connection, id: str) -> None:
    pass


def create_key(
    database: Engine, user_id: str, settings: KeySettings, *, note: Note = _no_note
) -> tuple[KeyRecord, str]:
    """A new key, and its text, which nobody can ever read again."""
    text, prefix = new_key()
    id = uuid7()
    with writing(database) as connection:
        values = _columns(settings) | {"user_id": user_id, "prefix": prefix, "secret_sha256": sha256_of(text)}
        connection.execute(insert(ApiKey).values(id=id, **values))
        note(connection, id)
        return _one(connection, id), text


def rotate_key(
    database: Engine, id: str, user_id: str | None, *, note: Note = _no_note
) -> tuple[KeyRecord, str] | None:
    """A new text for a key, which keeps its settings and its usage; the old text is refused from now on.

    Args:
        user_id: its owner; None: anybody's (an admin asks).
    """
    text, prefix = new_key()
    with writing(database) as connection:
        values = {"prefix": prefix, "secret_sha256": sha256_of(text), "last_used_at": None}
        if not connection.execute(update(ApiKey).where(*_alive(id, user_id)).values(values)).rowcount:
            return None
        note(connection, id)
        return _one(connection, id), text


def change_key(
    database: Engine, id: str, user_id: str | None, settings: KeySettings, *, note: Note = _no_note
) -> KeyRecord | None:
    """New name, limits and so on; None if there is no such key that is good."""
    with writing(database) as connection:
        if not connection.execute(update(ApiKey).where(*_alive(id, user_id)).values(_columns(settings))).rowcount:
            return None
        note(connection, id)
        return _one(connection, id)


def revoke_key(database: Engine, id: str, user_id: str | None, *, note: Note = _no_note) -> bool:
    """Refuse a key from now on; whether there was one."""
    with writing(database) as connection:
        found = connection.execute(update(ApiKey).where(*_alive(id, user_id)).values(revoked_at=now()))
        if found.rowcount:
            note(connection, id)
        return bool(found.rowcount)


def list_keys(database: Engine, user_id: str | None) -> list[KeyRecord]:
    """Keys that are not revoked, the newest first: one person's, or (None) everybody's."""
    mine = (ApiKey.user_id == user_id,) if user_id is not None else ()
    query = _keys().where(ApiKey.revoked_at.is_(None), *mine).order_by(ApiKey.created_at.desc(), ApiKey.id.desc())
    with reading(database) as connection:
        return [_record(row) for row in connection.execute(query.limit(500))]


def find_key(database: Engine, sha256: str) -> KeyRecord | None:
    """The key with this hash, if it is good: not revoked, not expired, its owner active. Notes that it was used."""
    moment = now()
    good = (
        ApiKey.secret_sha256 == sha256,
        ApiKey.revoked_at.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > moment),
        User.status == "active",
    )
    with reading(database) as connection:
        row = connection.execute(_keys(with_usage=False).where(*good)).one_or_none()
    if row is None:
        return None
    found = _record(row)
    if found.last_used_at is None or moment - found.last_used_at > SEEN_EVERY:
        with writing(database) as connection:
            connection.execute(update(ApiKey).where(ApiKey.id == found.id).values(last_used_at=moment))
    return found


def _alive(id: str, user_id: str | None) -> list[Any]:
    mine = [ApiKey.user_id == user_id] if user_id is not None else []
    return [ApiKey.id == id, ApiKey.revoked_at.is_(None), *mine]


def _keys(*, with_usage: bool = True) -> Select[Any]:
    spent = (
        select(func.coalesce(func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens), 0))
        .where(UsageRow.api_key_id == ApiKey.id, UsageRow.day >= month_start())
        .scalar_subquery()
    )
    columns = [User.display_name.label("owner"), *([spent.label("used_tokens")] if with_usage else [])]
    return select(*ApiKey.__table__.columns, *columns).join(User, User.id == ApiKey.user_id)


def _one(connection: Connection, id: str) -> KeyRecord:
    return _record(connection.execute(_keys().where(ApiKey.id == id)).one())


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        user_id=row.user_id,
        owner=row.owner,
        name=row.name,
        prefix=row.prefix,
        scopes=tuple(row.scopes),
        models=tuple(row.model_allow),
        rpm=row.rpm,
        tpm=row.tpm,
        monthly_tokens=row.monthly_tokens,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        used_tokens=int(row._mapping.get("used_tokens", 0)),
    )


def _columns(settings: KeySettings) -> dict[str, Any]:
    return {
        "name": settings.name,
        "scopes": list(settings.scopes),
        "model_allow": list(settings.models),
        "rpm": settings.rpm,
        "tpm": settings.tpm,
        "monthly_tokens": settings.monthly_tokens,
        "expires_at": settings.expires_at,
    }


# ---- limits for everybody


def default_limits(database: Engine) -> dict[str, int | None]:
    """The most that a key of somebody who is no admin may have: rpm, tpm, monthly_tokens."""
    with reading(database) as connection:
        chosen = setting(connection, LIMITS, {})
    return {name: chosen.get(name) for name in ("rpm", "tpm", "monthly_tokens")}


def set_default_limits(database: Engine, limits: Mapping[str, int | None], *, note: Note = _no_note) -> None:
    """Choose them; keys that exist keep theirs."""
    with writing(database) as connection:
        set_setting(connection, LIMITS, dict(limits))
        note(connection, LIMITS)
