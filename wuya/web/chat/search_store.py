"""The search index in the database: FTS5 on SQLite, a tsvector column on PostgreSQL; terms are made in `search`."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, text

from wuya.web.chat import search

TITLE = "title:"
"""`message_id` of a conversation's title begins with it."""
DELETE_ROW = text("DELETE FROM search_index WHERE rowid = :row")
INSERT_SQLITE = text(
    "INSERT INTO search_index (rowid, conversation_id, message_id, tokens) "
    "VALUES (:row, :conversation, :message, :tokens)"
)
INSERT_POSTGRES = text(
    "INSERT INTO search_index (conversation_id, message_id, tokens) "
    "VALUES (:conversation, :message, to_tsvector('simple', :tokens))"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A message (or a title) that was found."""

    conversation_id: str
    message_id: str


def index_message(connection: Connection, conversation_id: str, message_id: str, content: str) -> None:
    """Make a text findable, in place of what was indexed for the message before."""
    index_messages(connection, conversation_id, {message_id: content})


def index_messages(connection: Connection, conversation_id: str, contents: Mapping[str, str]) -> None:
    """`index_message` for many: texts by the ids of their messages."""
    postgres = connection.dialect.name == "postgresql"
    if postgres:
        query = text("DELETE FROM search_index WHERE message_id IN :ids").bindparams(bindparam("ids", expanding=True))
        connection.execute(query, {"ids": list(contents)})
    else:
        connection.execute(DELETE_ROW, [{"row": row_id(id)} for id in contents])
    rows = [
        {"row": row_id(id), "conversation": conversation_id, "message": id, "tokens": tokens}
        for id, content in contents.items()
        if (tokens := " ".join(search.terms(content)))
    ]
    if rows:
        connection.execute(INSERT_POSTGRES if postgres else INSERT_SQLITE, rows)


def row_id(message_id: str) -> int:
    """The row of a message in SQLite's index, which finds rows by number only: by anything else it reads them all."""
    return int.from_bytes(hashlib.sha256(message_id.encode()).digest()[:8]) >> 1


def index_title(connection: Connection, conversation_id: str, title: str) -> None:
    """Make a conversation findable by its title."""
    index_message(connection, conversation_id, TITLE + conversation_id, title)


def forget(connection: Connection, conversation_ids: Sequence[str]) -> None:
    """Take conversations out of the index, while their messages are still in the database."""
    for id in conversation_ids:
        if connection.dialect.name == "postgresql":
            connection.execute(text("DELETE FROM search_index WHERE conversation_id = :id"), {"id": id})
        else:
            found = connection.execute(text("SELECT id FROM messages WHERE conversation_id = :id"), {"id": id})
            ids = [*found.scalars(), TITLE + id]
            connection.execute(DELETE_ROW, [{"row": row_id(message)} for message in ids])


def find(connection: Connection, user_id: str, query: str, *, limit: int, offset: int) -> list[Hit]:
    """Messages and titles of this person's chats (not those in the trash), newest first."""
    wanted = search.phrases(query)
    if not wanted:
        return []
    postgres = connection.dialect.name == "postgresql"
    condition = "s.tokens @@ to_tsquery('simple', :query)" if postgres else "search_index MATCH :query"
    table = "search_index s" if postgres else "search_index"
    prefix = "s" if postgres else "search_index"
    statement = (
        f"SELECT {prefix}.conversation_id, {prefix}.message_id, COALESCE(m.created_at, c.created_at) AS moment "
        f"FROM {table} JOIN conversations c ON c.id = {prefix}.conversation_id "
        f"LEFT JOIN messages m ON m.id = {prefix}.message_id "
        f"WHERE {condition} AND c.user_id = :user AND c.deleted_at IS NULL "
        f"AND (m.hidden_by_moderation IS NULL OR NOT m.hidden_by_moderation) "
        f"ORDER BY moment DESC LIMIT :limit OFFSET :offset"
    )
    found = search.ts_query(wanted) if postgres else search.fts5_query(wanted)
    named = {"query": found, "user": user_id, "limit": limit, "offset": offset}
    return [Hit(row[0], row[1]) for row in connection.execute(text(statement), named)]
