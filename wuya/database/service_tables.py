"""Tables of the service: accounts, chats, generations, moderation, usage, runs (docs/reference/schema.md).

They share the database of `labeling_tables.py`; migration 0003 makes them. Only the `store.py` of each area imports
this. Ids are UUIDv7, times are UTC, secrets are kept as SHA-256 only.
"""

from datetime import date, datetime
from typing import Any

from sqlalchemy import Date, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from wuya.database.base import ID, Base, id_column, now, reference

# ---- people


class Session(Base):
    """One browser that is signed in."""

    __tablename__ = "sessions"
    id: Mapped[str] = id_column()
    user_id: Mapped[str] = reference("users.id")
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True, doc="of the cookie")
    created_at: Mapped[datetime] = mapped_column(default=now)
    last_used_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    ip_prefix: Mapped[str] = mapped_column(default="", doc="/24 or /48 of the address")
    ua: Mapped[str] = mapped_column(default="", doc="browser, shortened")
    revoked_at: Mapped[datetime | None]


class OneTimeToken(Base):
    """A link that works once: setup, invitation, password reset; or a sign-in that was."""

    __tablename__ = "one_time_tokens"
    id: Mapped[str] = id_column()
    kind: Mapped[str] = mapped_column(doc="setup, invite, reset; oidc: a sign-in at a provider, spent")
    user_id: Mapped[str | None] = reference("users.id", nullable=True, doc="whose password it resets")
    role: Mapped[str | None] = mapped_column(doc="of whoever accepts the invitation")
    email_ci: Mapped[str | None] = mapped_column(doc="the invited address, if it is bound to one")
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    created_by: Mapped[str | None] = reference("users.id", on_delete="SET NULL", nullable=True)


class Identity(Base):
    """An account at an OpenID provider."""

    __tablename__ = "identities"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)
    id: Mapped[str] = id_column()
    user_id: Mapped[str] = reference("users.id")
    issuer: Mapped[str]
    subject: Mapped[str]


class ApiKey(Base):
    """A key of `/v1`: shown once, kept as a hash."""

    __tablename__ = "api_keys"
    id: Mapped[str] = id_column()
    user_id: Mapped[str] = reference("users.id")
    name: Mapped[str] = mapped_column(default="")
    prefix: Mapped[str] = mapped_column(String(16), index=True, doc="the part that may be shown")
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[Any]] = mapped_column(default=list, doc="chat, completions, embeddings, runs:write, ...")
    model_allow: Mapped[list[Any]] = mapped_column(default=list, doc="aliases; empty: all")
    rpm: Mapped[int | None] = mapped_column(doc="requests a minute")
    tpm: Mapped[int | None] = mapped_column(doc="tokens a minute")
    monthly_tokens: Mapped[int | None] = mapped_column(doc="budget")
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class UsageRow(Base):
    """Tokens a day, by person, key and model."""

    __tablename__ = "usage_ledger"
    __table_args__ = (UniqueConstraint("day", "user_id", "api_key_id", "model"),)
    id: Mapped[str] = id_column()
    day: Mapped[date] = mapped_column(Date)
    user_id: Mapped[str] = mapped_column(ID, default="", index=True, doc="kept when the person is deleted")
    api_key_id: Mapped[str] = mapped_column(ID, default="", index=True, doc="empty: the chat")
    model: Mapped[str] = mapped_column(default="", doc="alias")
    requests: Mapped[int] = mapped_column(default=0)
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)


class RateBucket(Base):
    """A token bucket of a key's limits (only with several web processes), or the wrong passwords of an account."""

    __tablename__ = "rate_buckets"
    name: Mapped[str] = mapped_column(String(300), primary_key=True, doc="key, what, limit; or `login` and a hash")
    level: Mapped[float] = mapped_column(doc="what may be taken; below zero: a debt. Wrong passwords: how many")
    at: Mapped[float] = mapped_column(index=True, doc="Unix seconds of the level")


class TokenReservation(Base):
    """Tokens that a running request may still use of its key's budget; gone when they are in the ledger."""

    __tablename__ = "token_reservations"
    id: Mapped[str] = id_column()
    api_key_id: Mapped[str] = reference("api_keys.id")
    tokens: Mapped[int]
    expires_at: Mapped[datetime] = mapped_column(doc="a killed process gives nothing back")


class ServiceSetting(Base):
    """What an admin chose for the whole service."""

    __tablename__ = "service_settings"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]] = mapped_column(doc='{"value": ...}')
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


# ---- chats


class Conversation(Base):
    """A chat: a tree of messages, of which one path is shown."""

    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_recent", "user_id", "updated_at"),)
    id: Mapped[str] = id_column()
    user_id: Mapped[str] = reference("users.id")
    title: Mapped[str] = mapped_column(default="")
    model_alias: Mapped[str] = mapped_column(default="")
    params: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="of sampling")
    system_prompt: Mapped[str] = mapped_column(Text, default="")
    active_leaf_id: Mapped[str | None] = mapped_column(ID, doc="the last message of the path shown")
    mode: Mapped[str] = mapped_column(default="single", doc="single, compare")
    data_use: Mapped[bool] = mapped_column(default=False, doc="may be used for training")
    archived_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None] = mapped_column(doc="in the trash since")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class ChatMessage(Base):
    """A message; siblings are alternatives."""

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("conversation_id", "parent_id", "sibling_index"),
        Index(
            "uq_messages_roots",
            "conversation_id",
            "sibling_index",
            unique=True,
            sqlite_where=text("parent_id IS NULL"),
            postgresql_where=text("parent_id IS NULL"),
        ),
        Index("ix_messages_order", "conversation_id", "created_at"),
    )
    id: Mapped[str] = id_column()
    conversation_id: Mapped[str] = reference("conversations.id")
    parent_id: Mapped[str | None] = reference("messages.id", nullable=True)
    sibling_index: Mapped[int] = mapped_column(default=0)
    role: Mapped[str] = mapped_column(doc="system, user, assistant")
    content: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(default="complete", doc="complete, streaming, stopped, error")
    model_alias: Mapped[str] = mapped_column(default="")
    model_version_id: Mapped[str | None] = reference("model_versions.id", on_delete="SET NULL", nullable=True)
    generation_id: Mapped[str | None] = mapped_column(ID, index=True)
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    finish_reason: Mapped[str | None]
    error_code: Mapped[str | None]
    hidden_by_moderation: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Generation(Base):
    """A job of the engine, from the queue to its end; survives the browser and the web process."""

    __tablename__ = "generations"
    __table_args__ = (Index("ix_generations_state", "state"),)
    id: Mapped[str] = id_column()
    conversation_id: Mapped[str | None] = reference("conversations.id", nullable=True)
    message_id: Mapped[str | None] = reference("messages.id", nullable=True)
    user_id: Mapped[str | None] = reference("users.id", nullable=True)
    api_key_id: Mapped[str | None] = reference("api_keys.id", on_delete="SET NULL", nullable=True)
    kind: Mapped[str] = mapped_column(default="chat", doc="chat, completion, task_sample, eval")
    model_alias: Mapped[str] = mapped_column(default="")
    model_version_id: Mapped[str | None] = reference("model_versions.id", on_delete="SET NULL", nullable=True)
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)
    seed: Mapped[int | None]
    state: Mapped[str] = mapped_column(default="queued", doc="queued, running, done, stopped, failed")
    queue_pos: Mapped[int | None]
    last_seq: Mapped[int] = mapped_column(default=0)
    error_code: Mapped[str | None]
    worker: Mapped[str] = mapped_column(default="", doc="the web process that runs it")
    heartbeat_at: Mapped[datetime | None] = mapped_column(doc="of that process")
    queued_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    first_token_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    cancelled_by: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None] = mapped_column(doc="by another web process")


class GenerationEvent(Base):
    """A numbered event of a job; only with several web processes, and gone ten minutes after the end."""

    __tablename__ = "generation_events"
    generation_id: Mapped[str] = mapped_column(ID, ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    data: Mapped[dict[str, Any]]


class ChatFeedback(Base):
    """A thumb on a message, with reasons and perhaps a better answer. Private to the chat; with consent a copy goes to
    `message_feedback`, which training reads."""

    __tablename__ = "chat_feedback"
    __table_args__ = (UniqueConstraint("message_id", "user_id"),)
    id: Mapped[str] = id_column()
    message_id: Mapped[str] = reference("messages.id")
    user_id: Mapped[str] = reference("users.id")
    value: Mapped[int] = mapped_column(doc="-1 or 1")
    reasons: Mapped[list[Any]] = mapped_column(default=list, doc="tags")
    comment: Mapped[str] = mapped_column(Text, default="")
    better_answer: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class ChatComparison(Base):
    """Two answers to one message side by side, names hidden until the vote. With consent a copy goes to
    `comparisons`."""

    __tablename__ = "chat_comparisons"
    id: Mapped[str] = id_column()
    conversation_id: Mapped[str] = reference("conversations.id")
    parent_id: Mapped[str] = reference("messages.id", doc="the message both answer")
    a_message_id: Mapped[str] = reference("messages.id")
    b_message_id: Mapped[str] = reference("messages.id")
    left_is_a: Mapped[bool] = mapped_column(doc="drawn by chance, kept")
    outcome: Mapped[str | None] = mapped_column(doc="a, b, tie, both_bad; NULL: not voted")
    strength: Mapped[int | None] = mapped_column(doc="1 slight, 2 strong")
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime] = mapped_column(default=now)
    voted_at: Mapped[datetime | None]


class Share(Base):
    """A frozen copy of one path of a chat, for others to read."""

    __tablename__ = "shares"
    id: Mapped[str] = id_column()
    conversation_id: Mapped[str] = reference("conversations.id")
    leaf_id: Mapped[str] = mapped_column(ID)
    snapshot: Mapped[dict[str, Any]]
    visibility: Mapped[str] = mapped_column(default="signed_in", doc="signed_in, link")
    show_name: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    views: Mapped[int] = mapped_column(default=0)


# ---- order in the house


class ModerationEvent(Base):
    """A rule that fired, or a report; open until a moderator decides."""

    __tablename__ = "moderation_events"
    __table_args__ = (
        Index("ix_moderation_events_queue", "state", "created_at"),
        Index("ix_moderation_events_subject", "subject", "subject_id"),
    )
    id: Mapped[str] = id_column()
    subject: Mapped[str] = mapped_column(doc="message, user, share")
    subject_id: Mapped[str] = mapped_column(ID)
    user_id: Mapped[str | None] = reference("users.id", on_delete="SET NULL", nullable=True, doc="whose it is")
    reporter_id: Mapped[str | None] = reference("users.id", on_delete="SET NULL", nullable=True)
    stage: Mapped[str] = mapped_column(doc="input, output, report")
    rule: Mapped[str] = mapped_column(default="")
    scores: Mapped[dict[str, Any]] = mapped_column(default=dict)
    action: Mapped[str] = mapped_column(default="flag", doc="allow, flag, block, hide")
    state: Mapped[str] = mapped_column(default="open", doc="open, closed")
    decision: Mapped[str | None] = mapped_column(doc="dismiss, hide, warn, suspend")
    handled_by: Mapped[str | None] = reference("users.id", on_delete="SET NULL", nullable=True)
    handled_at: Mapped[datetime | None]
    note: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=now)


class AuditRow(Base):
    """What somebody with power did; each row holds the hash of the one before."""

    __tablename__ = "audit_log"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(default=now)
    actor_id: Mapped[str | None] = mapped_column(ID, index=True, doc="kept when the person is deleted")
    actor_kind: Mapped[str] = mapped_column(default="user", doc="user, key, system")
    action: Mapped[str]
    object: Mapped[str] = mapped_column(default="")
    object_id: Mapped[str] = mapped_column(ID, default="")
    ip_prefix: Mapped[str] = mapped_column(default="")
    request_id: Mapped[str] = mapped_column(default="")
    diff: Mapped[dict[str, Any]] = mapped_column(default=dict)
    prev_hash: Mapped[str] = mapped_column(String(64), default="")
    hash: Mapped[str] = mapped_column(String(64))


# ---- runs of other machines (those of this one are read from their folders)


class RunMetric(Base):
    """A figure at a step."""

    __tablename__ = "run_metrics"
    run_id: Mapped[str] = mapped_column(ID, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]
    wall: Mapped[float] = mapped_column(default=0.0, doc="Unix seconds")


class RunSample(Base):
    """An answer at a step."""

    __tablename__ = "run_samples"
    run_id: Mapped[str] = mapped_column(ID, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    idx: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str] = mapped_column(Text, default="")
    output: Mapped[str] = mapped_column(Text, default="")
    ref_output: Mapped[str] = mapped_column(Text, default="")
    reward: Mapped[float | None]
    kl: Mapped[float | None]
    scores: Mapped[dict[str, Any]] = mapped_column(default=dict)


class RunEvent(Base):
    """Something a run, or a person about it, said."""

    __tablename__ = "run_events"
    id: Mapped[str] = id_column()
    run_id: Mapped[str] = reference("runs.id")
    at: Mapped[datetime] = mapped_column(default=now)
    level: Mapped[str] = mapped_column(default="info", doc="info, warning, alert, note")
    step: Mapped[int | None]
    text: Mapped[str] = mapped_column(Text, default="")
