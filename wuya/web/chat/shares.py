"""Shares: a frozen copy of one path of a chat, for whoever has the link, until it expires or is revoked."""

import secrets
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, or_, select, update

from wuya.database.base import now
from wuya.database.labeling_tables import User
from wuya.database.service_tables import ChatMessage, Conversation, Share
from wuya.web.accounts.store import setting
from wuya.web.chat import messages, store, views
from wuya.web.chat.schema import NewShare
from wuya.web.errors import ApiError
from wuya.web.tree import tree_of

SHARES = 1000
"""Of one person, revoked ones included."""


def is_on(connection: Connection) -> bool:
    """Whether chats may be shared at all; an admin decides. Switched off, the shares there are can't be read either."""
    return bool(setting(connection, "sharing", True))


def share(connection: Connection, conversation_id: str, user_id: str, body: NewShare) -> dict[str, Any]:
    """Freeze a path and give it an address that nobody can guess."""
    row = store.owned(connection, conversation_id, user_id)
    if not is_on(connection):
        raise ApiError(403, "sharing_off", "chats can't be shared on this server")
    tree = tree_of(connection, conversation_id)
    leaf = body.leaf_id or row["active_leaf_id"] or tree.last_leaf()
    if leaf is None or leaf not in tree:
        raise ApiError(422, "nothing_to_share", "this chat has no messages yet", param="leaf_id")
    mine = select(Share.id).join(Conversation, Conversation.id == Share.conversation_id)
    if len(connection.execute(mine.where(Conversation.user_id == user_id)).all()) >= SHARES:
        raise ApiError(422, "too_many_shares", f"you have {SHARES} shares already")
    id = secrets.token_urlsafe(18)
    connection.execute(
        insert(Share).values(
            id=id,
            conversation_id=conversation_id,
            leaf_id=leaf,
            snapshot={"title": row["title"], "messages": messages.frozen(connection, tree.path(leaf))},
            visibility=body.visibility,
            show_name=body.show_name,
            expires_at=now() + timedelta(days=body.expires_in_days) if body.expires_in_days else None,
        )
    )
    return mine_as_json(_owned(connection, id, user_id))


def mine(connection: Connection, user_id: str, *, limit: int, cursor: str) -> tuple[list[dict[str, Any]], str | None]:
    """A person's shares, the latest first."""
    query = _owned_shares(user_id).order_by(Share.created_at.desc(), Share.id.desc()).limit(limit + 1)
    if cursor:
        at, id = store.decode_cursor(cursor)
        query = query.where((Share.created_at < at) | ((Share.created_at == at) & (Share.id < id)))
    rows = connection.execute(query).mappings().all()
    shown = rows[:limit]
    end = store.encode_cursor(shown[-1]["created_at"], shown[-1]["id"]) if len(rows) > limit else None
    return [mine_as_json(row) for row in shown], end


def revoke(connection: Connection, id: str, user_id: str) -> None:
    """The page answers 404 from now on; doing it again changes nothing."""
    row = _owned(connection, id, user_id)
    if row["revoked_at"] is None:
        connection.execute(update(Share).where(Share.id == id).values(revoked_at=now(), snapshot={}))


def public(connection: Connection, id: str, *, signed_in: bool) -> dict[str, Any]:
    """What readers see, drawn. Call it outside of transactions that write: drawing long texts takes seconds."""
    row = readable(connection, id, signed_in=signed_in)
    shown = row["snapshot"]["messages"]
    drawn = views.drawings([message["content"] for message in shown])
    return {
        "id": id,
        "title": row["snapshot"]["title"],
        "name": row["display_name"] if row["show_name"] else None,
        "created_at": views.time(row["created_at"]),
        "messages": [message | {"nodes": nodes} for message, nodes in zip(shown, drawn, strict=True)],
    }


def readable(connection: Connection, id: str, *, signed_in: bool) -> dict[str, Any]:
    """A share's row, less the messages that a moderator hid since it was made.

    Raises: ApiError 404 (none, expired, revoked, its owner suspended or deleted), 401 (sign in first).
    """
    query = (
        select(Share.__table__, User.display_name, Conversation.deleted_at)
        .join(Conversation, Conversation.id == Share.conversation_id)
        .join(User, User.id == Conversation.user_id)
        .where(Share.id == id, Share.revoked_at.is_(None), or_(Share.expires_at.is_(None), Share.expires_at > now()))
        .where(User.status == "active")
    )
    row = connection.execute(query).mappings().first()
    if row is None or row["deleted_at"] is not None or not is_on(connection):
        raise ApiError(404, "not_found", "this share does not exist, has expired or was revoked")
    open_to_all = row["visibility"] == "link" and setting(connection, "public_shares", True)
    if not (open_to_all or signed_in):
        raise ApiError(401, "not_signed_in", "sign in to read this share")
    query_hidden = select(ChatMessage.id, ChatMessage.content).where(
        ChatMessage.conversation_id == row["conversation_id"], ChatMessage.hidden_by_moderation.is_(True)
    )
    hidden = connection.execute(query_hidden).all()
    hidden_ids, hidden_texts = {id for id, _ in hidden}, {content for _, content in hidden}
    shown = [
        message
        for message in row["snapshot"]["messages"]
        if (message["id"] not in hidden_ids if "id" in message else message["content"] not in hidden_texts)
    ]  # shares of earlier versions do not keep the ids
    return {**row, "snapshot": {**row["snapshot"], "messages": shown}}


def count_view(connection: Connection, id: str) -> None:
    """One more reader."""
    connection.execute(update(Share).where(Share.id == id).values(views=Share.views + 1))


def fork(connection: Connection, id: str, user_id: str) -> str:
    """A copy in one's own account; the new conversation's id."""
    snapshot = readable(connection, id, signed_in=True)["snapshot"]
    return messages.copy_path(connection, user_id, snapshot["messages"], title=snapshot["title"])


def mine_as_json(row: views.Row) -> dict[str, Any]:
    """A share as its owner sees it."""
    return {
        "id": row["id"],
        "url": f"/s/{row['id']}",
        "conversation_id": row["conversation_id"],
        "title": row["title"],
        "visibility": row["visibility"],
        "show_name": row["show_name"],
        "created_at": views.time(row["created_at"]),
        "expires_at": views.time(row["expires_at"]),
        "revoked": row["revoked_at"] is not None,
        "views": row["views"],
    }


def _owned_shares(user_id: str) -> Any:
    return (
        select(*(column for column in Share.__table__.columns if column.name != "snapshot"), Conversation.title)
        .join(Conversation, Conversation.id == Share.conversation_id)
        .where(Conversation.user_id == user_id)
    )


def _owned(connection: Connection, id: str, user_id: str) -> RowMapping:
    row: RowMapping | None = connection.execute(_owned_shares(user_id).where(Share.id == id)).mappings().first()
    if row is None:
        raise ApiError(404, "not_found", "there is no such share")
    return row
