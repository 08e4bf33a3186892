"""Rows as the API shows them: conversations, messages, generations, comparisons."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, exists, func, or_, select

from wuya.database.service_tables import ChatComparison, ChatFeedback, ChatMessage, Generation
from wuya.web.markdown.nodes import Node, marked, render
from wuya.web.tree import Tree, tree_of

Json = dict[str, Any]
Row = RowMapping | Mapping[str, Any]
LIVE = ("queued", "running")
MOST_CHARACTERS = 300_000
"""Of the messages of one answer together, or drawn as Markdown on one page: two seconds at the worst."""


def nodes(text: str) -> list[Node]:
    """Drawing of a text."""
    return render(text)


def drawings(texts: Sequence[str]) -> list[list[Node]]:
    """Drawing of each text; from where they are more than MOST_CHARACTERS together, as plain words."""
    found: list[list[Node]] = []
    left = MOST_CHARACTERS
    for text in texts:
        left -= len(text)
        plain: list[Node] = [{"type": "paragraph", "children": marked(text)}]
        found.append(nodes(text) if left >= 0 or len(found) == 0 else plain)
    return found


def last_of(connection: Connection, path: Sequence[str], limit: int) -> list[str]:
    """The end of a path: at most `limit` messages of MOST_CHARACTERS together, but one at least."""
    ids = list(path[-limit:])
    lengths = select(ChatMessage.id, func.length(ChatMessage.content)).where(ChatMessage.id.in_(ids))
    length_of: dict[str, int] = {id: length for id, length in connection.execute(lengths)}
    total = 0
    for count, id in enumerate(reversed(ids)):
        total += length_of.get(id, 0)
        if total > MOST_CHARACTERS:
            return ids[len(ids) - max(count, 1) :]
    return ids


def time(moment: datetime | None) -> str | None:
    """ISO 8601, UTC."""
    return moment.isoformat().replace("+00:00", "Z") if moment else None


def conversations(connection: Connection, rows: Sequence[RowMapping]) -> list[Json]:
    """Conversations in their list form."""
    ids = [row["id"] for row in rows]
    query = select(Generation.conversation_id, Generation.id).where(Generation.conversation_id.in_(ids))
    active: dict[str, list[str]] = {}
    for conversation, id in connection.execute(query.where(Generation.state.in_(LIVE)).order_by(Generation.id)):
        active.setdefault(str(conversation), []).append(id)
    return [
        {
            "id": row["id"],
            "title": row["title"],
            "model": row["model_alias"],
            "mode": row["mode"],
            "data_use": row["data_use"],
            "archived": row["archived_at"] is not None,
            "trashed": row["deleted_at"] is not None,
            "created_at": time(row["created_at"]),
            "updated_at": time(row["updated_at"]),
            "active_generations": active.get(row["id"], []),
        }
        for row in rows
    ]


def conversation(connection: Connection, row: RowMapping, user_id: str, *, limit: int = 40) -> Json:
    """A conversation with the end of its active path."""
    tree = tree_of(connection, row["id"])
    leaf = row["active_leaf_id"] if row["active_leaf_id"] in tree else tree.last_leaf()
    path = tree.path(leaf)
    shown = last_of(connection, path, limit)
    [summary] = conversations(connection, [row])
    live = select(Generation.__table__, is_blind().label("blind"))
    live = live.where(Generation.conversation_id == row["id"], Generation.state.in_(LIVE))
    return summary | {
        "params": row["params"],
        "system_prompt": row["system_prompt"],
        "active_leaf_id": leaf,
        "messages": messages(connection, shown, tree, user_id),
        "before": shown[0] if len(path) > len(shown) else None,
        "generations": [generation(g) for g in connection.execute(live.order_by(Generation.id)).mappings()],
        "comparisons": comparisons(connection, row["id"], within=set(path)),
    }


def message(connection: Connection, id: str, user_id: str) -> Json:
    """One message."""
    query = select(ChatMessage.conversation_id).where(ChatMessage.id == id)
    tree = tree_of(connection, connection.execute(query).scalar_one())
    return messages(connection, [id], tree, user_id)[0]


def messages(connection: Connection, ids: Sequence[str], tree: Tree, user_id: str) -> list[Json]:
    """Messages in the order of `ids`."""
    if not ids:
        return []
    found = connection.execute(select(ChatMessage.__table__).where(ChatMessage.id.in_(ids))).mappings()
    rows = {row["id"]: row for row in found}
    opinions = select(ChatFeedback.__table__).where(ChatFeedback.message_id.in_(ids), ChatFeedback.user_id == user_id)
    feedback = {row["message_id"]: row for row in connection.execute(opinions).mappings()}
    jobs = select(Generation.__table__).where(Generation.id.in_([r["generation_id"] for r in rows.values()]))
    generations = {row["id"]: row for row in connection.execute(jobs).mappings()}
    pairs = select(ChatComparison.__table__)
    pairs = pairs.where(or_(ChatComparison.a_message_id.in_(ids), ChatComparison.b_message_id.in_(ids)))
    compared = {
        id: row for row in connection.execute(pairs).mappings() for id in (row["a_message_id"], row["b_message_id"])
    }
    ids = [id for id in ids if id in rows]
    contents = ["" if rows[id]["hidden_by_moderation"] else rows[id]["content"] for id in ids]
    drawn = reversed(drawings(contents[::-1]))  # the last ones first: they are what is looked at
    return [
        _message(rows[id], tree, feedback.get(id), generations.get(rows[id]["generation_id"]), compared.get(id))
        | {"content": content, "nodes": nodes}
        for id, content, nodes in zip(ids, contents, drawn, strict=True)
    ]


def _message(
    row: RowMapping,
    tree: Tree,
    feedback: RowMapping | None,
    job: RowMapping | None,
    compared: RowMapping | None,
) -> Json:
    blind = compared is not None and compared["outcome"] is None
    return {
        "id": row["id"],
        "conversation_id": row["conversation_id"],
        "parent_id": row["parent_id"],
        "role": row["role"],
        "status": row["status"],
        "model": None if blind else row["model_alias"] or None,
        "generation_id": row["generation_id"],
        "error_code": row["error_code"],
        "prompt_tokens": None if blind else row["prompt_tokens"],
        "completion_tokens": None if blind else row["completion_tokens"],
        "tps": tokens_per_second(job, row["completion_tokens"]) if job and not blind else None,
        "finish_reason": row["finish_reason"],
        "siblings": list(tree.siblings(row["id"])),
        "feedback": opinion(feedback) if feedback else None,
        "comparison_id": compared["id"] if compared else None,
        "hidden": row["hidden_by_moderation"],
        "created_at": time(row["created_at"]),
    }


def opinion(row: Row) -> Json:
    """A thumb."""
    return {name: row[name] for name in ("value", "reasons", "comment", "better_answer")}


def is_blind() -> ColumnElement[bool]:
    """Whether a generation's message waits for a vote, as a column of a query of generations."""
    sides = or_(
        ChatComparison.a_message_id == Generation.message_id, ChatComparison.b_message_id == Generation.message_id
    )
    pair = exists().where(ChatComparison.conversation_id == Generation.conversation_id, sides)
    return pair.where(ChatComparison.outcome.is_(None))


def generation(row: Row) -> Json:
    """A generation; tokens and reason are the message's and known where it was joined.

    What tells models apart (tokens of the same text, speed, times) is left out until a blind answer has its vote.
    """
    tokens = row.get("completion_tokens") or 0
    shown = _generation(row, tokens)
    return shown | dict.fromkeys(TELLING) if row["blind"] else shown


TELLING = ("prompt_tokens", "completion_tokens", "tps", "started_at", "first_token_at", "ended_at")


def _generation(row: Row, tokens: int) -> Json:
    return {
        "id": row["id"],
        "conversation_id": row["conversation_id"],
        "message_id": row["message_id"],
        "state": row["state"],
        "position": row["queue_pos"],
        "last_seq": row["last_seq"],
        "error_code": row["error_code"],
        "prompt_tokens": row.get("prompt_tokens"),
        "completion_tokens": tokens,
        "tps": tokens_per_second(row, tokens),
        "finish_reason": row.get("finish_reason"),
        "queued_at": time(row["queued_at"]),
        "started_at": time(row["started_at"]),
        "first_token_at": time(row["first_token_at"]),
        "ended_at": time(row["ended_at"]),
    }


def tokens_per_second(job: Row, tokens: int | None) -> float | None:
    """Speed of a finished answer, from its first token on."""
    first, end = job["first_token_at"], job["ended_at"]
    new = (tokens or 0) - int(job["params"].get("base_tokens", 0))
    if not first or not end or new < 2 or end <= first:
        return None
    return round((new - 1) / float((end - first).total_seconds()), 1)


def comparisons(connection: Connection, conversation_id: str, *, within: set[str]) -> list[Json]:
    """Comparisons of a conversation that touch the path."""
    query = select(ChatComparison.__table__).where(ChatComparison.conversation_id == conversation_id)
    rows = [row for row in connection.execute(query.order_by(ChatComparison.id)).mappings()]
    return [comparison(connection, row) for row in rows if row["parent_id"] in within]


def comparison(connection: Connection, row: Row) -> Json:
    """A comparison; names only after the vote."""
    sides = [row["a_message_id"], row["b_message_id"]]
    left, right = sides if row["left_is_a"] else sides[::-1]
    models = None
    if row["outcome"]:
        query = select(ChatMessage.id, ChatMessage.model_alias).where(ChatMessage.id.in_(sides))
        names = {id: alias for id, alias in connection.execute(query)}
        models = {"left": names.get(left), "right": names.get(right)}
    return {
        "id": row["id"],
        "conversation_id": row["conversation_id"],
        "parent_id": row["parent_id"],
        "left": left,
        "right": right,
        "outcome": side_of(row["outcome"], left_is_a=row["left_is_a"]),
        "strength": row["strength"],
        "reasons": row["reasons"],
        "models": models,
    }


def side_of(outcome: str | None, *, left_is_a: bool) -> str | None:
    """left/right <-> a/b (its own inverse); tie and both_bad stay."""
    pairs = {"a": "left", "b": "right"} if left_is_a else {"a": "right", "b": "left"}
    return (pairs | {side: letter for letter, side in pairs.items()}).get(outcome or "", outcome)
