"""The search index in the database: FTS5 on SQLite, a tsvector column on PostgreSQL; terms are made in `search`."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from wuya.web.chat import search

TITLE = "title:"
"""`message_id` of a conversation's title begins with it."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A message (or a title) that was found."""

    conversation_id: str
    message_id: str


def index_message(connection: Connection, conversation_id: str, message_id: str, content: str) -> None:
    """Make a text findable, in place of what was indexed for the message before."""
    named = {"conversation": conversation_id, "message": message_id}
    connection.execute(
        text("DELETE FROM search_index WHERE conversation_id = :conversation AND message_id = :message"), named
    )
    tokens = " ".join(search.terms(content))
    tokens_value = "to_tsvector('simple', :tokens)" if connection.dialect.name == "postgresql" else ":tokens"
    if tokens:
        connection.execute(
            text("INSERT INTO search_index (conversation_id, message_id, tokens) "
                 f"VALUES (:conversation, :message, {tokens_value})"),
            named | {"tokens": tokens},
        )  # fmt: skip


def index_title(connection: Connection, conversation_id: str, title: str) -> None:
    """Make a conversation findable by its title."""
    index_message(connection, conversation_id, TITLE + conversation_id, title)


def forget(connection: Connection, conversation_ids: Sequence[str]) -> None:
    """Take conversations out of the index."""
    for id in conversation_ids:
        connection.execute(text("DELETE FROM search_index WHERE conversation_id = :id"), {"id": id})


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
