"""The service: accounts, chats, generations, moderation, usage, runs, and what labeling by people needs besides."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.String(200)
TIME = sa.DateTime(timezone=True)
# table, column, type, its value in old rows, whether it has an index. No foreign keys: SQLite can't add them later.
COLUMNS: list[tuple[str, str, Any, Any, bool]] = [
    ("users", "password_hash", sa.String(), None, False),
    ("users", "locale", sa.String(), "", False),
    ("users", "theme", sa.String(), "", False),
    ("users", "prefs", sa.JSON(), "{}", False),
    ("users", "data_use", sa.Boolean(), sa.false(), False),
    ("users", "totp_secret_enc", sa.String(), None, False),
    ("users", "last_seen_at", TIME, None, False),
    ("prompts", "pii_state", sa.String(), "", False),
    ("label_projects", "double_rate", sa.Double(), "0.15", False),
    ("label_projects", "gold_rate", sa.Double(), "0.08", False),
    ("label_projects", "require_fields", sa.JSON(), "[]", False),
    ("label_projects", "settings", sa.JSON(), "{}", False),
    ("label_tasks", "final_source", sa.String(), None, False),
    ("label_tasks", "split", sa.String(), None, False),
    ("task_candidates", "generation_id", ID, None, False),
    ("assignments", "signals", sa.JSON(), "{}", False),
    ("demonstrations", "author_hash", sa.String(64), "", False),
    ("demonstrations", "tokens", sa.Integer(), None, False),
    ("demonstrations", "revision_of", ID, None, False),
    ("rankings", "author_hash", sa.String(64), "", False),
    ("rankings", "is_final", sa.Boolean(), sa.false(), False),
    ("comparisons", "prompt_message_id", ID, None, True),
    ("exports", "created_by", ID, None, True),
    ("runs", "host", sa.String(), "", False),
    ("runs", "note", sa.Text(), "", False),
    ("runs", "owner_id", ID, None, True),
    ("runs", "heartbeat_at", TIME, None, False),
    ("model_versions", "tokenizer_sha", sa.String(64), "", False),
    ("model_versions", "ctx_len", sa.Integer(), "0", False),
    ("model_versions", "note", sa.Text(), "", False),
    ("models", "canary_version_id", ID, None, True),
    ("models", "canary_pct", sa.Integer(), "0", False),
    ("models", "history", sa.JSON(), "[]", False),
]
TABLES = [
    "audit_log",
    "service_settings",
    "usage_ledger",
    "api_keys",
    "conversations",
    "identities",
    "moderation_events",
    "one_time_tokens",
    "qualifications",
    "sessions",
    "run_events",
    "run_metrics",
    "run_samples",
    "shares",
    "messages",
    "reviews",
    "chat_comparisons",
    "chat_feedback",
    "generations",
    "generation_events",
]


def upgrade() -> None:
    for table, column, kind, default, indexed in COLUMNS:
        op.add_column(table, sa.Column(column, kind, nullable=default is None, server_default=default))
        if indexed:
            op.create_index(f"ix_{table}_{column}", table, [column])
    op.create_index("ix_assignments_lease", "assignments", ["state", "lease_until"])
    half_done = sa.text("state = 'open' AND n_submitted > 0")
    op.create_index(
        "ix_label_tasks_half_done",
        "label_tasks",
        ["project_id", "priority"],
        sqlite_where=half_done,
        postgresql_where=half_done,
    )
    make_tables()
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE search_index USING fts5"
            "(conversation_id UNINDEXED, message_id UNINDEXED, tokens, tokenize = 'unicode61')"
        )
    else:
        op.execute(
            "CREATE TABLE search_index (conversation_id VARCHAR(200) NOT NULL, message_id VARCHAR(200) PRIMARY KEY, "
            "tokens TSVECTOR NOT NULL)"
        )
        op.execute("CREATE INDEX ix_search_index_tokens ON search_index USING GIN (tokens)")
        op.execute("CREATE INDEX ix_search_index_conversation_id ON search_index (conversation_id)")


def downgrade() -> None:
    op.execute("DROP TABLE search_index")
    op.drop_index("ix_label_tasks_half_done", "label_tasks")
    op.drop_index("ix_assignments_lease", "assignments")
    for table in reversed(TABLES):
        op.drop_table(table)
    for table, column, _kind, _default, indexed in reversed(COLUMNS):
        if indexed:
            op.drop_index(f"ix_{table}_{column}", table)
        op.drop_column(table, column)


def make_tables() -> None:
    """The new tables, each after those that it refers to."""
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor_id", ID, nullable=True, index=True),
        sa.Column("actor_kind", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object", sa.String(), nullable=False),
        sa.Column("object_id", ID, nullable=False),
        sa.Column("ip_prefix", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("diff", sa.JSON(), nullable=False),
        sa.Column("prev_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_table(
        "service_settings",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
    )
    op.create_table(
        "usage_ledger",
        sa.Column("id", ID, primary_key=True),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("user_id", ID, nullable=False, index=True),
        sa.Column("api_key_id", ID, nullable=False, index=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.UniqueConstraint("day", "user_id", "api_key_id", "model"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", ID, primary_key=True),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False, index=True),
        sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("model_allow", sa.JSON(), nullable=False),
        sa.Column("rpm", sa.Integer(), nullable=True),
        sa.Column("tpm", sa.Integer(), nullable=True),
        sa.Column("monthly_tokens", sa.Integer(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
    )
    op.create_table(
        "conversations",
        sa.Column("id", ID, primary_key=True),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("model_alias", sa.String(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("system_prompt", sa.Text(), nullable=False),
        sa.Column("active_leaf_id", ID, nullable=True),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("data_use", sa.Boolean(), nullable=False),
        sa.Column("archived_at", TIME, nullable=True),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
    )
    op.create_index("ix_conversations_recent", "conversations", ["user_id", "updated_at"])
    op.create_table(
        "identities",
        sa.Column("id", ID, primary_key=True),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.UniqueConstraint("issuer", "subject"),
    )
    op.create_table(
        "moderation_events",
        sa.Column("id", ID, primary_key=True),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("subject_id", ID, nullable=False),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="SET NULL"), nullable=True, index=True),
        sa.Column("reporter_id", ID, sa.ForeignKey("users.id", ondelete="SET NULL"), nullable=True, index=True),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("decision", sa.String(), nullable=True),
        sa.Column("handled_by", ID, sa.ForeignKey("users.id", ondelete="SET NULL"), nullable=True, index=True),
        sa.Column("handled_at", TIME, nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_index("ix_moderation_events_subject", "moderation_events", ["subject", "subject_id"])
    op.create_index("ix_moderation_events_queue", "moderation_events", ["state", "created_at"])
    op.create_table(
        "one_time_tokens",
        sa.Column("id", ID, primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=True, index=True),
        sa.Column("role", sa.String(), nullable=True),
        sa.Column("email_ci", sa.String(), nullable=True),
        sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=True),
        sa.Column("created_by", ID, sa.ForeignKey("users.id", ondelete="SET NULL"), nullable=True, index=True),
    )
    op.create_table(
        "qualifications",
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column(
            "project_id", ID, sa.ForeignKey("label_projects.id", ondelete="CASCADE"), primary_key=True, index=True
        ),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("gold_window", sa.JSON(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("token_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_used_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("ip_prefix", sa.String(), nullable=False),
        sa.Column("ua", sa.String(), nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
    )
    op.create_table(
        "run_events",
        sa.Column("id", ID, primary_key=True),
        sa.Column("run_id", ID, sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
    )
    op.create_table(
        "run_metrics",
        sa.Column("run_id", ID, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("key", ID, primary_key=True),
        sa.Column("step", sa.Integer(), primary_key=True),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("wall", sa.Double(), nullable=False),
    )
    op.create_table(
        "run_samples",
        sa.Column("run_id", ID, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("step", sa.Integer(), primary_key=True),
        sa.Column("idx", sa.Integer(), primary_key=True),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("ref_output", sa.Text(), nullable=False),
        sa.Column("reward", sa.Double(), nullable=True),
        sa.Column("kl", sa.Double(), nullable=True),
        sa.Column("scores", sa.JSON(), nullable=False),
    )
    op.create_table(
        "shares",
        sa.Column("id", ID, primary_key=True),
        sa.Column(
            "conversation_id", ID, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("leaf_id", ID, nullable=False),
        sa.Column("snapshot", sa.JSON(), nullable=False),
        sa.Column("visibility", sa.String(), nullable=False),
        sa.Column("show_name", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("views", sa.Integer(), nullable=False),
    )
    op.create_table(
        "messages",
        sa.Column("id", ID, primary_key=True),
        sa.Column(
            "conversation_id", ID, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("parent_id", ID, sa.ForeignKey("messages.id", ondelete="CASCADE"), nullable=True, index=True),
        sa.Column("sibling_index", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("model_alias", sa.String(), nullable=False),
        sa.Column(
            "model_version_id", ID, sa.ForeignKey("model_versions.id", ondelete="SET NULL"), nullable=True, index=True
        ),
        sa.Column("generation_id", ID, nullable=True, index=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("hidden_by_moderation", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.UniqueConstraint("conversation_id", "parent_id", "sibling_index"),
    )
    op.create_index(
        "uq_messages_roots",
        "messages",
        ["conversation_id", "sibling_index"],
        unique=True,
        sqlite_where=sa.text("parent_id IS NULL"),
        postgresql_where=sa.text("parent_id IS NULL"),
    )
    op.create_index("ix_messages_order", "messages", ["conversation_id", "created_at"])
    op.create_table(
        "reviews",
        sa.Column("id", ID, primary_key=True),
        sa.Column("assignment_id", ID, sa.ForeignKey("assignments.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("reviewer_id", ID, sa.ForeignKey("users.id", ondelete="SET NULL"), nullable=True, index=True),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("submission", sa.JSON(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_table(
        "chat_comparisons",
        sa.Column("id", ID, primary_key=True),
        sa.Column(
            "conversation_id", ID, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("parent_id", ID, sa.ForeignKey("messages.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("a_message_id", ID, sa.ForeignKey("messages.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("b_message_id", ID, sa.ForeignKey("messages.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("left_is_a", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("strength", sa.Integer(), nullable=True),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("voted_at", TIME, nullable=True),
    )
    op.create_table(
        "chat_feedback",
        sa.Column("id", ID, primary_key=True),
        sa.Column("message_id", ID, sa.ForeignKey("messages.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("better_answer", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.UniqueConstraint("message_id", "user_id"),
    )
    op.create_table(
        "generations",
        sa.Column("id", ID, primary_key=True),
        sa.Column(
            "conversation_id", ID, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=True, index=True
        ),
        sa.Column("message_id", ID, sa.ForeignKey("messages.id", ondelete="CASCADE"), nullable=True, index=True),
        sa.Column("user_id", ID, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=True, index=True),
        sa.Column("api_key_id", ID, sa.ForeignKey("api_keys.id", ondelete="SET NULL"), nullable=True, index=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("model_alias", sa.String(), nullable=False),
        sa.Column(
            "model_version_id", ID, sa.ForeignKey("model_versions.id", ondelete="SET NULL"), nullable=True, index=True
        ),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("queue_pos", sa.Integer(), nullable=True),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("heartbeat_at", TIME, nullable=True),
        sa.Column("queued_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("first_token_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("cancelled_by", sa.String(), nullable=True),
        sa.Column("cancel_requested_at", TIME, nullable=True),
    )
    op.create_index("ix_generations_state", "generations", ["state"])
    op.create_table(
        "generation_events",
        sa.Column("generation_id", ID, sa.ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("seq", sa.Integer(), primary_key=True),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
    )
