"""Conversations in the database: a person's own only; anybody else's answer 404."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, exists, insert, select, tuple_, update

from wuya.database.base import now, uuid7
from wuya.database.service_tables import ChatFeedback, ChatMessage, Conversation, Generation
from wuya.web import consent
from wuya.web.chat import search_store, views
from wuya.web.errors import ApiError
from wuya.web.tree import tree_of

TITLE_CHARS = 200
AUTO_TITLE_CHARS = 60
TRASH_DAYS = 30


@dataclass(frozen=True, slots=True)
class Listing:
    """Which conversations."""

    state: str = "active"
    model: str = ""
    rated: str = ""
    start: datetime | None = None
    end: datetime | None = None


def create(connection: Connection, user_id: str, **values: Any) -> str:
    """A new conversation; its id. Values are columns of `conversations`."""
    id = values.pop("id", None) or uuid7()
    connection.execute(insert(Conversation).values(id=id, user_id=user_id, **values))
    if values.get("title"):
        search_store.index_title(connection, id, values["title"])
    return str(id)


def owned(connection: Connection, id: str, user_id: str, *, lock: bool = False) -> RowMapping:
    """A conversation of this person; `lock` it against other writers. Raises: ApiError 404."""
    row = find(connection, id, user_id, lock=lock)
    if row is None:
        raise ApiError(404, "not_found", "there is no such conversation")
    return row


def find(connection: Connection, id: str, user_id: str, *, lock: bool = False) -> RowMapping | None:
    """A conversation, if it is this person's."""
    query = select(Conversation.__table__).where(Conversation.id == id, Conversation.user_id == user_id)
    return connection.execute(query.with_for_update() if lock else query).mappings().first()


def listing(
    connection: Connection, user_id: str, wanted: Listing, *, limit: int, cursor: str
) -> tuple[list[RowMapping], str | None]:
    """A page of conversations, the latest first, and where the next page begins."""
    query = select(Conversation.__table__).where(Conversation.user_id == user_id)
    trashed, archived = Conversation.deleted_at.is_not(None), Conversation.archived_at.is_not(None)
    if wanted.state == "trash":
        query = query.where(trashed)
    else:
        query = query.where(~trashed, archived if wanted.state == "archived" else ~archived)
    if wanted.model:
        query = query.where(Conversation.model_alias == wanted.model)
    if wanted.rated:
        value = 1 if wanted.rated == "good" else -1
        rated = exists().where(
            ChatMessage.conversation_id == Conversation.id,
            ChatFeedback.message_id == ChatMessage.id,
            ChatFeedback.value == value,
        )
        query = query.where(rated)
    if wanted.start:
        query = query.where(Conversation.updated_at >= wanted.start)
    if wanted.end:
        query = query.where(Conversation.updated_at < wanted.end)
    if cursor:
        at, id = decode_cursor(cursor)
        query = query.where(tuple_(Conversation.updated_at, Conversation.id) < tuple_(at, id))
    rows = connection.execute(
        query.order_by(Conversation.updated_at.desc(), Conversation.id.desc()).limit(limit + 1)
    ).mappings().all()  # fmt: skip
    more = len(rows) > limit
    rows = rows[:limit]
    return list(rows), encode_cursor(rows[-1]["updated_at"], rows[-1]["id"]) if more else None


def change(connection: Connection, row: RowMapping, values: Mapping[str, Any], *, secret: bytes) -> None:
    """Change columns of a conversation; a change of consent takes effect at once."""
    if values:
        connection.execute(update(Conversation).where(Conversation.id == row["id"]).values(**values))
    if "title" in values:
        search_store.index_title(connection, row["id"], values["title"])
    if "data_use" in values and values["data_use"] != row["data_use"]:
        consent.publish(connection, row["id"], secret=secret)


def touch(connection: Connection, id: str, **values: Any) -> None:
    """It was used just now."""
    connection.execute(update(Conversation).where(Conversation.id == id).values(updated_at=now(), **values))


def set_leaf(connection: Connection, id: str, leaf: str) -> None:
    """Show another branch; that is no use of the chat, so its place in the list stays."""
    connection.execute(update(Conversation).where(Conversation.id == id).values(active_leaf_id=leaf))


def set_data_use(connection: Connection, user_id: str, data_use: bool, *, secret: bytes) -> int:
    """Consent, or its withdrawal, for every chat of a person; how many changed."""
    query = select(Conversation.__table__).where(Conversation.user_id == user_id, Conversation.data_use != data_use)
    rows = connection.execute(query).mappings().all()
    for row in rows:
        change(connection, row, {"data_use": data_use}, secret=secret)
    return len(rows)


def in_bulk(connection: Connection, user_id: str, ids: Sequence[str], action: str) -> list[str]:
    """Archive, unarchive, trash, restore or delete; the ids that were this person's."""
    query = select(Conversation.id).where(Conversation.user_id == user_id, Conversation.id.in_(ids))
    own = list(connection.execute(query).scalars())
    if action == "delete":
        delete_for_good(connection, own)
    elif own:
        values: dict[str, dict[str, datetime | None]] = {
            "archive": {"archived_at": now()},
            "unarchive": {"archived_at": None},
            "trash": {"deleted_at": now()},
            "restore": {"deleted_at": None},
        }
        connection.execute(update(Conversation).where(Conversation.id.in_(own)).values(**values[action]))
    return own


def delete_for_good(connection: Connection, ids: Sequence[str]) -> None:
    """Remove conversations with everything that hangs on them, also what they had given to training."""
    for id in ids:
        consent.withdraw(connection, id)
    search_store.forget(connection, ids)
    connection.execute(delete(Generation).where(Generation.conversation_id.in_(ids)))
    for id in ids:
        _delete_messages(connection, id)
    connection.execute(delete(Conversation).where(Conversation.id.in_(ids)))


def _delete_messages(connection: Connection, id: str) -> None:
    """Children before parents: SQLite refuses a cascade that is a thousand messages deep."""
    tree = tree_of(connection, id)
    order, waiting = [], list(tree.children.get(None, []))
    while waiting:
        message = waiting.pop()
        order.append(message)
        waiting += tree.children.get(message, [])
    if order:
        one = delete(ChatMessage).where(ChatMessage.id == bindparam("message"))
        connection.execute(one, [{"message": message} for message in reversed(order)])


def purge_trash(connection: Connection, *, at: datetime) -> int:
    """Delete what has been in the trash for 30 days; how many conversations."""
    old = select(Conversation.id).where(Conversation.deleted_at < at - timedelta(days=TRASH_DAYS))
    ids = list(connection.execute(old.limit(500)).scalars())
    delete_for_good(connection, ids)
    return len(ids)


def live_generations(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Generations of these conversations that are still being written."""
    query = select(Generation.id).where(Generation.conversation_id.in_(ids), Generation.state.in_(views.LIVE))
    return list(connection.execute(query).scalars())


def auto_title(text: str) -> str:
    """The first sixty characters of a message."""
    line = " ".join(text.split())
    return line if len(line) <= AUTO_TITLE_CHARS else line[: AUTO_TITLE_CHARS - 1].rstrip() + "\u2026"


def is_sound(moment: datetime) -> bool:
    """Whether a time has a zone and is of our age: others overflow on their way to UTC."""
    return moment.tzinfo is not None and 1970 <= moment.year <= 9998


def encode_cursor(at: datetime, id: str) -> str:
    """Where a page ended, opaque to clients."""
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), id]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Inverse of `encode_cursor`. Raises: ApiError 422."""
    try:
        at, id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment = datetime.fromisoformat(at)
        if not is_sound(moment) or not isinstance(id, str):
            raise ValueError(cursor)
    except (ValueError, TypeError, binascii.Error) as error:
        raise ApiError(422, "invalid_value", "this cursor is not one of ours", param="cursor") from error
    return moment, id
