"""What a chat gives to training, if its owner has said so: votes, thumbs, better answers, the sibling gone on with.

`publish` compares the chat's consent with what training sees and makes them agree; it is called after every vote, thumb
and new message, and when consent changes. Without consent nothing of a chat is outside the chat's own tables.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from wuya.feedback.chats import ChatComparison as Given
from wuya.feedback.chats import chat_prompt, replace_chat, withdraw_chat
from wuya.records import Feedback, Message, Prompt
from wuya.web.chat import views
from wuya.web.chat.tree import Tree
from wuya.web.tables import ChatComparison, ChatFeedback, ChatMessage, Conversation

Rows = Mapping[str, RowMapping]


def publish(connection: Connection, conversation_id: str, *, secret: bytes) -> None:
    """Bring what training sees of a conversation up to date with its consent and its content."""
    query = select(Conversation.__table__).where(Conversation.id == conversation_id)
    conversation = connection.execute(query).mappings().one()
    if not conversation["data_use"]:
        withdraw(connection, conversation_id)
        return
    tree = views.tree_of(connection, conversation_id)
    messages = select(ChatMessage.__table__).where(ChatMessage.conversation_id == conversation_id)
    rows = {row["id"]: row for row in connection.execute(messages).mappings()}
    thumbs = select(ChatFeedback.__table__).where(ChatFeedback.message_id.in_(list(rows)))
    votes = select(ChatComparison.__table__).where(ChatComparison.conversation_id == conversation_id)
    author = author_hash(conversation["user_id"], secret)

    def prompt(message_id: str | None) -> Prompt:
        system = conversation["system_prompt"]
        path = [Message("system", system)] if system else []
        path += [Message(rows[id]["role"], rows[id]["content"]) for id in tree.path(message_id)]
        return chat_prompt(path, author=author)

    opinions = {
        row["message_id"]: row for row in connection.execute(thumbs).mappings() if _usable(rows[row["message_id"]])
    }
    compared = [row for row in connection.execute(votes).mappings() if row["outcome"]]
    blind = {id for row in compared for id in (row["a_message_id"], row["b_message_id"])}
    given = [*_votes(compared, rows, prompt), *_better_answers(opinions, rows, prompt)]
    given += _siblings(tree, rows, opinions, blind, prompt)
    feedback = [
        (id, Feedback(prompt(rows[id]["parent_id"]), rows[id]["content"], row["value"], tuple(row["reasons"]),
                      row["comment"], row["better_answer"]))
        for id, row in opinions.items()
    ]  # fmt: skip
    replace_chat(connection, conversation_id, list(rows), given, feedback)


def withdraw(connection: Connection, conversation_id: str) -> None:
    """Take back all that a conversation gave."""
    query = select(ChatMessage.id).where(ChatMessage.conversation_id == conversation_id)
    withdraw_chat(connection, conversation_id, list(connection.execute(query).scalars()))


def author_hash(user_id: str, secret: bytes) -> str:
    """The same for all chats of a person, and no way back without the server's key."""
    return hmac.new(secret, f"author {user_id}".encode(), hashlib.sha256).hexdigest()[:16]


def _votes(compared: Iterable[RowMapping], rows: Rows, prompt: Any) -> Iterable[Given]:
    for row in compared:
        a, b = rows[row["a_message_id"]], rows[row["b_message_id"]]
        if _usable(a) and _usable(b):
            yield Given(
                prompt=prompt(row["parent_id"]), a_text=a["content"], b_text=b["content"], outcome=row["outcome"],
                source="compare", a_model=a["model_alias"], b_model=b["model_alias"], left_is_a=row["left_is_a"],
                strength=row["strength"], reasons=tuple(row["reasons"]),
            )  # fmt: skip


def _better_answers(opinions: Mapping[str, RowMapping], rows: Rows, prompt: Any) -> Iterable[Given]:
    for id, opinion in opinions.items():
        better = opinion["better_answer"].strip()
        if better and better != rows[id]["content"].strip():
            yield Given(
                prompt=prompt(rows[id]["parent_id"]), a_text=better, b_text=rows[id]["content"], outcome="a",
                source="better_answer", b_model=rows[id]["model_alias"],
            )  # fmt: skip


def _siblings(
    tree: Tree, rows: Rows, opinions: Mapping[str, RowMapping], blind: set[str], prompt: Any
) -> Iterable[Given]:
    """Of several answers the one a person went on with, or the one they wrote; thumbs speak louder than going on."""
    for parent, children in tree.children.items():
        answers = [id for id in children if rows[id]["role"] == "assistant" and _usable(rows[id]) and id not in blind]
        chosen = _chosen(answers, tree, rows, opinions)
        if chosen is None:
            continue
        written = not rows[chosen]["model_alias"]
        for id in answers:
            if id != chosen and rows[id]["content"].strip() != rows[chosen]["content"].strip():
                yield Given(
                    prompt=prompt(parent), a_text=rows[chosen]["content"], b_text=rows[id]["content"], outcome="a",
                    source="edit" if written else "regenerate", a_model=rows[chosen]["model_alias"],
                    b_model=rows[id]["model_alias"],
                )  # fmt: skip


def _chosen(answers: list[str], tree: Tree, rows: Rows, opinions: Mapping[str, RowMapping]) -> str | None:
    """The one answer that stands out, None if none or several do."""
    if len(answers) < 2:
        return None
    liked = [id for id in answers if id in opinions and opinions[id]["value"] > 0]
    disliked = {id for id in answers if id in opinions and opinions[id]["value"] < 0}
    written = [id for id in answers if not rows[id]["model_alias"]]
    continued = [id for id in answers if id in tree.children and id not in disliked]
    for candidates in (liked, written[-1:], continued):
        if candidates:
            return candidates[0] if len(candidates) == 1 else None
    return None


def _usable(row: RowMapping) -> bool:
    """Whole, not hidden by a moderator, and not empty."""
    return row["status"] == "complete" and not row["hidden_by_moderation"] and bool(row["content"].strip())
