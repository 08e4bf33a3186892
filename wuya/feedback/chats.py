"""What people who consented gave in their chats, in the tables that training reads; and out again when they withdraw.

A chat's votes and thumbs live with the chat (service_tables.py). Only with consent does a copy come here, and
everything of one conversation is replaced at once: what is here is always what the conversation gives now, or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, insert, select

from wuya.database.labeling_tables import ComparisonRow, DemonstrationRow, LabelTask, MessageFeedback, PromptRow
from wuya.feedback.bulk import chunks, ensure_models, insert_rows
from wuya.feedback.identity import dedupe_key
from wuya.feedback.rows import messages_to_json
from wuya.files import sha256_json
from wuya.records import Feedback, Message, Prompt

SOURCES = ("compare", "regenerate", "edit")
"""Of the comparisons a chat gives. Those of thumbs and better answers are made of the feedback (`comparisons.py`)."""
PROMPT_SOURCE = "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatComparison:
    """Two answers of a chat to the same messages, and which was better."""

    prompt: Prompt
    a_text: str
    b_text: str
    outcome: str
    """a, b, tie, both_bad"""
    source: str
    a_model: str = ""
    b_model: str = ""
    left_is_a: bool | None = None
    strength: int | None = None
    reasons: tuple[str, ...] = ()


def chat_prompt(messages: Sequence[Message], *, author: str) -> Prompt:
    """The record of a chat up to the message that was answered; the same text is the same prompt."""
    digest = sha256_json([author, messages_to_json(messages)])
    return Prompt(f"chat-{digest[:24]}", tuple(messages), source=PROMPT_SOURCE, author=author)


def replace_chat(
    connection: Connection,
    conversation_id: str,
    message_ids: Sequence[str],
    comparisons: Sequence[ChatComparison],
    opinions: Sequence[tuple[str, Feedback]],
) -> None:
    """Put what a conversation gives in place of what it gave before.

    Args:
        message_ids: every message of the conversation.
        opinions: (message id, feedback) pairs.
    """
    before = _prompts_of(connection, conversation_id, message_ids)
    connection.execute(delete(ComparisonRow).where(*_given_by(conversation_id)))
    for chunk in chunks(message_ids):
        connection.execute(delete(MessageFeedback).where(MessageFeedback.message_id.in_(chunk)))
    prompts = {p.id: p for p in [*(c.prompt for c in comparisons), *(f.prompt for _, f in opinions)]}
    _ensure_prompts(connection, prompts)
    models = ensure_models(connection, {name for c in comparisons for name in (c.a_model, c.b_model)})
    rows = {}
    for c in comparisons:
        key = sha256_json([conversation_id, c.source, c.prompt.id, c.a_text, c.b_text])
        rows[key] = {
            "dedupe_key": key,
            "source": c.source,
            "prompt_id": c.prompt.id,
            "a_text": c.a_text,
            "b_text": c.b_text,
            "a_model_version_id": models.get(c.a_model),
            "b_model_version_id": models.get(c.b_model),
            "left_is_a": c.left_is_a,
            "outcome": c.outcome,
            "strength": c.strength,
            "reasons": list(c.reasons),
            "group_id": conversation_id,
        }
    insert_rows(connection, ComparisonRow, list(rows.values()))
    insert_rows(
        connection,
        MessageFeedback,
        [
            {
                "message_id": id,
                "prompt_id": f.prompt.id,
                "completion": f.completion,
                "value": f.value,
                "reasons": list(f.reasons),
                "comment": f.comment,
                "better_answer": f.better_answer,
            }
            for id, f in opinions
        ],
    )
    _forget_prompts(connection, before - prompts.keys())


def withdraw_chat(connection: Connection, conversation_id: str, message_ids: Sequence[str]) -> None:
    """Take everything back that a conversation gave. Snapshots frozen before keep what they hold."""
    replace_chat(connection, conversation_id, message_ids, [], [])


def _given_by(conversation_id: str) -> tuple[ColumnElement[bool], ...]:
    return ComparisonRow.group_id == conversation_id, ComparisonRow.source.in_(SOURCES)


def _prompts_of(connection: Connection, conversation_id: str, message_ids: Sequence[str]) -> set[str]:
    found = set(connection.execute(select(ComparisonRow.prompt_id).where(*_given_by(conversation_id))).scalars())
    for chunk in chunks(message_ids):
        rated = select(MessageFeedback.prompt_id).where(MessageFeedback.message_id.in_(chunk))
        found |= set(connection.execute(rated).scalars())
    return found


def _ensure_prompts(connection: Connection, prompts: dict[str, Prompt]) -> None:
    """New ones wait for a lead to approve them: what a person typed is not yet a prompt for labelers."""
    known = set(connection.execute(select(PromptRow.id).where(PromptRow.id.in_(prompts))).scalars())
    for prompt in prompts.values():
        if prompt.id not in known:
            messages = messages_to_json(prompt.messages)
            connection.execute(
                insert(PromptRow).values(
                    id=prompt.id,
                    source=prompt.source,
                    source_user_hash=prompt.author,
                    messages=messages,
                    dedupe_key=dedupe_key(prompt),
                    state="new",
                )
            )


def _forget_prompts(connection: Connection, ids: set[str]) -> None:
    """Remove prompts that nothing refers to any more."""
    if not ids:
        return
    used: set[str] = set()
    for table in (ComparisonRow, MessageFeedback, DemonstrationRow, LabelTask):
        used |= set(connection.execute(select(table.prompt_id).where(table.prompt_id.in_(ids))).scalars())
    connection.execute(delete(PromptRow).where(PromptRow.id.in_(ids - used), PromptRow.source == PROMPT_SOURCE))
