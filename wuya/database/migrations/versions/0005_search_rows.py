"""SQLite's search index finds rows by number only: each message's row gets the number that its id gives.

Before, saving an answer read the whole index, and importing a long chat held the write lock for minutes.
"""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
CREATE = (
    "CREATE VIRTUAL TABLE search_index USING fts5"
    "(conversation_id UNINDEXED, message_id UNINDEXED, tokens, tokenize = 'unicode61')"
)
INSERT = sa.text("INSERT INTO search_index (rowid, conversation_id, message_id, tokens) VALUES (:row, :c, :m, :tokens)")


def upgrade() -> None:
    """Number the rows anew; later rows of a message win, as they replaced earlier ones."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    op.execute("ALTER TABLE search_index RENAME TO search_index_before")
    op.execute(CREATE)
    old = sa.text("SELECT conversation_id, message_id, tokens FROM search_index_before ORDER BY rowid")
    rows = {}
    for conversation, message, tokens in connection.execute(old):
        number = int.from_bytes(hashlib.sha256(message.encode()).digest()[:8]) >> 1
        rows[number] = {"row": number, "c": conversation, "m": message, "tokens": tokens}
    if rows:
        connection.execute(INSERT, list(rows.values()))
    op.execute("DROP TABLE search_index_before")


def downgrade() -> None:
    """Earlier versions read the same rows."""
