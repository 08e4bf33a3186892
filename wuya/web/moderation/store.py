"""Rules, findings and reports in the database. Queries only."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from wuya.database.labeling_tables import User, now, uuid7
from wuya.database.service_tables import ChatMessage, Conversation, ModerationEvent
from wuya.web.accounts.store import end_sessions, set_setting, setting
from wuya.web.errors import ApiError
from wuya.web.moderation.rules import Rule

RULES = "moderation_rules"
"""Name of the service setting."""
CONTEXT_MESSAGES = 3
"""Messages that a moderator sees: the one in question and what led to it."""


def rules(connection: Connection) -> list[Rule]:
    """Every rule."""
    rows = setting(connection, RULES, [])
    return [Rule(**row | {"stages": tuple(row["stages"]), "words": tuple(row["words"])}) for row in rows]


def set_rules(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace them all."""
    set_setting(connection, RULES, [dict(row) for row in rows])


def add_event(connection: Connection, **values: Any) -> str:
    """A finding or a report, open until a moderator decides. It holds no text."""
    id = uuid7()
    connection.execute(insert(ModerationEvent).values(id=id, **values))
    return id


def queue(connection: Connection, *, state: str, limit: int = 200) -> list[dict[str, Any]]:
    """Findings and reports, the newest first, with the names of whom they are about."""
    query = (
        select(ModerationEvent.__table__, User.display_name.label("user_name"))
        .outerjoin(User, User.id == ModerationEvent.user_id)
        .where(ModerationEvent.state == state)
        .order_by(ModerationEvent.id.desc())
        .limit(limit)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def event(connection: Connection, id: str) -> dict[str, Any]:
    """One of them, or 404."""
    row = connection.execute(select(ModerationEvent.__table__).where(ModerationEvent.id == id)).mappings().first()
    if row is None:
        raise ApiError(404, "not_found", "there is no such event")
    return dict(row)


def context(connection: Connection, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The message that an event is about and those that led to it, oldest first; nothing else of the chat."""
    found: list[dict[str, Any]] = []
    id = row["subject_id"] if row["subject"] == "message" else None
    while id and len(found) < CONTEXT_MESSAGES:
        message = connection.execute(select(ChatMessage.__table__).where(ChatMessage.id == id)).mappings().first()
        if message is None:
            break
        found.append({name: message[name] for name in ("id", "role", "content", "hidden_by_moderation")})
        id = message["parent_id"]
    return found[::-1]


def decide(connection: Connection, id: str, decision: str, note: str, moderator_id: str) -> dict[str, Any]:
    """Close an event; hide (or show again) its message, or suspend its author, where that was decided."""
    row = event(connection, id)
    if row["state"] == "closed":
        raise ApiError(409, "closed", "somebody has decided this already")
    if decision == "suspend":
        _suspend(connection, row["user_id"])
    if row["subject"] == "message" and decision in ("hide", "dismiss"):
        hidden = {"hidden_by_moderation": decision == "hide"}
        connection.execute(update(ChatMessage).where(ChatMessage.id == row["subject_id"]).values(hidden))
    values = {"decision": decision, "note": note or row["note"], "handled_by": moderator_id, "handled_at": now()}
    chosen = update(ModerationEvent).where(ModerationEvent.id == id)
    connection.execute(chosen.values(state="closed", **values))
    return event(connection, id)


def _suspend(connection: Connection, user_id: str | None) -> None:
    role = connection.execute(select(User.role).where(User.id == user_id)).scalar() if user_id else None
    if role is None:
        raise ApiError(409, "nobody", "there is nobody to suspend")
    if role == "admin":
        raise ApiError(409, "admin", "an admin can't be suspended here; change the role first")
    connection.execute(update(User).where(User.id == user_id).values(status="suspended"))
    end_sessions(connection, str(user_id))


def message_owner(connection: Connection, message_id: str) -> str | None:
    """Whose chat a message is in."""
    query = select(Conversation.user_id).join(ChatMessage, ChatMessage.conversation_id == Conversation.id)
    return connection.execute(query.where(ChatMessage.id == message_id)).scalar()


def has_open_report(connection: Connection, message_id: str, reporter_id: str) -> bool:
    """Whether somebody has reported a message and nobody has decided yet."""
    query = select(ModerationEvent.id).where(
        ModerationEvent.subject_id == message_id,
        ModerationEvent.reporter_id == reporter_id,
        ModerationEvent.state == "open",
    )
    return connection.execute(query).first() is not None
