"""What every table is made of: ids, UTC times, constraint names."""

import secrets
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Dialect, ForeignKey, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime, TypeDecorator


def uuid7() -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits; within a process they ascend."""
    global _last_uuid
    milliseconds = time.time_ns() // 1_000_000
    bits = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    with _uuid_lock:
        if bits <= _last_uuid:  # the same millisecond: count on from the last one (62 random bits leave room)
            bits = _last_uuid + 1
        _last_uuid = bits
    return str(uuid.UUID(int=bits))


_last_uuid = 0
_uuid_lock = threading.Lock()


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC, also on SQLite, which forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse local times, store UTC."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time without zone: {value}")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Put the zone back."""
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Base(DeclarativeBase):
    """All tables, with constraint names that a migration can refer to."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcTime, dict[str, Any]: JSON, list[Any]: JSON, str: String}  # noqa: RUF012


ID = String(200)  # ours have 36 characters; imported prompts bring their own


def id_column() -> Mapped[str]:
    """A primary key of ours."""
    return mapped_column(ID, primary_key=True, default=uuid7)


def reference(target: str, *, on_delete: str = "CASCADE", nullable: bool = False, doc: str = "") -> Mapped[Any]:
    """An indexed foreign key."""
    return mapped_column(ID, ForeignKey(target, ondelete=on_delete), index=True, nullable=nullable, doc=doc)
