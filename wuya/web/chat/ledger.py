"""The rows of generations and the messages they write: progress, end, and what a killed process left behind."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from wuya.database.base import now
from wuya.database.labeling_tables import User
from wuya.database.service_tables import ChatMessage, Conversation, Generation
from wuya.web.chat import search_store, views
from wuya.web.chat.job import Job, ServerEvent
from wuya.web.chat.journal import apply_pieces
from wuya.web.errors import ApiError

LIVE = ("queued", "running")
STATUS = {"done": "complete", "stopped": "stopped", "failed": "error"}
"""Of the message, by the state its generation ended in."""
HEARTBEAT_SECONDS = 15.0
"""A process that was silent for so long is dead."""
PER_USER = 2
"""Answers that one process writes at once for one person."""
WAITING_PER_USER = 4


@dataclass(frozen=True, slots=True)
class Progress:
    """What the database is to know of a running job."""

    id: str
    message_id: str
    text: str
    tokens: int
    prompt_tokens: int | None
    state: str
    seq: int
    started_at: datetime | None
    first_token_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> "Progress":
        """The job as it is now."""
        return cls(**{name: getattr(job, name) for name in cls.__dataclass_fields__})


def begin(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write generations that are about to start."""
    connection.execute(insert(Generation), [dict(row) | {"heartbeat_at": now()} for row in rows])


def too_many() -> ApiError:
    """What a person is told who asks for more answers than can be written for them."""
    message = "your earlier answers are still being written; stop one, or wait for it"
    return ApiError(429, "too_many_generations", message, retry_after=2)


def admit(connection: Connection, user_id: str, count: int) -> None:
    """Like `GenerationHub.admit`, over all web processes; two of them can't count at the same moment."""
    connection.execute(select(User.id).where(User.id == user_id).with_for_update())
    alive = Generation.heartbeat_at >= now() - timedelta(seconds=HEARTBEAT_SECONDS)
    live = select(func.count()).where(Generation.state.in_(LIVE), Generation.user_id == user_id, alive)
    if (connection.execute(live).scalar() or 0) + count > PER_USER + WAITING_PER_USER:
        raise too_many()


def save(connection: Connection, progress: Iterable[Progress], running: Sequence[str]) -> dict[str, str]:
    """Texts so far, and a sign of life for all running jobs. Who asked (elsewhere) for which of them to stop.

    Jobs that have ended since keep their end: `finish` may have been faster.
    """
    at = now()
    for p in progress:  # the generation before its message, as `finish` does: in another order the two could deadlock
        generation = update(Generation).where(Generation.id == p.id, Generation.state.in_(LIVE))
        connection.execute(
            generation.values(last_seq=p.seq, state=p.state, started_at=p.started_at, first_token_at=p.first_token_at)
        )
        message = update(ChatMessage).where(ChatMessage.id == p.message_id, ChatMessage.status == "streaming")
        connection.execute(message.values(content=p.text, completion_tokens=p.tokens, prompt_tokens=p.prompt_tokens))
    connection.execute(update(Generation).where(Generation.id.in_(running)).values(heartbeat_at=at))
    asked = select(Generation.id, Generation.cancelled_by).where(Generation.id.in_(running))
    return {id: by or "" for id, by in connection.execute(asked.where(Generation.cancel_requested_at.is_not(None)))}


def finish(connection: Connection, job: Job) -> None:
    """The end of a job: text, state and reason; the message can be searched for from now on."""
    at = now()
    connection.execute(
        update(Generation)
        .where(Generation.id == job.id)
        .values(state=job.state, error_code=job.error_code, last_seq=job.seq, ended_at=at, cancelled_by=job.stopped_by,
                started_at=job.started_at, first_token_at=job.first_token_at)
    )  # fmt: skip
    connection.execute(
        update(ChatMessage)
        .where(ChatMessage.id == job.message_id)
        .values(content=job.text, status=STATUS[job.state], finish_reason=job.finish_reason, error_code=job.error_code,
                prompt_tokens=job.prompt_tokens, completion_tokens=job.tokens, hidden_by_moderation=job.is_hidden)
    )  # fmt: skip
    connection.execute(update(Conversation).where(Conversation.id == job.conversation_id).values(updated_at=at))
    search_store.index_message(connection, job.conversation_id, job.message_id, job.text)


def recover(connection: Connection, pieces: Mapping[str, list[tuple[int, str]]], *, everything: bool) -> int:
    """End the jobs of dead processes as `engine_lost`, with all text they had shown; how many.

    Args:
        pieces: from the journals of dead processes, by generation.
        everything: this is the only process, so no job can be alive; otherwise those whose heartbeat stopped are dead.
    """
    dead = select(Generation.__table__).where(Generation.state.in_(LIVE), Generation.message_id.is_not(None))
    if not everything:
        limit = now() - timedelta(seconds=HEARTBEAT_SECONDS)
        dead = dead.where((Generation.heartbeat_at < limit) | Generation.id.in_(list(pieces)))
    rows = connection.execute(dead.with_for_update(skip_locked=True)).mappings().all()  # not one that is just ending
    for row in rows:
        text = connection.execute(select(ChatMessage.content).where(ChatMessage.id == row["message_id"])).scalar() or ""
        text = apply_pieces(text, pieces.get(row["id"], []))
        stopped = row["cancel_requested_at"] is not None or row["cancelled_by"] is not None
        state, code = ("stopped", None) if stopped else ("failed", "engine_lost")
        connection.execute(
            update(Generation).where(Generation.id == row["id"]).values(state=state, error_code=code, ended_at=now())
        )
        connection.execute(
            update(ChatMessage)
            .where(ChatMessage.id == row["message_id"])
            .values(content=text, status=STATUS[state], error_code=code, finish_reason="cancelled" if stopped else None)
        )
        search_store.index_message(connection, row["conversation_id"], row["message_id"], text)
    orphans = update(ChatMessage).where(ChatMessage.status == "streaming")
    live = select(Generation.id).where(Generation.state.in_(LIVE))
    orphans = orphans.where(ChatMessage.generation_id.is_(None) | ChatMessage.generation_id.not_in(live))
    connection.execute(orphans.values(status="error", error_code="engine_lost"))
    return len(rows)


def ask_to_stop(connection: Connection, id: str, by: str) -> None:
    """Let the process that runs the job know; it looks twice a second."""
    job = update(Generation).where(Generation.id == id, Generation.state.in_(LIVE))
    connection.execute(job.values(cancel_requested_at=now(), cancelled_by=by))


def generation(connection: Connection, id: str, user_id: str) -> RowMapping:
    """A generation of this person's chats. Raises: ApiError 404."""
    row = _row(connection, id)
    if row is None or row["owner"] != user_id:
        raise ApiError(404, "not_found", "there is no such generation")
    return row


def as_event(connection: Connection, id: str) -> ServerEvent:
    """A job of another process (or of the past) as the event its viewer should get now."""
    row = _row(connection, id)
    if row is None:
        return ServerEvent(0, "error", {"code": "not_found", "retryable": False, "message": None})
    if row["state"] in LIVE:
        content = select(ChatMessage.content, ChatMessage.completion_tokens).where(ChatMessage.id == row["message_id"])
        text, tokens = connection.execute(content).one()
        nodes = views.nodes(text)
        return ServerEvent(
            row["last_seq"],
            "snapshot",
            {"text": text, "n": None if row["blind"] else tokens or 0, "nodes": nodes, "state": row["state"]},
        )
    message = message_for_viewers(connection, row["message_id"], row["owner"])
    if row["state"] == "failed":
        data = {"code": row["error_code"], "retryable": True, "message": message}
        return ServerEvent(row["last_seq"], "error", data)
    return ServerEvent(row["last_seq"], "final", {"message": message, "finish_reason": message["finish_reason"]})


def message_for_viewers(connection: Connection, message_id: str, user_id: str) -> dict[str, Any]:
    """The finished message as the API shows it."""
    return views.message(connection, message_id, user_id)


def _row(connection: Connection, id: str) -> RowMapping | None:
    query = (
        select(Generation.__table__, Conversation.user_id.label("owner"), ChatMessage.completion_tokens,
               ChatMessage.prompt_tokens, ChatMessage.finish_reason, views.is_blind().label("blind"))
        .join(Conversation, Conversation.id == Generation.conversation_id)
        .join(ChatMessage, ChatMessage.id == Generation.message_id)
        .where(Generation.id == id)
    )  # fmt: skip
    return connection.execute(query).mappings().first()
