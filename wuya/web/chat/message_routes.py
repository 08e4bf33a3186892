"""`/api/messages` and `/api/generations`: say, answer, edit, regenerate, go on, stop, watch, rate, vote."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from sqlalchemy import Connection, RowMapping
from starlette.responses import StreamingResponse

from wuya.database.base import uuid7
from wuya.database.connection import reading, writing
from wuya.web import consent
from wuya.web.accounts.auth import Viewer, require
from wuya.web.chat import answers, ledger, messages, opinions, schema, store, views
from wuya.web.chat.answers import Plan, Text
from wuya.web.chat.job import Job
from wuya.web.chat.jobs import GenerationHub
from wuya.web.errors import ApiError
from wuya.web.moderation.moderator import moderator_of
from wuya.web.routing import Router
from wuya.web.service import Service, service_of
from wuya.web.tree import tree_of

router = Router(prefix="/api", tags=["chat"])
Chatter = Annotated[Viewer, Depends(require("chat"))]
TheService = Annotated[Service, Depends(service_of)]
STREAMS_PER_USER = 8


@router.post("/conversations/{id}/messages", status_code=201)
async def send_message(id: str, body: schema.NewMessage, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Say something, and (with `generate`) have it answered. A retry with the same `id` gives what is there."""
    messages.check_content(body.content)
    known = await asyncio.to_thread(_sent_before, service, viewer, id, body)
    if known is not None:
        return known
    await _moderate(service, viewer, body.content)
    return await _say(service, viewer, id, body.parent_id, body.content, body.generate, new_id=body.id)


@router.post("/messages/{id}/edit", status_code=201)
async def edit_message(id: str, body: schema.Edit, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Another version of a message beside it; an answer's is written by a person."""
    messages.check_content(body.content)
    row = await asyncio.to_thread(_owned_message, service, viewer, id)
    await _moderate(service, viewer, body.content)
    if row["role"] == "user":
        return await _say(service, viewer, row["conversation_id"], row["parent_id"], body.content, body.generate)

    def write() -> dict[str, Any]:
        with writing(service.database) as connection:
            store.owned(connection, row["conversation_id"], viewer.user_id, lock=True)
            new = messages.add(connection, row["conversation_id"], row["parent_id"], "assistant", body.content)
            store.touch(connection, row["conversation_id"], active_leaf_id=new)
            consent.publish(connection, row["conversation_id"], secret=service.settings.secret)
        return _shown(service, viewer, row["conversation_id"], said=new)

    return await asyncio.to_thread(write)


@router.post("/messages/{id}/generate", status_code=202)
async def generate(id: str, body: schema.Generate, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Answer a message; for an answer: another one beside it."""
    row = await asyncio.to_thread(_owned_message, service, viewer, id)
    asked = id if row["role"] == "user" else row["parent_id"]
    if asked is None:
        raise ApiError(422, "invalid_value", "there is no message before this answer")
    conversation, path = await asyncio.to_thread(_load, service, viewer, row["conversation_id"], asked)
    plan = await answers.plan(service, service.get(GenerationHub), viewer.user_id, conversation, path, body)
    return await _carry_out(service, viewer, plan, asked)


@router.post("/messages/{id}/continue", status_code=202)
async def go_on(id: str, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Write on where an answer was cut."""
    row = await asyncio.to_thread(_owned_message, service, viewer, id)
    conversation, path = await asyncio.to_thread(_load, service, viewer, row["conversation_id"], id)
    if await asyncio.to_thread(_is_blind, service, row):
        raise ApiError(409, "vote_first", "vote between the two answers first, then one of them can be continued")
    hub = service.get(GenerationHub)
    plan = await answers.plan_continuation(service, hub, viewer.user_id, conversation, path, row)
    return await _carry_out(service, viewer, plan, row["parent_id"])


@router.post("/messages/{id}/select")
def select_branch(id: str, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Show the branch that this message is on, down to its newest leaf."""
    with writing(service.database) as connection:
        row = messages.owned(connection, id, viewer.user_id)
        tree = tree_of(connection, row["conversation_id"])
        leaf = tree.newest_leaf(id)
        store.set_leaf(connection, row["conversation_id"], leaf)
    path = tree.path(leaf)
    with reading(service.database) as connection:
        shown = views.messages(connection, path[path.index(id) :], tree, viewer.user_id)
    return {"active_leaf_id": leaf, "messages": shown}


@router.get("/messages/{id}")
def get_message(id: str, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """One message."""
    with reading(service.database) as connection:
        messages.owned(connection, id, viewer.user_id)
        return views.message(connection, id, viewer.user_id)


@router.put("/messages/{id}/feedback")
def rate(id: str, body: schema.Opinion, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """A thumb with reasons, and perhaps a better answer."""
    with writing(service.database) as connection:
        return opinions.rate(connection, id, viewer.user_id, body, secret=service.settings.secret)


@router.delete("/messages/{id}/feedback", status_code=204)
def unrate(id: str, viewer: Chatter, service: TheService) -> Response:
    """Take it back."""
    with writing(service.database) as connection:
        opinions.unrate(connection, id, viewer.user_id, secret=service.settings.secret)
    return Response(status_code=204)


@router.post("/comparisons")
def vote(body: schema.Vote, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Which of two answers is better; then the names are shown."""
    with writing(service.database) as connection:
        return opinions.vote(connection, viewer.user_id, body, secret=service.settings.secret)


@router.get("/generations/{id}")
def get_generation(id: str, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """How far an answer is."""
    with reading(service.database) as connection:
        return views.generation(ledger.generation(connection, id, viewer.user_id))


@router.post("/generations/{id}/stop", status_code=202)
async def stop(id: str, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """End an answer and keep what is there; before the first token too, and as often as one likes."""

    def find() -> dict[str, Any]:
        with reading(service.database) as connection:
            return views.generation(ledger.generation(connection, id, viewer.user_id))

    await asyncio.to_thread(find)
    await service.get(GenerationHub).stop(id, by=viewer.user_id)
    return await asyncio.to_thread(find)


@router.get("/generations/{id}/events", response_class=StreamingResponse)
async def events(
    id: str,
    request: Request,
    viewer: Chatter,
    service: TheService,
    last_event_id: Annotated[str, Query(max_length=300)] = "",
) -> StreamingResponse:
    """The answer as it is written (server-sent events); after `Last-Event-ID` only what is new."""

    def check() -> None:
        with reading(service.database) as connection:
            ledger.generation(connection, id, viewer.user_id)

    await asyncio.to_thread(check)
    hub = service.get(GenerationHub)
    if hub.streams.get(viewer.user_id, 0) >= STREAMS_PER_USER:
        raise ApiError(429, "too_many_streams", f"at most {STREAMS_PER_USER} open streams", retry_after=2)
    last = _sequence(id, request.headers.get("last-event-id") or last_event_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_stream(hub, id, viewer.user_id, last), media_type="text/event-stream", headers=headers)


async def _stream(hub: GenerationHub, id: str, user_id: str, last: int | None) -> AsyncIterator[bytes]:
    hub.streams[user_id] = hub.streams.get(user_id, 0) + 1
    if hub.meter:
        hub.meter.metrics.sse_clients.inc()
    try:
        async with aclosing(hub.events(id, last)) as found:
            async for event in found:
                if event is None:
                    yield b": ping\n\n"
                else:
                    data = json.dumps(event.data, ensure_ascii=False, separators=(",", ":"))
                    head = f"id: {id}:{event.seq}\nevent: {event.name}\n"
                    yield f"{head}data: {data}\n\n".encode(errors="replace")
    finally:
        if hub.meter:
            hub.meter.metrics.sse_clients.dec()
        hub.streams[user_id] -= 1
        if not hub.streams[user_id]:
            del hub.streams[user_id]


def _sequence(id: str, last_event_id: str) -> int | None:
    """The number in `<generation>:<seq>`; None for another generation's, or for none."""
    generation, _, number = last_event_id.rpartition(":")
    return int(number) if generation == id and number.isdecimal() and len(number) < 12 else None


async def _say(
    service: Service, viewer: Viewer, id: str, parent_id: str | None, content: str, options: schema.Generate | None,
    *, new_id: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A person's message below `parent_id`, and answers to it if `options` are given."""
    conversation, path = await asyncio.to_thread(_load, service, viewer, id, parent_id)
    message_id = new_id or uuid7()
    plan = None
    if options is not None:
        asked: Text = {"id": message_id, "role": "user", "content": content}
        hub = service.get(GenerationHub)
        plan = await answers.plan(service, hub, viewer.user_id, conversation, [*path, asked], options)

    def add(connection: Connection) -> None:
        locked = store.owned(connection, id, viewer.user_id, lock=True)
        messages.check_parent(tree_of(connection, id), parent_id)
        if messages.find(connection, message_id) is not None:
            raise ApiError(409, "duplicate_id", "there is a message with this id already", param="id")
        messages.add(connection, id, parent_id, "user", content, id=message_id)
        if not locked["title"]:
            values = {"title": store.auto_title(content)}
            store.change(connection, locked, values, secret=service.settings.secret)
        store.touch(connection, id, active_leaf_id=message_id, deleted_at=None)

    if plan is not None:
        return await _carry_out(service, viewer, plan, message_id, first=add, said=message_id)

    def write() -> dict[str, Any]:
        with writing(service.database) as connection:
            add(connection)
        return _shown(service, viewer, id, said=message_id)

    return await asyncio.to_thread(write)


async def _carry_out(
    service: Service, viewer: Viewer, plan: Plan, parent_id: str, *, first: Any = None, said: str = ""
) -> dict[str, Any]:
    """Write the rows in one transaction, start the jobs, and tell the page."""

    def write() -> tuple[list[Job], str | None]:
        with writing(service.database) as connection:
            if first is not None:
                first(connection)
            else:
                store.owned(connection, plan.conversation["id"], viewer.user_id, lock=True)
            return answers.carry_out(connection, plan, viewer.user_id, parent_id, secret=service.settings.secret)

    jobs, comparison = await asyncio.to_thread(write)
    ids, chat = [job.message_id for job in jobs], plan.conversation["id"]
    answer = await asyncio.to_thread(_shown, service, viewer, chat, ids=ids, comparison=comparison, said=said)
    for job in jobs:
        service.get(GenerationHub).start(job)
    return answer


def _shown(
    service: Service,
    viewer: Viewer,
    conversation_id: str,
    *,
    said: str,
    ids: Sequence[str] = (),
    comparison: str | None = None,
) -> dict[str, Any]:
    """What the page needs after a write, drawn once the write is over: drawing long texts takes seconds."""
    with reading(service.database) as connection:
        answer = answers.started(connection, ids, comparison, viewer.user_id, conversation_id)
        return ({"message": views.message(connection, said, viewer.user_id)} if said else {}) | answer


async def _moderate(service: Service, viewer: Viewer, content: str) -> None:
    """Refuse what a rule of this server blocks; the moderators' queue learns whose it was, not what."""
    check = moderator_of(service).check_input
    await asyncio.to_thread(check, content, user_id=viewer.user_id, message_id=viewer.user_id, subject="user")


def _load(service: Service, viewer: Viewer, id: str, leaf: str | None) -> tuple[RowMapping, Sequence[Text]]:
    """A conversation and the texts of the path that ends with `leaf`."""
    with reading(service.database) as connection:
        row = store.owned(connection, id, viewer.user_id)
        tree = tree_of(connection, id)
        messages.check_parent(tree, leaf)
        return row, messages.texts(connection, tree.path(leaf))


def _owned_message(service: Service, viewer: Viewer, id: str) -> RowMapping:
    with reading(service.database) as connection:
        return messages.owned(connection, id, viewer.user_id)


def _is_blind(service: Service, row: RowMapping) -> bool:
    with reading(service.database) as connection:
        return row["id"] in messages.undecided(connection, [row["parent_id"]])


def _sent_before(service: Service, viewer: Viewer, id: str, body: schema.NewMessage) -> dict[str, Any] | None:
    """The answer to the first try, if this is a retry."""
    if body.id is None:
        return None
    with reading(service.database) as connection:
        store.owned(connection, id, viewer.user_id)
        row = messages.find(connection, body.id)
        if row is None:
            return None
        if row["conversation_id"] != id or row["content"] != body.content or row["role"] != "user":
            raise ApiError(409, "duplicate_id", "there is another message with this id", param="id")
        children = tree_of(connection, id).children.get(body.id, [])
        pairs = [c for c in views.comparisons(connection, id, within={body.id}) if c["parent_id"] == body.id]
        answer = answers.started(connection, children, pairs[0]["id"] if pairs else None, viewer.user_id, id)
        return {"message": views.message(connection, body.id, viewer.user_id)} | answer
