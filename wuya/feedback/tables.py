"""The database of people and queues: tables of labeling, models and exports (docs/reference/schema.md).

Ids are UUIDv7 (they sort by time), times are UTC, every foreign key is indexed. JSON columns hold what no query looks
into. An unanswered question is NULL, never false. Only `feedback/` imports this module.
"""

import secrets
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Dialect, ForeignKey, Index, MetaData, String, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime, TypeDecorator

HEAD = "0002"
"""The newest migration; a test holds it to the files in migrations/versions."""


def uuid7() -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits; within a process they ascend."""
    global _last_uuid
    milliseconds = time.time_ns() // 1_000_000
    bits = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    with _uuid_lock:
        if bits <= _last_uuid:  # the same millisecond: count on from the last one (62 random bits leave room)
            bits = _last_uuid + 1
        _last_uuid = bits
    return str(uuid.UUID(int=bits))


_last_uuid = 0
_uuid_lock = threading.Lock()


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC, also on SQLite, which forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse local times, store UTC."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time without zone: {value}")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Put the zone back."""
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Base(DeclarativeBase):
    """All tables, with constraint names that a migration can refer to."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcTime, dict[str, Any]: JSON, list[Any]: JSON, str: String}  # noqa: RUF012


_ID = String(200)  # ours have 36 characters; imported prompts bring their own


def _id() -> Mapped[str]:
    return mapped_column(_ID, primary_key=True, default=uuid7)


def _reference(target: str, *, on_delete: str = "CASCADE", nullable: bool = False, doc: str = "") -> Mapped[Any]:
    return mapped_column(_ID, ForeignKey(target, ondelete=on_delete), index=True, nullable=nullable, doc=doc)


class User(Base):
    """Whoever labels or gives feedback: a person, or a simulated labeler marked as such."""

    __tablename__ = "users"
    id: Mapped[str] = _id()
    display_name: Mapped[str] = mapped_column(unique=True, doc="the labeler's name in records")
    email_ci: Mapped[str | None] = mapped_column(unique=True, doc="lower case")
    role: Mapped[str] = mapped_column(default="labeler", doc="admin, lead, moderator, labeler, user")
    status: Mapped[str] = mapped_column(default="active", doc="invited, active, suspended, deleted")
    is_simulated: Mapped[bool] = mapped_column(default=False, doc="a program that plays a labeler")
    created_at: Mapped[datetime] = mapped_column(default=now)


class PromptRow(Base):
    """A chat that ends where the assistant should answer. `id` is the record's own id."""

    __tablename__ = "prompts"
    id: Mapped[str] = _id()
    source: Mapped[str] = mapped_column(default="")
    source_user_hash: Mapped[str] = mapped_column(default="", index=True, doc="who wrote it; splits are by this")
    kind: Mapped[str] = mapped_column(default="plain", doc="plain, few_shot, user_based")
    messages: Mapped[list[Any]] = mapped_column(doc="[{role, content}, ...], ends where the assistant should answer")
    lang: Mapped[str | None]
    category: Mapped[str | None]
    split: Mapped[str | None] = mapped_column(doc="train, val, test")
    dedupe_key: Mapped[str] = mapped_column(String(64), index=True, doc="SHA-256 of the messages")
    state: Mapped[str] = mapped_column(default="approved", doc="new, approved, rejected, retired")
    created_at: Mapped[datetime] = mapped_column(default=now)


class LabelProject(Base):
    """A labeling job: its guide, its questions and how many people see each task."""

    __tablename__ = "label_projects"
    id: Mapped[str] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str] = mapped_column(default="ranking", doc="ranking, demonstration, pairwise, metadata")
    guide_md: Mapped[str] = mapped_column(Text, default="", doc="what labelers are told")
    guide_version: Mapped[int] = mapped_column(default=1)
    label_schema: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="the questions about each answer")
    schema_version: Mapped[int] = mapped_column(default=1)
    k_min: Mapped[int] = mapped_column(default=2)
    k_max: Mapped[int] = mapped_column(default=9)
    overlap: Mapped[int] = mapped_column(default=1, doc="people per task")
    lease_minutes: Mapped[int] = mapped_column(default=45, doc="how long a claimed task is kept for its labeler")
    state: Mapped[str] = mapped_column(default="open")
    lang: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class ModelAlias(Base):
    """A name people use for whichever version is live."""

    __tablename__ = "models"
    alias: Mapped[str] = mapped_column(primary_key=True)
    active_version_id: Mapped[str | None] = _reference("model_versions.id", on_delete="SET NULL", nullable=True)


class RunRow(Base):
    """One run of a recipe."""

    __tablename__ = "runs"
    id: Mapped[str] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    stage: Mapped[str] = mapped_column(default="", doc="the command")
    status: Mapped[str] = mapped_column(default="finished")
    config: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="as in config.yaml")
    git_sha: Mapped[str] = mapped_column(default="")
    seed: Mapped[int | None]
    data_export_id: Mapped[str | None] = _reference(
        "exports.id", on_delete="SET NULL", nullable=True, doc="the snapshot it read"
    )
    started_at: Mapped[datetime] = mapped_column(default=now)


class ModelVersion(Base):
    """A checkpoint that answered, ranked or was trained: who made what from which data."""

    __tablename__ = "model_versions"
    id: Mapped[str] = _id()
    name: Mapped[str] = mapped_column(unique=True, doc="folder or alias, as in records")
    kind: Mapped[str] = mapped_column(default="", doc="base, sft, rm, policy")
    parent_id: Mapped[str | None] = _reference(
        "model_versions.id", on_delete="SET NULL", nullable=True, doc="what it was trained from"
    )
    reward_model_id: Mapped[str | None] = _reference(
        "model_versions.id", on_delete="SET NULL", nullable=True, doc="what its policy was trained against"
    )
    run_id: Mapped[str | None] = _reference("runs.id", on_delete="SET NULL", nullable=True)
    data_export_id: Mapped[str | None] = _reference(
        "exports.id", on_delete="SET NULL", nullable=True, doc="the snapshot it learned from"
    )
    path: Mapped[str] = mapped_column(default="")
    sha256: Mapped[str] = mapped_column(String(64), default="", doc="of model.safetensors")
    round: Mapped[int] = mapped_column(default=0, doc="of the loop")
    eval: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="figures")
    state: Mapped[str] = mapped_column(default="staged", doc="staged, live, retired")
    created_at: Mapped[datetime] = mapped_column(default=now)


class LabelTask(Base):
    """One prompt to be labeled by `target` people."""

    __tablename__ = "label_tasks"
    __table_args__ = (Index("ix_label_tasks_queue", "project_id", "state", "priority", "shuffle_key"),)
    id: Mapped[str] = _id()
    project_id: Mapped[str] = _reference("label_projects.id")
    prompt_id: Mapped[str] = _reference("prompts.id")
    type: Mapped[str] = mapped_column(default="ranking")
    state: Mapped[str] = mapped_column(default="open", doc="open, complete, review, cancelled")
    round: Mapped[int] = mapped_column(default=0, doc="of the loop, in which the answers were sampled")
    priority: Mapped[int] = mapped_column(default=0, doc="higher goes first")
    target: Mapped[int] = mapped_column(default=1, doc="people who shall submit")
    n_active: Mapped[int] = mapped_column(default=0, doc="claims in hand")
    n_submitted: Mapped[int] = mapped_column(default=0)
    n_skipped: Mapped[int] = mapped_column(default=0)
    is_gold: Mapped[bool] = mapped_column(default=False)
    gold: Mapped[dict[str, Any] | None] = mapped_column(JSON, doc="the expected answer of a test task")
    dedupe_key: Mapped[str] = mapped_column(
        String(64), unique=True, doc="SHA-256 of project, round, prompt and answers"
    )
    shuffle_key: Mapped[float] = mapped_column(doc="order within a priority, in [0, 1)")
    created_at: Mapped[datetime] = mapped_column(default=now)
    completed_at: Mapped[datetime | None]


class TaskCandidate(Base):
    """One answer to be ranked."""

    __tablename__ = "task_candidates"
    __table_args__ = (UniqueConstraint("task_id", "position"),)
    id: Mapped[str] = _id()
    task_id: Mapped[str] = _reference("label_tasks.id")
    position: Mapped[int] = mapped_column(doc="as sampled, from 0; labelers see another order")
    text: Mapped[str] = mapped_column(Text)
    model_version_id: Mapped[str | None] = _reference("model_versions.id", on_delete="SET NULL", nullable=True)
    is_human: Mapped[bool] = mapped_column(default=False)
    finished: Mapped[bool] = mapped_column(default=True, doc="false if the token limit cut it")
    token_ids: Mapped[list[Any]] = mapped_column(default=list, doc="as sampled, end token included")
    sampling: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="temperature")


class Assignment(Base):
    """One person at one task. `slot` is NULL once the place is free again (expired or skipped)."""

    __tablename__ = "assignments"
    __table_args__ = (UniqueConstraint("task_id", "user_id"), UniqueConstraint("task_id", "slot"))
    id: Mapped[str] = _id()
    task_id: Mapped[str] = _reference("label_tasks.id")
    user_id: Mapped[str | None] = _reference(
        "users.id", on_delete="SET NULL", nullable=True, doc="NULL once the person is deleted"
    )
    slot: Mapped[int | None] = mapped_column(doc="0 to target - 1; NULL when free again")
    state: Mapped[str] = mapped_column(default="assigned", doc="assigned, drafting, submitted, expired, skipped")
    permutation: Mapped[list[Any]] = mapped_column(doc="positions in the order shown")
    schema_version: Mapped[int] = mapped_column(default=1)
    guide_version: Mapped[int] = mapped_column(default=1)
    lease_until: Mapped[datetime | None]
    draft: Mapped[dict[str, Any] | None] = mapped_column(JSON, doc="what was filled in so far")
    draft_rev: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime] = mapped_column(default=now)
    active_ms: Mapped[int | None] = mapped_column(doc="time spent on it")
    submitted_at: Mapped[datetime | None]
    skip_reason: Mapped[str | None]


class DemonstrationRow(Base):
    """An answer a person wrote (InstructGPT step 1)."""

    __tablename__ = "demonstrations"
    __table_args__ = (UniqueConstraint("prompt_id", "author", "completion_sha256"),)
    id: Mapped[str] = _id()
    assignment_id: Mapped[str | None] = _reference("assignments.id", on_delete="SET NULL", nullable=True)
    prompt_id: Mapped[str] = _reference("prompts.id")
    completion: Mapped[str] = mapped_column(Text)
    completion_sha256: Mapped[str] = mapped_column(String(64))
    author: Mapped[str] = mapped_column(default="", doc="the labeler's name")
    state: Mapped[str] = mapped_column(default="accepted", doc="submitted, accepted, rejected")
    created_at: Mapped[datetime] = mapped_column(default=now)


class RankingRow(Base):
    """A submitted ranking; the ranks are in `ranking_items`."""

    __tablename__ = "rankings"
    id: Mapped[str] = _id()
    assignment_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("assignments.id", ondelete="CASCADE"), unique=True, index=True
    )
    task_id: Mapped[str] = _reference("label_tasks.id")
    cannot_rank: Mapped[bool] = mapped_column(default=False, doc="the labeler says that no order is possible")
    comment: Mapped[str] = mapped_column(Text, default="")
    source: Mapped[str] = mapped_column(default="ranking", doc="ranking, simulated, import")
    state: Mapped[str] = mapped_column(
        default="accepted", doc="submitted, accepted, rejected; training reads accepted ones"
    )
    created_at: Mapped[datetime] = mapped_column(default=now)


class RankingItem(Base):
    """The rank of one candidate: dense, 1 is best, equal is a tie."""

    __tablename__ = "ranking_items"
    ranking_id: Mapped[str] = mapped_column(_ID, ForeignKey("rankings.id", ondelete="CASCADE"), primary_key=True)
    candidate_id: Mapped[str] = mapped_column(
        _ID, ForeignKey("task_candidates.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    rank: Mapped[int] = mapped_column(doc="dense, 1 is best, equal is a tie")


class MetadataLabel(Base):
    """One answer to one question of the label schema. No value at all: shown, but not answered."""

    __tablename__ = "metadata_labels"
    __table_args__ = (
        UniqueConstraint("assignment_id", "candidate_id", "key"),
        Index(
            "uq_metadata_labels_prompt",
            "assignment_id",
            "key",
            unique=True,
            sqlite_where=text("candidate_id IS NULL"),
            postgresql_where=text("candidate_id IS NULL"),
        ),
    )
    id: Mapped[str] = _id()
    assignment_id: Mapped[str] = _reference("assignments.id")
    candidate_id: Mapped[str | None] = _reference("task_candidates.id", nullable=True, doc="NULL: about the prompt")
    key: Mapped[str] = mapped_column(doc="of the label schema")
    value_num: Mapped[float | None]
    value_bool: Mapped[bool | None] = mapped_column(doc="NULL: not answered")
    value_text: Mapped[str | None]


class Export(Base):
    """A frozen snapshot that training read: which rows, and the hash that proves it."""

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("kind", "sha256"),)
    id: Mapped[str] = _id()
    kind: Mapped[str] = mapped_column(doc="sft, rm_rankings, rm_pairs, prompts, feedback, raw")
    filter: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="which rows were chosen")
    n_rows: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64), doc="of the file")
    path: Mapped[str] = mapped_column(default="", doc="where it was written first")
    schema_version: Mapped[int] = mapped_column(default=1)
    frozen_at: Mapped[datetime] = mapped_column(default=now)


# Migration 0002: what users of the chat say


class ComparisonRow(Base):
    """Two answers side by side, from the chat or an evaluation."""

    __tablename__ = "comparisons"
    id: Mapped[str] = _id()
    source: Mapped[str] = mapped_column(default="compare", doc="compare, regenerate, eval")
    prompt_id: Mapped[str] = _reference("prompts.id")
    a_text: Mapped[str] = mapped_column(Text)
    b_text: Mapped[str] = mapped_column(Text)
    a_model_version_id: Mapped[str | None] = _reference("model_versions.id", on_delete="SET NULL", nullable=True)
    b_model_version_id: Mapped[str | None] = _reference("model_versions.id", on_delete="SET NULL", nullable=True)
    left_is_a: Mapped[bool | None] = mapped_column(doc="what was shown on the left")
    outcome: Mapped[str] = mapped_column(doc="a, b, tie, both_bad")
    strength: Mapped[int | None]
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    group_id: Mapped[str] = mapped_column(default="", doc="pairs of a group are never split")
    user_id: Mapped[str | None] = _reference("users.id", on_delete="SET NULL", nullable=True)
    dedupe_key: Mapped[str] = mapped_column(String(64), unique=True, doc="SHA-256 of the pair")
    created_at: Mapped[datetime] = mapped_column(default=now)


class MessageFeedback(Base):
    """A thumb, its reasons and perhaps a better answer; `message_id` names the chat's message where there is one."""

    __tablename__ = "message_feedback"
    __table_args__ = (UniqueConstraint("message_id", "user_id"),)
    id: Mapped[str] = _id()
    message_id: Mapped[str] = mapped_column(_ID, doc="of the chat, else SHA-256 of prompt and answer")
    prompt_id: Mapped[str] = _reference("prompts.id")
    completion: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str | None] = _reference("users.id", on_delete="SET NULL", nullable=True)
    value: Mapped[int] = mapped_column(doc="-1 or 1")
    reasons: Mapped[list[Any]] = mapped_column(default=list, doc="tags")
    comment: Mapped[str] = mapped_column(Text, default="")
    better_answer: Mapped[str] = mapped_column(Text, default="", doc="what the user would have liked")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
