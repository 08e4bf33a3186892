"""`/api/conversations`: list, make, change, delete; consent; search."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Response
from sqlalchemy import select

from wuya.database.base import now
from wuya.database.connection import reading, writing
from wuya.database.service_tables import ChatMessage, Conversation
from wuya.web.accounts.auth import Viewer, require
from wuya.web.chat import answers, messages, schema, search, search_store, shares, store, views
from wuya.web.chat.jobs import GenerationHub
from wuya.web.errors import ApiError
from wuya.web.routing import Router
from wuya.web.service import Service, service_of
from wuya.web.traffic import models_of
from wuya.web.tree import tree_of

router = Router(prefix="/api", tags=["chat"])
Chatter = Annotated[Viewer, Depends(require("chat"))]
TheService = Annotated[Service, Depends(service_of)]
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str, Query(max_length=400)]


@router.get("/chat/config")
def config(viewer: Chatter, service: TheService) -> dict[str, Any]:
    """What the chat page must know: models, parameters, reasons, limits."""
    models = models_of(service.engine)
    longest = max((model.context_length for model in models), default=0)
    with reading(service.database) as connection:
        sharing = shares.is_on(connection)
    params = schema.PARAMS | {"max_tokens": schema.PARAMS["max_tokens"] | {"max": longest or 1_000_000}}
    return {
        "models": [{"alias": model.alias, "context_length": model.context_length} for model in models],
        "default_model": answers.default_model(service) if models else "",
        "params": params,
        "reasons": schema.REASONS,
        "system_prompts": schema.SYSTEM_PROMPTS,
        "limits": {
            "content_bytes": messages.CONTENT_BYTES,
            "title_chars": store.TITLE_CHARS,
            "path_messages": messages.PATH_MESSAGES,
            "search_chars": search.MAX_QUERY,
            "page": 200,
        },
        "data_use_default": viewer.data_use,
        "sharing": sharing,
    }


@router.get("/conversations")
def list_conversations(
    viewer: Chatter,
    service: TheService,
    state: Literal["active", "archived", "trash"] = "active",
    model: Annotated[str, Query(max_length=200)] = "",
    rated: Literal["", "good", "bad"] = "",
    start: Annotated[datetime | None, Query(alias="from")] = None,
    end: Annotated[datetime | None, Query(alias="to")] = None,
    limit: Limit = 40,
    cursor: Cursor = "",
) -> dict[str, Any]:
    """One's chats, the latest first."""
    for moment in (start, end):
        if moment is not None and not store.is_sound(moment):
            raise ApiError(422, "invalid_value", "write the time with its zone, as 2026-11-22T00:00:00Z")
    wanted = store.Listing(state, model, rated, start, end)
    with reading(service.database) as connection:
        rows, after = store.listing(connection, viewer.user_id, wanted, limit=limit, cursor=cursor)
        return {"items": views.conversations(connection, rows), "next": after}


@router.post("/conversations", status_code=201)
def create_conversation(body: schema.NewConversation, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """A new chat. Whether it may be used for training is the person's own default, which is off at first."""
    model = answers.known_model(service, body.model) if body.model else ""
    data_use = viewer.data_use if body.data_use is None else body.data_use
    with writing(service.database) as connection:
        id = store.create(
            connection, viewer.user_id, title=body.title, model_alias=model, params=body.params.given(),
            system_prompt=body.system_prompt, mode=body.mode, data_use=data_use,
        )  # fmt: skip
    return get_conversation(id, viewer, service)


@router.get("/conversations/{id}")
def get_conversation(id: str, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """A chat with the end of its active path."""
    with reading(service.database) as connection:
        return views.conversation(connection, store.owned(connection, id, viewer.user_id), viewer.user_id)


@router.patch("/conversations/{id}")
def change_conversation(
    id: str, body: schema.ConversationChange, viewer: Chatter, service: TheService
) -> dict[str, Any]:
    """Rename, set model and parameters, give or withdraw consent, archive, trash, switch branches."""
    given = body.model_dump(exclude_unset=True, exclude={"params", "archived", "trashed", "model"})
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if body.params is not None:
        values["params"] = body.params.given()
    if body.model is not None:
        values["model_alias"] = answers.known_model(service, body.model) if body.model else ""
    if body.archived is not None:
        values["archived_at"] = now() if body.archived else None
    if body.trashed is not None:
        values["deleted_at"] = now() if body.trashed else None
    with writing(service.database) as connection:
        row = store.owned(connection, id, viewer.user_id, lock=True)
        if body.active_leaf_id is not None and body.active_leaf_id not in tree_of(connection, id):
            raise ApiError(404, "not_found", "there is no such message in this conversation", param="active_leaf_id")
        store.change(connection, row, values, secret=service.settings.secret)
    return get_conversation(id, viewer, service)


@router.delete("/conversations/{id}", status_code=204)
async def delete_conversation(id: str, viewer: Chatter, service: TheService, permanent: bool = False) -> Response:
    """To the trash; from there, or with `permanent`, for good."""

    def trash() -> bool:
        with writing(service.database) as connection:
            row = store.owned(connection, id, viewer.user_id, lock=True)
            if not permanent and row["deleted_at"] is None:
                store.change(connection, row, {"deleted_at": now()}, secret=service.settings.secret)
                return False
            return True

    if await asyncio.to_thread(trash):
        await _delete_for_good(service, viewer, [id])
    return Response(status_code=204)


@router.post("/conversations/bulk")
async def bulk(body: schema.Bulk, viewer: Chatter, service: TheService) -> dict[str, int]:
    """The same for many chats; others' are passed over."""
    if body.action == "delete":
        return {"changed": await _delete_for_good(service, viewer, body.ids)}

    def act() -> int:
        with writing(service.database) as connection:
            return len(store.in_bulk(connection, viewer.user_id, body.ids, body.action))

    return {"changed": await asyncio.to_thread(act)}


@router.put("/conversations/data_use")
def set_data_use(body: schema.DataUse, viewer: Chatter, service: TheService) -> dict[str, int]:
    """Consent for all one's chats, or its withdrawal."""
    with writing(service.database) as connection:
        changed = store.set_data_use(connection, viewer.user_id, body.data_use, secret=service.settings.secret)
    return {"changed": changed}


@router.get("/conversations/{id}/messages")
def list_messages(
    id: str,
    viewer: Chatter,
    service: TheService,
    before: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 40,
) -> dict[str, Any]:
    """The path above a message, or the end of the active path."""
    with reading(service.database) as connection:
        row = store.owned(connection, id, viewer.user_id)
        shown, after, tree = messages.path_above(connection, id, before, row["active_leaf_id"], limit)
        return {"items": views.messages(connection, shown, tree, viewer.user_id), "next": after}


@router.post("/conversations/{id}/fork", status_code=201)
def fork_conversation(id: str, body: schema.Fork, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """A copy of one path as a chat of its own."""
    with writing(service.database) as connection:
        row = store.owned(connection, id, viewer.user_id)
        tree = tree_of(connection, id)
        leaf = body.leaf_id or row["active_leaf_id"] or tree.last_leaf()
        if leaf is not None and leaf not in tree:
            raise ApiError(404, "not_found", "there is no such message in this conversation", param="leaf_id")
        path = messages.frozen(connection, tree.path(leaf))
        copy = messages.copy_path(
            connection, viewer.user_id, path, title=row["title"], model_alias=row["model_alias"],
            params=row["params"], system_prompt=row["system_prompt"], data_use=row["data_use"],
        )  # fmt: skip
    return get_conversation(copy, viewer, service)


@router.get("/search")
def find(
    viewer: Chatter,
    service: TheService,
    q: Annotated[str, Query(max_length=search.MAX_QUERY)],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str, Query(max_length=10, pattern="^[0-9]*$")] = "",
) -> dict[str, Any]:
    """Messages and titles with these words, the newest first."""
    offset = int(cursor or 0)
    with reading(service.database) as connection:
        hits = search_store.find(connection, viewer.user_id, q, limit=limit + 1, offset=offset)
        after = str(offset + limit) if len(hits) > limit else None
        hits = hits[:limit]
        titles = select(Conversation.id, Conversation.title, Conversation.created_at)
        chats = {row.id: row for row in connection.execute(
            titles.where(Conversation.id.in_([h.conversation_id for h in hits])))}  # fmt: skip
        texts = select(ChatMessage.id, ChatMessage.role, ChatMessage.content, ChatMessage.created_at)
        found = {row.id: row for row in connection.execute(
            texts.where(ChatMessage.id.in_([h.message_id for h in hits])))}  # fmt: skip
    items = []
    for hit in hits:
        chat, message = chats[hit.conversation_id], found.get(hit.message_id)
        items.append(
            {
                "conversation_id": hit.conversation_id,
                "title": chat.title,
                "message_id": message.id if message else None,
                "role": message.role if message else None,
                "snippet": search.snippet(message.content if message else chat.title, q),
                "created_at": views.time(message.created_at if message else chat.created_at),
            }
        )
    return {"items": items, "next": after}


@router.post("/tokenize")
async def tokenize(body: schema.Tokenize, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """For the context meter."""
    return await answers.count_tokens(service, viewer.user_id, body)


async def _delete_for_good(service: Service, viewer: Viewer, ids: list[str]) -> int:
    """Stop what is being written in these chats, then remove them."""

    def live() -> list[str]:
        with reading(service.database) as connection:
            own = select(Conversation.id).where(Conversation.user_id == viewer.user_id, Conversation.id.in_(ids))
            return store.live_generations(connection, list(connection.execute(own).scalars()))

    hub = service.get(GenerationHub)
    for id in await asyncio.to_thread(live):
        await hub.stop_and_wait(id, by=viewer.user_id)

    def delete() -> int:
        with writing(service.database) as connection:
            return len(store.in_bulk(connection, viewer.user_id, ids, "delete"))

    return await asyncio.to_thread(delete)
