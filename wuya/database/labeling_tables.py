"""The database of people and queues: tables of labeling, models and exports (docs/reference/schema.md).

Ids are UUIDv7 (they sort by time), times are UTC, every foreign key is indexed. JSON columns hold what no query looks
into. An unanswered question is NULL, never false. Only `feedback/` and the `store.py` of each web area import this.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from wuya.database.base import ID, Base, UtcTime, id_column, now, reference, uuid7

__all__ = ["HEAD", "Base", "UtcTime", "now", "uuid7"]

HEAD = "0006"
"""The newest migration; a test holds it to the files in migrations/versions."""


class User(Base):
    """Whoever labels or gives feedback: a person, or a simulated labeler marked as such."""

    __tablename__ = "users"
    id: Mapped[str] = id_column()
    display_name: Mapped[str] = mapped_column(unique=True, doc="the labeler's name in records")
    email_ci: Mapped[str | None] = mapped_column(unique=True, doc="lower case")
    role: Mapped[str] = mapped_column(default="labeler", doc="admin, lead, moderator, labeler, user")
    status: Mapped[str] = mapped_column(default="active", doc="invited, active, suspended, deleted")
    is_simulated: Mapped[bool] = mapped_column(default=False, doc="a program that plays a labeler")
    password_hash: Mapped[str | None] = mapped_column(doc="argon2id; NULL: can't sign in with a password")
    locale: Mapped[str] = mapped_column(default="", doc="language of the pages; empty: the browser's")
    theme: Mapped[str] = mapped_column(default="", doc="auto, light, dark")
    prefs: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="settings of the pages")
    data_use: Mapped[bool] = mapped_column(default=False, doc="new chats may be used for training")
    totp_secret_enc: Mapped[str | None] = mapped_column(doc="second factor, encrypted")
    last_seen_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class PromptRow(Base):
    """A chat that ends where the assistant should answer. `id` is the record's own id."""

    __tablename__ = "prompts"
    id: Mapped[str] = id_column()
    source: Mapped[str] = mapped_column(default="")
    source_user_hash: Mapped[str] = mapped_column(default="", index=True, doc="who wrote it; splits are by this")
    kind: Mapped[str] = mapped_column(default="plain", doc="plain, few_shot, user_based")
    messages: Mapped[list[Any]] = mapped_column(doc="[{role, content}, ...], ends where the assistant should answer")
    tools: Mapped[list[Any] | None] = mapped_column(JSON, doc="functions the assistant may call, in OpenAI's form")
    lang: Mapped[str | None]
    category: Mapped[str | None]
    split: Mapped[str | None] = mapped_column(doc="train, val, test")
    dedupe_key: Mapped[str] = mapped_column(String(64), index=True, doc="SHA-256 of the messages")
    pii_state: Mapped[str] = mapped_column(default="", doc="unchecked if empty; clean, masked, suspected")
    state: Mapped[str] = mapped_column(default="approved", doc="new, approved, rejected, retired")
    created_at: Mapped[datetime] = mapped_column(default=now)


class LabelProject(Base):
    """A labeling job: its guide, its questions and how many people see each task."""

    __tablename__ = "label_projects"
    id: Mapped[str] = id_column()
    name: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str] = mapped_column(default="ranking", doc="ranking, demonstration, pairwise, metadata")
    guide_md: Mapped[str] = mapped_column(Text, default="", doc="what labelers are told")
    guide_version: Mapped[int] = mapped_column(default=1)
    label_schema: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="the questions about each answer")
    schema_version: Mapped[int] = mapped_column(default=1)
    k_min: Mapped[int] = mapped_column(default=2)
    k_max: Mapped[int] = mapped_column(default=9)
    overlap: Mapped[int] = mapped_column(default=1, doc="people per task")
    double_rate: Mapped[float] = mapped_column(default=0.15, doc="share of tasks that a second person sees")
    gold_rate: Mapped[float] = mapped_column(default=0.08, doc="share of test tasks in a labeler's queue")
    lease_minutes: Mapped[int] = mapped_column(default=45, doc="how long a claimed task is kept for its labeler")
    require_fields: Mapped[list[Any]] = mapped_column(default=list, doc="keys of the schema that must be answered")
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="quiz_size, pass_score, raise_target, ...")
    state: Mapped[str] = mapped_column(default="open")
    lang: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class ModelAlias(Base):
    """A name people use for whichever version is live."""

    __tablename__ = "models"
    alias: Mapped[str] = mapped_column(primary_key=True)
    active_version_id: Mapped[str | None] = reference("model_versions.id", on_delete="SET NULL", nullable=True)
    canary_version_id: Mapped[str | None] = mapped_column(
        ID, index=True, doc="a new version that some chats get; see web/traffic.py"
    )
    canary_pct: Mapped[int] = mapped_column(default=0, doc="share of the chats that the canary answers, in percent")
    history: Mapped[list[Any]] = mapped_column(default=list, doc="versions that were active before, newest last")


class RunRow(Base):
    """One run of a recipe."""

    __tablename__ = "runs"
    id: Mapped[str] = id_column()
    name: Mapped[str] = mapped_column(unique=True)
    stage: Mapped[str] = mapped_column(default="", doc="the command")
    status: Mapped[str] = mapped_column(default="finished")
    config: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="as in config.yaml")
    git_sha: Mapped[str] = mapped_column(default="")
    seed: Mapped[int | None]
    data_export_id: Mapped[str | None] = reference(
        "exports.id", on_delete="SET NULL", nullable=True, doc="the snapshot it read"
    )
    started_at: Mapped[datetime] = mapped_column(default=now)
    host: Mapped[str] = mapped_column(default="", doc="the machine it runs on")
    note: Mapped[str] = mapped_column(Text, default="", doc="what a person wrote about it")
    owner_id: Mapped[str | None] = mapped_column(ID, index=True, doc="whose run it is")
    heartbeat_at: Mapped[datetime | None] = mapped_column(doc="when it last said anything")


class ModelVersion(Base):
    """A checkpoint that answered, ranked or was trained: who made what from which data."""

    __tablename__ = "model_versions"
    id: Mapped[str] = id_column()
    name: Mapped[str] = mapped_column(unique=True, doc="folder or alias, as in records")
    kind: Mapped[str] = mapped_column(default="", doc="base, sft, rm, policy")
    parent_id: Mapped[str | None] = reference(
        "model_versions.id", on_delete="SET NULL", nullable=True, doc="what it was trained from"
    )
    reward_model_id: Mapped[str | None] = reference(
        "model_versions.id", on_delete="SET NULL", nullable=True, doc="what its policy was trained against"
    )
    run_id: Mapped[str | None] = reference("runs.id", on_delete="SET NULL", nullable=True)
    data_export_id: Mapped[str | None] = reference(
        "exports.id", on_delete="SET NULL", nullable=True, doc="the snapshot it learned from"
    )
    path: Mapped[str] = mapped_column(default="")
    sha256: Mapped[str] = mapped_column(String(64), default="", doc="of model.safetensors")
    round: Mapped[int] = mapped_column(default=0, doc="of the loop")
    eval: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="figures")
    tokenizer_sha: Mapped[str] = mapped_column(String(64), default="", doc="of tokenizer.json")
    ctx_len: Mapped[int] = mapped_column(default=0, doc="tokens")
    note: Mapped[str] = mapped_column(Text, default="", doc="what a person wrote about it")
    state: Mapped[str] = mapped_column(default="staged", doc="staged, live, retired")
    created_at: Mapped[datetime] = mapped_column(default=now)


class LabelTask(Base):
    """One prompt to be labeled by `target` people."""

    __tablename__ = "label_tasks"
    __table_args__ = (
        Index("ix_label_tasks_queue", "project_id", "state", "priority", "shuffle_key"),
        Index(
            "ix_label_tasks_half_done",
            "project_id",
            "priority",
            sqlite_where=text("state = 'open' AND n_submitted > 0"),
            postgresql_where=text("state = 'open' AND n_submitted > 0"),
        ),
    )
    id: Mapped[str] = id_column()
    project_id: Mapped[str] = reference("label_projects.id")
    prompt_id: Mapped[str] = reference("prompts.id")
    type: Mapped[str] = mapped_column(default="ranking")
    state: Mapped[str] = mapped_column(
        default="open", doc="open, paused, complete, adjudication, accepted, review, cancelled"
    )
    round: Mapped[int] = mapped_column(default=0, doc="of the loop, in which the answers were sampled")
    priority: Mapped[int] = mapped_column(default=0, doc="higher goes first")
    target: Mapped[int] = mapped_column(default=1, doc="people who shall submit")
    n_active: Mapped[int] = mapped_column(default=0, doc="claims in hand")
    n_submitted: Mapped[int] = mapped_column(default=0)
    n_skipped: Mapped[int] = mapped_column(default=0)
    is_gold: Mapped[bool] = mapped_column(default=False)
    gold: Mapped[dict[str, Any] | None] = mapped_column(JSON, doc="the expected answer of a test task")
    final_source: Mapped[str | None] = mapped_column(doc="whose ranking counts: agreement, adjudication")
    split: Mapped[str | None] = mapped_column(doc="train, val, test")
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
    id: Mapped[str] = id_column()
    task_id: Mapped[str] = reference("label_tasks.id")
    position: Mapped[int] = mapped_column(doc="as sampled, from 0; labelers see another order")
    text: Mapped[str] = mapped_column(Text)
    model_version_id: Mapped[str | None] = reference("model_versions.id", on_delete="SET NULL", nullable=True)
    is_human: Mapped[bool] = mapped_column(default=False)
    finished: Mapped[bool] = mapped_column(default=True, doc="false if the token limit cut it")
    token_ids: Mapped[list[Any]] = mapped_column(default=list, doc="as sampled, end token included")
    sampling: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="temperature")
    generation_id: Mapped[str | None] = mapped_column(ID, doc="the job that wrote it")


class Assignment(Base):
    """One person at one task. `slot` is NULL once the place is free again (expired or skipped)."""

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("task_id", "user_id"),
        UniqueConstraint("task_id", "slot"),
        Index("ix_assignments_lease", "state", "lease_until"),
    )
    id: Mapped[str] = id_column()
    task_id: Mapped[str] = reference("label_tasks.id")
    user_id: Mapped[str | None] = reference(
        "users.id", on_delete="SET NULL", nullable=True, doc="NULL once the person is deleted"
    )
    slot: Mapped[int | None] = mapped_column(doc="0 to target - 1; NULL when free again")
    state: Mapped[str] = mapped_column(
        default="assigned", doc="assigned, drafting, submitted, accepted, revise, rejected, expired, skipped, final"
    )
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
    signals: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="reading times, pastes, warnings confirmed")


class DemonstrationRow(Base):
    """An answer a person wrote (InstructGPT step 1)."""

    __tablename__ = "demonstrations"
    __table_args__ = (UniqueConstraint("prompt_id", "author", "completion_sha256"),)
    id: Mapped[str] = id_column()
    assignment_id: Mapped[str | None] = reference("assignments.id", on_delete="SET NULL", nullable=True)
    prompt_id: Mapped[str] = reference("prompts.id")
    completion: Mapped[str] = mapped_column(Text)
    completion_sha256: Mapped[str] = mapped_column(String(64))
    author: Mapped[str] = mapped_column(default="", doc="the labeler's name")
    author_hash: Mapped[str] = mapped_column(String(64), default="", doc="keyed hash of the person")
    tokens: Mapped[int | None] = mapped_column(doc="length of the completion")
    revision_of: Mapped[str | None] = mapped_column(ID, doc="the demonstration that this one replaces")
    state: Mapped[str] = mapped_column(default="accepted", doc="submitted, accepted, rejected")
    created_at: Mapped[datetime] = mapped_column(default=now)


class RankingRow(Base):
    """A submitted ranking; the ranks are in `ranking_items`."""

    __tablename__ = "rankings"
    id: Mapped[str] = id_column()
    assignment_id: Mapped[str] = mapped_column(
        ID, ForeignKey("assignments.id", ondelete="CASCADE"), unique=True, index=True
    )
    task_id: Mapped[str] = reference("label_tasks.id")
    cannot_rank: Mapped[bool] = mapped_column(default=False, doc="the labeler says that no order is possible")
    comment: Mapped[str] = mapped_column(Text, default="")
    source: Mapped[str] = mapped_column(default="ranking", doc="ranking, simulated, import")
    author_hash: Mapped[str] = mapped_column(String(64), default="", doc="keyed hash of the person")
    is_final: Mapped[bool] = mapped_column(default=False, doc="an adjudication: it alone counts")
    state: Mapped[str] = mapped_column(
        default="accepted", doc="submitted, accepted, rejected; training reads accepted ones"
    )
    created_at: Mapped[datetime] = mapped_column(default=now)


class RankingItem(Base):
    """The rank of one candidate: dense, 1 is best, equal is a tie."""

    __tablename__ = "ranking_items"
    ranking_id: Mapped[str] = mapped_column(ID, ForeignKey("rankings.id", ondelete="CASCADE"), primary_key=True)
    candidate_id: Mapped[str] = mapped_column(
        ID, ForeignKey("task_candidates.id", ondelete="CASCADE"), primary_key=True, index=True
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
    id: Mapped[str] = id_column()
    assignment_id: Mapped[str] = reference("assignments.id")
    candidate_id: Mapped[str | None] = reference("task_candidates.id", nullable=True, doc="NULL: about the prompt")
    key: Mapped[str] = mapped_column(doc="of the label schema")
    value_num: Mapped[float | None]
    value_bool: Mapped[bool | None] = mapped_column(doc="NULL: not answered")
    value_text: Mapped[str | None]


class Review(Base):
    """What the lead said about a submitted assignment."""

    __tablename__ = "reviews"
    id: Mapped[str] = id_column()
    assignment_id: Mapped[str] = reference("assignments.id")
    reviewer_id: Mapped[str | None] = reference("users.id", on_delete="SET NULL", nullable=True)
    decision: Mapped[str] = mapped_column(doc="accept, revise, reject")
    note: Mapped[str] = mapped_column(Text, default="")
    submission: Mapped[dict[str, Any] | None] = mapped_column(JSON, doc="ranks and labels as they were then")
    created_at: Mapped[datetime] = mapped_column(default=now)


class Qualification(Base):
    """Whether a person may label a project, and how the test tasks went."""

    __tablename__ = "qualifications"
    user_id: Mapped[str] = mapped_column(ID, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(
        ID, ForeignKey("label_projects.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    state: Mapped[str] = mapped_column(default="none", doc="none, in_quiz, passed, failed, paused")
    score: Mapped[float | None] = mapped_column(doc="share of the quiz that was right")
    gold_window: Mapped[list[Any]] = mapped_column(default=list, doc="the last test tasks: right or wrong")
    details: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="consent, answers of the quiz, topics")
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Export(Base):
    """A frozen snapshot that training read: which rows, and the hash that proves it."""

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("kind", "sha256"),)
    id: Mapped[str] = id_column()
    kind: Mapped[str] = mapped_column(doc="sft, rm_rankings, rm_pairs, prompts, feedback, raw")
    filter: Mapped[dict[str, Any]] = mapped_column(default=dict, doc="which rows were chosen")
    n_rows: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64), doc="of the file")
    path: Mapped[str] = mapped_column(default="", doc="where it was written first")
    schema_version: Mapped[int] = mapped_column(default=1)
    frozen_at: Mapped[datetime] = mapped_column(default=now)
    created_by: Mapped[str | None] = mapped_column(ID, index=True, doc="who froze it")


# Migration 0002: what users of the chat say


class ComparisonRow(Base):
    """Two answers side by side, from the chat or an evaluation."""

    __tablename__ = "comparisons"
    id: Mapped[str] = id_column()
    source: Mapped[str] = mapped_column(default="compare", doc="compare, regenerate, eval")
    prompt_id: Mapped[str] = reference("prompts.id")
    a_text: Mapped[str] = mapped_column(Text)
    b_text: Mapped[str] = mapped_column(Text)
    a_model_version_id: Mapped[str | None] = reference("model_versions.id", on_delete="SET NULL", nullable=True)
    b_model_version_id: Mapped[str | None] = reference("model_versions.id", on_delete="SET NULL", nullable=True)
    left_is_a: Mapped[bool | None] = mapped_column(doc="what was shown on the left")
    outcome: Mapped[str] = mapped_column(doc="a, b, tie, both_bad")
    strength: Mapped[int | None]
    reasons: Mapped[list[Any]] = mapped_column(default=list)
    group_id: Mapped[str] = mapped_column(default="", doc="pairs of a group are never split")
    user_id: Mapped[str | None] = reference("users.id", on_delete="SET NULL", nullable=True)
    dedupe_key: Mapped[str] = mapped_column(String(64), unique=True, doc="SHA-256 of the pair")
    prompt_message_id: Mapped[str | None] = mapped_column(ID, index=True, doc="the question in the chat")
    created_at: Mapped[datetime] = mapped_column(default=now)


class MessageFeedback(Base):
    """A thumb, its reasons and perhaps a better answer; `message_id` names the chat's message where there is one."""

    __tablename__ = "message_feedback"
    __table_args__ = (UniqueConstraint("message_id", "user_id"),)
    id: Mapped[str] = id_column()
    message_id: Mapped[str] = mapped_column(ID, doc="of the chat, else SHA-256 of prompt and answer")
    prompt_id: Mapped[str] = reference("prompts.id")
    completion: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str | None] = reference("users.id", on_delete="SET NULL", nullable=True)
    value: Mapped[int] = mapped_column(doc="-1 or 1")
    reasons: Mapped[list[Any]] = mapped_column(default=list, doc="tags")
    comment: Mapped[str] = mapped_column(Text, default="")
    better_answer: Mapped[str] = mapped_column(Text, default="", doc="what the user would have liked")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
