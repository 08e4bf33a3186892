"""Conversations between files and the database."""

import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, insert, select

from wuya.database.base import now
from wuya.database.service_tables import ChatFeedback, ChatMessage, Conversation
from wuya.web.chat import messages, schema, search_store, store, views
from wuya.web.chat.transfer import ImportedChat, shown_leaf
from wuya.web.tree import tree_of

_NAMESPACE = uuid.UUID("6f9d9d1c-1d6a-4b56-9c3e-0f6f1b9d1a77")


def as_json(connection: Connection, row: RowMapping, user_id: str) -> dict[str, Any]:
    """A conversation with its whole tree, as our export holds it."""
    tree = tree_of(connection, row["id"])
    query = select(ChatMessage.__table__).where(ChatMessage.conversation_id == row["id"])
    rows = {m["id"]: m for m in connection.execute(query).mappings()}
    thumbs = select(ChatFeedback.__table__).where(
        ChatFeedback.message_id.in_(select(ChatMessage.id).where(ChatMessage.conversation_id == row["id"])),
        ChatFeedback.user_id == user_id,
    )
    opinions = {t["message_id"]: views.opinion(t) for t in connection.execute(thumbs).mappings()}
    order: list[str] = []
    waiting = list(reversed(tree.children.get(None, [])))
    while waiting:  # parents before children, siblings in their order
        id = waiting.pop()
        order.append(id)
        waiting += reversed(tree.children.get(id, []))
    blind = messages.undecided(connection, order)
    hidden = {id for id, m in rows.items() if m["hidden_by_moderation"]}
    return {
        "id": row["id"],
        "title": row["title"],
        "model": row["model_alias"],
        "system_prompt": row["system_prompt"],
        "params": row["params"],
        "archived": row["archived_at"] is not None,
        "active_leaf_id": row["active_leaf_id"],
        "created_at": views.time(row["created_at"]),
        "updated_at": views.time(row["updated_at"]),
        "messages": [
            {
                "id": id,
                "parent_id": rows[id]["parent_id"],
                "role": rows[id]["role"],
                "content": "" if id in hidden else rows[id]["content"],
                "model": "" if id in blind else rows[id]["model_alias"],
                "status": rows[id]["status"],
                "created_at": views.time(rows[id]["created_at"]),
                "feedback": opinions.get(id),
            }
            for id in order
        ],
    }


def path_as_json(connection: Connection, row: RowMapping) -> dict[str, Any]:
    """The active path, for Markdown."""
    tree = tree_of(connection, row["id"])
    leaf = row["active_leaf_id"] if row["active_leaf_id"] in tree else tree.last_leaf()
    path = tree.path(leaf)
    query = select(ChatMessage.id, ChatMessage.role, ChatMessage.content, ChatMessage.model_alias)
    query = query.where(ChatMessage.id.in_(path), ChatMessage.hidden_by_moderation.is_(False))
    rows = {m.id: m for m in connection.execute(query)}
    blind = messages.undecided(connection, path)
    shown = [
        {"role": rows[id].role, "content": rows[id].content, "model": "" if id in blind else rows[id].model_alias}
        for id in path
        if id in rows
    ]
    return {"title": row["title"], "messages": shown}


def ids_of(connection: Connection, user_id: str) -> list[str]:
    """All conversations of a person, those in the trash included."""
    query = select(Conversation.id).where(Conversation.user_id == user_id).order_by(Conversation.id)
    return list(connection.execute(query).scalars())


def write(connection: Connection, user_id: str, chats: Sequence[ImportedChat], *, source: str) -> list[dict[str, str]]:
    """Write chats that this person does not have yet; {id, title} of the new ones. The same file again adds nothing."""
    own = {chat.id for chat in chats if chat.id}
    known = set(
        connection.execute(
            select(Conversation.id).where(Conversation.user_id == user_id, Conversation.id.in_(own))
        ).scalars()
    )
    written = []
    for chat in chats:
        id = _derived(user_id, source, chat.id) if chat.id else str(uuid.uuid4())
        if (source == "wuya" and chat.id in known) or _exists(connection, id):
            continue
        _write_one(connection, user_id, id, chat)
        written.append({"id": id, "title": chat.title})
    return written


def _write_one(connection: Connection, user_id: str, id: str, chat: ImportedChat) -> None:
    created = chat.created_at or now()
    title = chat.title or store.auto_title(chat.messages[0].content)
    new = {message.id: _derived(id, message.id) for message in chat.messages}
    store.create(
        connection, user_id, id=id, title=title, model_alias="", params=_params(chat.params),
        system_prompt=chat.system_prompt, data_use=False, created_at=created,
        updated_at=chat.updated_at or created, archived_at=now() if chat.archived else None,
        active_leaf_id=new.get(shown_leaf(chat) or ""),
    )  # fmt: skip
    siblings: dict[str | None, int] = {}
    rows, thumbs = [], []
    for message in chat.messages:
        index = siblings.get(message.parent, 0)
        siblings[message.parent] = index + 1
        rows.append(
            {
                "id": new[message.id],
                "conversation_id": id,
                "parent_id": new[message.parent] if message.parent else None,
                "sibling_index": index,
                "role": message.role,
                "content": message.content,
                "model_alias": message.model,
                "created_at": message.at or created,
            }
        )
        opinion = _opinion(message.feedback) if message.feedback and message.role == "assistant" else None
        if opinion:
            thumbs.append({"message_id": new[message.id], "user_id": user_id} | opinion)
    connection.execute(insert(ChatMessage), rows)
    if thumbs:
        connection.execute(insert(ChatFeedback), thumbs)
    search_store.index_messages(connection, id, {str(row["id"]): str(row["content"]) for row in rows})


def _params(params: Any) -> dict[str, Any]:
    """Those that are ours and in range."""
    try:
        return schema.Params.model_validate(dict(params)).given()
    except ValidationError:
        return {}


def _opinion(value: Any) -> dict[str, Any] | None:
    try:
        return schema.Opinion.model_validate(value).model_dump()
    except ValidationError:
        return None


def _derived(*parts: str) -> str:
    """The same id for the same parts."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(parts)))


def _exists(connection: Connection, id: str) -> bool:
    return connection.execute(select(Conversation.id).where(Conversation.id == id)).scalar() is not None
