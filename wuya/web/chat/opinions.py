"""Thumbs, and votes between two answers: written with the chat, and given to training only with consent."""

import random
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from wuya.database.base import now, uuid7
from wuya.database.service_tables import ChatComparison, ChatFeedback, ChatMessage, Conversation
from wuya.web import consent
from wuya.web.chat import messages, schema, store, views
from wuya.web.errors import ApiError
from wuya.web.tree import tree_of


def rate(
    connection: Connection, message_id: str, user_id: str, body: schema.Opinion, *, secret: bytes
) -> dict[str, Any]:
    """Write a thumb; the same person's earlier one on this message is replaced."""
    row = messages.owned(connection, message_id, user_id)
    if row["role"] != "assistant":
        raise ApiError(422, "invalid_value", "only answers can be rated")
    if row["status"] == "streaming":
        raise ApiError(409, "still_streaming", "wait for the end of the answer, or stop it")
    values = body.model_dump() | {"updated_at": now()}
    mine = ChatFeedback.message_id == message_id, ChatFeedback.user_id == user_id
    if connection.execute(select(ChatFeedback.id).where(*mine)).scalar():
        connection.execute(update(ChatFeedback).where(*mine).values(**values))
    else:
        connection.execute(insert(ChatFeedback).values(message_id=message_id, user_id=user_id, **values))
    consent.publish(connection, row["conversation_id"], secret=secret)
    return body.model_dump()


def unrate(connection: Connection, message_id: str, user_id: str, *, secret: bytes) -> None:
    """Take a thumb back."""
    row = messages.owned(connection, message_id, user_id)
    mine = ChatFeedback.message_id == message_id, ChatFeedback.user_id == user_id
    connection.execute(delete(ChatFeedback).where(*mine))
    consent.publish(connection, row["conversation_id"], secret=secret)


def begin_comparison(connection: Connection, conversation_id: str, parent_id: str, sides: tuple[str, str]) -> str:
    """Two answers to be compared; who stands on the left is drawn by chance and kept. Its id."""
    id = uuid7()
    connection.execute(
        insert(ChatComparison).values(
            id=id, conversation_id=conversation_id, parent_id=parent_id, a_message_id=sides[0], b_message_id=sides[1],
            left_is_a=random.SystemRandom().random() < 0.5,
        )
    )  # fmt: skip
    return id


def find_comparison(connection: Connection, id: str) -> dict[str, Any]:
    """A comparison as the API shows it."""
    query = select(ChatComparison.__table__).where(ChatComparison.id == id)
    return views.comparison(connection, connection.execute(query).mappings().one())


def vote(connection: Connection, user_id: str, body: schema.Vote, *, secret: bytes) -> dict[str, Any]:
    """Write which answer was better; the chat goes on with it."""
    query = (
        select(ChatComparison.__table__)
        .join(Conversation, Conversation.id == ChatComparison.conversation_id)
        .where(ChatComparison.id == body.comparison_id, Conversation.user_id == user_id)
    )
    row = connection.execute(query).mappings().first()
    if row is None:
        raise ApiError(404, "not_found", "there is no such comparison")
    sides = [row["a_message_id"], row["b_message_id"]]
    states = connection.execute(select(ChatMessage.status).where(ChatMessage.id.in_(sides))).scalars()
    if "streaming" in states:
        raise ApiError(409, "still_streaming", "vote when both answers have ended, or stop them")
    outcome = views.side_of(body.outcome, left_is_a=row["left_is_a"])
    values = {"outcome": outcome, "strength": body.strength, "reasons": body.reasons, "voted_at": now()}
    connection.execute(update(ChatComparison).where(ChatComparison.id == row["id"]).values(**values))
    left = sides[0] if row["left_is_a"] else sides[1]
    winner = {"a": sides[0], "b": sides[1]}.get(outcome or "", left)
    tree = tree_of(connection, row["conversation_id"])
    store.touch(connection, row["conversation_id"], active_leaf_id=tree.newest_leaf(winner))
    consent.publish(connection, row["conversation_id"], secret=secret)
    return find_comparison(connection, row["id"])
