"""Messages in the database: added as children or siblings, never changed but by the generation that writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select

from wuya.database.base import uuid7
from wuya.database.service_tables import ChatComparison, ChatMessage, Conversation
from wuya.web.chat import search_store, store, views
from wuya.web.errors import ApiError
from wuya.web.tree import Tree, tree_of

CONTENT_BYTES = 256 << 10
PATH_MESSAGES = 500
MESSAGES = 5000
"""Of one conversation, branches included."""


def check_content(content: str) -> None:
    """Raise ApiError unless a person may send this text."""
    if not content.strip():
        raise ApiError(422, "empty_message", "write something first", param="content")
    if len(content.encode(errors="surrogatepass")) > CONTENT_BYTES:
        raise ApiError(413, "message_too_long", f"a message has at most {CONTENT_BYTES:,} bytes", param="content")
    if "\x00" in content or any("\ud800" <= c <= "\udfff" for c in content):
        raise ApiError(422, "invalid_value", "the message has characters that are no text", param="content")


def owned(connection: Connection, id: str, user_id: str) -> RowMapping:
    """A message of this person's chats. Raises: ApiError 404."""
    query = (
        select(ChatMessage.__table__)
        .join(Conversation, Conversation.id == ChatMessage.conversation_id)
        .where(ChatMessage.id == id, Conversation.user_id == user_id)
    )
    row = connection.execute(query).mappings().first()
    if row is None:
        raise ApiError(404, "not_found", "there is no such message")
    return row


def find(connection: Connection, id: str) -> RowMapping | None:
    """A message by its id, whosoever it is."""
    return connection.execute(select(ChatMessage.__table__).where(ChatMessage.id == id)).mappings().first()


def check_parent(tree: Tree, parent_id: str | None) -> None:
    """Raise ApiError unless a message may be put below this one."""
    if parent_id is not None and parent_id not in tree:
        raise ApiError(404, "not_found", "there is no such message in this conversation", param="parent_id")
    if len(tree.path(parent_id)) >= PATH_MESSAGES or len(tree.parents) >= MESSAGES:
        raise ApiError(
            422, "conversation_full", f"a chat has at most {PATH_MESSAGES} messages in a row", param="parent_id"
        )


def add(
    connection: Connection,
    conversation_id: str,
    parent_id: str | None,
    role: str,
    content: str,
    *,
    id: str | None = None,
    **values: Any,
) -> str:
    """A new last sibling below `parent_id`; its id. The caller has locked the conversation."""
    same = ChatMessage.parent_id.is_(None) if parent_id is None else ChatMessage.parent_id == parent_id
    query = select(func.max(ChatMessage.sibling_index)).where(ChatMessage.conversation_id == conversation_id, same)
    last = connection.execute(query).scalar()
    id = id or uuid7()
    connection.execute(
        insert(ChatMessage).values(
            id=id, conversation_id=conversation_id, parent_id=parent_id, role=role, content=content,
            sibling_index=0 if last is None else last + 1, **values,
        )
    )  # fmt: skip
    if content:
        search_store.index_message(connection, conversation_id, id, content)
    return id


def path_above(connection: Connection, conversation_id: str, before: str | None, leaf: str | None, limit: int) -> tuple[
    list[str], str | None, Tree
]:  # fmt: skip
    """Ids of the last `limit` messages above `before` (or up to the leaf), and where to go on."""
    tree = tree_of(connection, conversation_id)
    if before is not None:
        if before not in tree:
            raise ApiError(404, "not_found", "there is no such message in this conversation", param="before")
        path = tree.path(before)[:-1]
    else:
        path = tree.path(leaf if leaf is not None and leaf in tree else tree.last_leaf())
    shown = views.last_of(connection, path, limit)
    return shown, shown[0] if len(path) > len(shown) else None, tree


def texts(connection: Connection, ids: Sequence[str]) -> list[dict[str, str]]:
    """Roles and contents for a prompt, in the order of `ids`; what a moderator hid is left out."""
    query = select(ChatMessage.id, ChatMessage.role, ChatMessage.content, ChatMessage.generation_id).where(
        ChatMessage.id.in_(ids), ChatMessage.hidden_by_moderation.is_(False)
    )
    rows = {
        id: {"role": role, "content": content, "id": id, "author": "model" if generation else "person"}
        for id, role, content, generation in connection.execute(query)
    }
    return [rows[id] for id in ids if id in rows]


def undecided(connection: Connection, parents: Sequence[str]) -> set[str]:
    """Answers below these messages whose models stay hidden until somebody has voted."""
    query = select(ChatComparison.a_message_id, ChatComparison.b_message_id).where(ChatComparison.outcome.is_(None))
    return {id for pair in connection.execute(query.where(ChatComparison.parent_id.in_(parents))) for id in pair}


def frozen(connection: Connection, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Whole messages for a copy or a share; a name stays hidden while its comparison waits for the vote."""
    blind = undecided(connection, ids)
    query = select(ChatMessage.__table__).where(ChatMessage.id.in_(ids), ChatMessage.hidden_by_moderation.is_(False))
    rows = {row["id"]: row for row in connection.execute(query).mappings()}
    return [
        {
            "id": id,
            "role": rows[id]["role"],
            "content": rows[id]["content"],
            "model": None if id in blind else rows[id]["model_alias"] or None,
            "status": rows[id]["status"],
        }
        for id in ids
        if id in rows and rows[id]["status"] != "streaming"
    ]


def copy_path(connection: Connection, user_id: str, messages: Sequence[Mapping[str, Any]], **conversation: Any) -> str:
    """A new conversation that holds these messages in a row; its id."""
    id = store.create(connection, user_id, **conversation)
    parent: str | None = None
    for message in messages:
        parent = add(
            connection, id, parent, message["role"], message["content"],
            model_alias=message.get("model") or "", status=message.get("status") or "complete",
        )  # fmt: skip
    store.touch(connection, id, active_leaf_id=parent)
    return id
