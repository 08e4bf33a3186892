"""What a chat gives to training, if its owner has said so: votes, thumbs, corrected and regenerated answers.

`publish` compares the chat's consent with what training sees and makes them agree; it is called after every vote, thumb
and new message, and when consent changes. Without consent nothing of a chat is outside the chat's own tables.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping

from sqlalchemy import Connection, RowMapping, select

from wuya.database.labeling_tables import ModelVersion
from wuya.database.service_tables import ChatComparison, ChatFeedback, ChatMessage, Conversation, ServiceSetting
from wuya.feedback.chats import ChatComparison as Given
from wuya.feedback.chats import chat_prompt, replace_chat, withdraw_chat
from wuya.feedback.comparisons import ChatMessage as ChatNode
from wuya.feedback.comparisons import comparisons_of_chat
from wuya.records import Feedback, Message, Prompt
from wuya.web.tree import Tree, tree_of

Rows = Mapping[str, RowMapping]


def people_are_asked(connection: Connection) -> bool:
    """Whether this server asks for consent at all; an admin may have said that it does not."""
    chosen = connection.execute(select(ServiceSetting.value).where(ServiceSetting.key == "ask_data_use")).scalar()
    return chosen is None or bool(chosen["value"])


def publish(connection: Connection, conversation_id: str, *, secret: bytes) -> None:
    """Bring what training sees of a conversation up to date with its consent and its content."""
    query = select(Conversation.__table__).where(Conversation.id == conversation_id)
    conversation = connection.execute(query).mappings().one()
    if not (conversation["data_use"] and people_are_asked(connection)):
        withdraw(connection, conversation_id)
        return
    tree = tree_of(connection, conversation_id)
    messages = select(ChatMessage.__table__).where(ChatMessage.conversation_id == conversation_id)
    rows = {row["id"]: row for row in connection.execute(messages).mappings()}
    thumbs = select(ChatFeedback.__table__).where(ChatFeedback.message_id.in_(list(rows)))
    votes = select(ChatComparison.__table__).where(ChatComparison.conversation_id == conversation_id)
    author = author_hash(conversation["user_id"], secret)
    models = _models(connection, rows)

    def prompt(message_id: str | None) -> Prompt:
        system = conversation["system_prompt"]
        path = [Message("system", system)] if system else []
        path += [Message(rows[id]["role"], rows[id]["content"]) for id in tree.path(message_id)]
        return chat_prompt(path, author=author)

    opinions = [row for row in connection.execute(thumbs).mappings() if _usable(rows[row["message_id"]])]
    compared = connection.execute(votes).mappings().all()
    given = [*_votes(compared, rows, models, prompt)]
    given += _siblings(tree, rows, compared, models, conversation["system_prompt"], author)
    feedback = [
        (row["message_id"], Feedback(prompt(rows[row["message_id"]]["parent_id"]), rows[row["message_id"]]["content"],
                                     row["value"], tuple(row["reasons"]), row["comment"], row["better_answer"]))
        for row in opinions
    ]  # fmt: skip
    replace_chat(connection, conversation_id, list(rows), given, feedback)


def refresh(connection: Connection, message_id: str, *, secret: bytes) -> None:
    """Publish anew the conversation of a message: a moderator has hidden it, or shown it again."""
    query = select(ChatMessage.conversation_id).where(ChatMessage.id == message_id)
    conversation_id = connection.execute(query).scalar()
    if conversation_id is not None:
        publish(connection, conversation_id, secret=secret)


def withdraw(connection: Connection, conversation_id: str) -> None:
    """Take back all that a conversation gave."""
    query = select(ChatMessage.id).where(ChatMessage.conversation_id == conversation_id)
    withdraw_chat(connection, conversation_id, list(connection.execute(query).scalars()))


def withdraw_person(connection: Connection, user_id: str) -> None:
    """Take back all that a person's chats gave: they delete their account."""
    consenting = select(Conversation.id).where(Conversation.user_id == user_id, Conversation.data_use)
    for id in list(connection.execute(consenting).scalars()):
        withdraw(connection, id)


def author_hash(user_id: str, secret: bytes) -> str:
    """The same for all chats of a person, and no way back without the server's key."""
    return hmac.new(secret, f"author {user_id}".encode(), hashlib.sha256).hexdigest()[:16]


def _models(connection: Connection, rows: Rows) -> Mapping[str, str]:
    """Who wrote each message: the version where it is known (an alias may have several), else the alias."""
    wanted = {row["model_version_id"] for row in rows.values()} - {None}
    query = select(ModelVersion.id, ModelVersion.name).where(ModelVersion.id.in_(sorted(wanted)))
    names = {id: name for id, name in connection.execute(query)}
    return {id: names.get(row["model_version_id"], row["model_alias"]) for id, row in rows.items()}


def _votes(
    compared: Iterable[RowMapping], rows: Rows, models: Mapping[str, str], prompt: Callable[[str], Prompt]
) -> Iterable[Given]:
    for row in compared:
        a, b = rows[row["a_message_id"]], rows[row["b_message_id"]]
        if row["outcome"] and _usable(a) and _usable(b):
            yield Given(
                prompt=prompt(row["parent_id"]), a_text=a["content"], b_text=b["content"], outcome=row["outcome"],
                source="compare", a_model=models[a["id"]], b_model=models[b["id"]], left_is_a=row["left_is_a"],
                strength=row["strength"], reasons=tuple(row["reasons"]),
            )  # fmt: skip


def _siblings(
    tree: Tree,
    rows: Rows,
    compared: Iterable[RowMapping],
    models: Mapping[str, str],
    system_prompt: str,
    author: str,
) -> Iterable[Given]:
    """Answers a person corrected, and answers asked for again; pairs that were voted on are not counted twice."""
    voted = {frozenset((row["a_message_id"], row["b_message_id"])) for row in compared}
    nodes = [
        ChatNode(id, row["parent_id"], row["role"], row["content"], row["created_at"], _edited_from(tree, rows, id))
        for id, row in rows.items()
    ]
    for pair in comparisons_of_chat(nodes, system_prompt=system_prompt):
        answers = {rows[id]["content"]: rows[id] for id in tree.children[pair.prompt.id]}
        chosen, rejected = answers[pair.chosen], answers[pair.rejected]
        if _usable(chosen) and _usable(rejected) and frozenset((chosen["id"], rejected["id"])) not in voted:
            yield Given(
                prompt=chat_prompt(pair.prompt.messages, author=author), a_text=pair.chosen, b_text=pair.rejected,
                outcome="a", source=pair.source, a_model=models[chosen["id"]], b_model=models[rejected["id"]],
            )  # fmt: skip


def _edited_from(tree: Tree, rows: Rows, id: str) -> str:
    """The model's answer that a person's own one stands beside: the last one before it."""
    if rows[id]["role"] != "assistant" or rows[id]["model_alias"]:
        return ""
    siblings = tree.siblings(id)
    before = [other for other in siblings[: siblings.index(id)] if rows[other]["model_alias"]]
    return str(rows[before[-1]]["content"]) if before else ""


def _usable(row: RowMapping) -> bool:
    """Whole, not hidden by a moderator, and not empty."""
    return row["status"] == "complete" and not row["hidden_by_moderation"] and bool(row["content"].strip())
