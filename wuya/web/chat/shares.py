"""Shares: a frozen copy of one path of a chat, for whoever has the link, until it expires or is revoked."""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, or_, select, update

from wuya.feedback.base import now
from wuya.feedback.tables import User
from wuya.web.accounts.store import setting
from wuya.web.chat import messages, store, views
from wuya.web.chat.schema import NewShare
from wuya.web.errors import ApiError
from wuya.web.tables import ChatComparison, ChatMessage, Conversation, Share
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
            snapshot={"title": row["title"], "messages": _frozen(connection, tree.path(leaf))},
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


def public(connection: Connection, id: str, *, signed_in: bool, count: bool = False) -> dict[str, Any]:
    """What readers see. Raises: ApiError 404 (none, expired, revoked), 401 (sign in first)."""
    query = (
        select(Share.__table__, User.display_name, Conversation.deleted_at)
        .join(Conversation, Conversation.id == Share.conversation_id)
        .join(User, User.id == Conversation.user_id)
        .where(Share.id == id, Share.revoked_at.is_(None), or_(Share.expires_at.is_(None), Share.expires_at > now()))
    )
    row = connection.execute(query).mappings().first()
    if row is None or row["deleted_at"] is not None or not is_on(connection):
        raise ApiError(404, "not_found", "this share does not exist, has expired or was revoked")
    open_to_all = row["visibility"] == "link" and setting(connection, "public_shares", True)
    if not (open_to_all or signed_in):
        raise ApiError(401, "not_signed_in", "sign in to read this share")
    if count:
        connection.execute(update(Share).where(Share.id == id).values(views=Share.views + 1))
    snapshot: Mapping[str, Any] = row["snapshot"]
    return {
        "id": id,
        "title": snapshot["title"],
        "name": row["display_name"] if row["show_name"] else None,
        "created_at": views.time(row["created_at"]),
        "messages": [message | {"nodes": views.nodes(message["content"])} for message in snapshot["messages"]],
    }


def fork(connection: Connection, id: str, user_id: str) -> str:
    """A copy in one's own account; the new conversation's id."""
    shown = public(connection, id, signed_in=True)
    return messages.copy_path(connection, user_id, shown["messages"], title=shown["title"])


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


def _frozen(connection: Connection, ids: list[str]) -> list[dict[str, Any]]:
    """Texts of whole messages; a name stays hidden while its comparison waits for the vote."""
    undecided = select(ChatComparison.a_message_id, ChatComparison.b_message_id).where(ChatComparison.outcome.is_(None))
    blind = {id for pair in connection.execute(undecided.where(ChatComparison.parent_id.in_(ids))) for id in pair}
    query = select(ChatMessage.__table__).where(ChatMessage.id.in_(ids), ChatMessage.hidden_by_moderation.is_(False))
    rows = {row["id"]: row for row in connection.execute(query).mappings()}
    return [
        {
            "role": rows[id]["role"],
            "content": rows[id]["content"],
            "model": None if id in blind else rows[id]["model_alias"] or None,
        }
        for id in ids
        if id in rows and rows[id]["status"] != "streaming"
    ]


def _owned_shares(user_id: str) -> Any:
    return (
        select(Share.__table__, Conversation.title)
        .join(Conversation, Conversation.id == Share.conversation_id)
        .where(Conversation.user_id == user_id)
    )


def _owned(connection: Connection, id: str, user_id: str) -> RowMapping:
    row: RowMapping | None = connection.execute(_owned_shares(user_id).where(Share.id == id)).mappings().first()
    if row is None:
        raise ApiError(404, "not_found", "there is no such share")
    return row
