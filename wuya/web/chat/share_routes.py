"""Shares, export and import over HTTP; the chat's own page and the page of a share."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Depends, Request, Response
from starlette.responses import StreamingResponse

from wuya.database.base import now
from wuya.database.connection import reading, writing
from wuya.web import openapi, pages
from wuya.web.accounts.auth import Viewer, current_viewer, require
from wuya.web.chat import chat_files, schema, shares, store, transfer, transfer_store, views
from wuya.web.chat.conversation_routes import Cursor, Limit
from wuya.web.chat.import_desk import ImportDesk, Ticket
from wuya.web.routing import Router
from wuya.web.service import Service, service_of

router = Router(tags=["chat"])
Chatter = Annotated[Viewer, Depends(require("chat"))]
TheService = Annotated[Service, Depends(service_of)]
IMPORT_MESSAGES = 2000
"""Messages per transaction, about a tenth of a second; a longer chat is one transaction by itself."""
NOINDEX = {"x-robots-tag": "noindex, nofollow"}


@router.get("/chat", include_in_schema=False)
@router.get("/chat/{id}", include_in_schema=False)
def chat_page(request: Request, viewer: Chatter, id: str = "") -> Response:
    """The chat page; its script asks the API for everything."""
    return pages.render(request, "chat.html", viewer, area="chat", data={"conversation": id})


@router.get("/s/{id}", include_in_schema=False)
def share_page(id: str, request: Request, service: TheService) -> Response:
    """A share, readable without a script; never in a search engine."""
    viewer = current_viewer(request)
    signed_in = viewer is not None and viewer.may("chat")
    with reading(service.database) as connection:  # drawing takes time: no write lock is held meanwhile
        shown = shares.public(connection, id, signed_in=signed_in)
    with writing(service.database) as connection:
        shares.count_view(connection, id)
    return pages.render(request, "share.html", viewer, data={"share": id}, headers=NOINDEX, share=shown)


@router.post("/api/conversations/{id}/share", status_code=201)
def share(id: str, body: schema.NewShare, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Freeze the path and give it an address."""
    with writing(service.database) as connection:
        return shares.share(connection, id, viewer.user_id, body)


@router.get("/api/shares")
def my_shares(viewer: Chatter, service: TheService, limit: Limit = 40, cursor: Cursor = "") -> dict[str, Any]:
    """One's shares, the latest first."""
    with reading(service.database) as connection:
        items, after = shares.mine(connection, viewer.user_id, limit=limit, cursor=cursor)
    return {"items": items, "next": after}


@router.delete("/api/shares/{id}", status_code=204)
def revoke(id: str, viewer: Chatter, service: TheService) -> Response:
    """Nobody can read it from now on."""
    with writing(service.database) as connection:
        shares.revoke(connection, id, viewer.user_id)
    return Response(status_code=204)


@router.get("/api/shares/{id}")
def read_share(id: str, request: Request, service: TheService) -> dict[str, Any]:
    """What a share shows."""
    viewer = current_viewer(request)
    with reading(service.database) as connection:
        return shares.public(connection, id, signed_in=viewer is not None and viewer.may("chat"))


@router.post("/api/shares/{id}/fork", status_code=201)
def fork_share(id: str, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Go on with it in one's own account."""
    with writing(service.database) as connection:
        new = shares.fork(connection, id, viewer.user_id)
    with reading(service.database) as connection:
        return views.conversation(connection, store.owned(connection, new, viewer.user_id), viewer.user_id)


@router.get(
    "/api/conversations/{id}/export",
    response_class=Response,
    responses=openapi.of_kinds("application/json", "text/markdown"),
)
def export(id: str, viewer: Chatter, service: TheService, format: Literal["md", "json"] = "json") -> Response:
    """One chat as a file: the shown path as Markdown, or the whole tree as JSON."""
    with reading(service.database) as connection:
        row = store.owned(connection, id, viewer.user_id)
        if format == "md":
            text = transfer.to_markdown(transfer_store.path_as_json(connection, row))
        else:
            chat = transfer_store.as_json(connection, row, viewer.user_id)
            text = json.dumps(transfer.to_json([chat], at=now()), ensure_ascii=False, indent=1)
    kind = "text/markdown" if format == "md" else "application/json"
    return Response(text.encode(errors="replace"), headers=_attachment(row["title"] or "chat", format), media_type=kind)


@router.get("/api/export", response_class=StreamingResponse)
def export_all(viewer: Chatter, service: TheService) -> Response:
    """All one's chats as a file, one at a time out of the database."""
    with reading(service.database) as connection:
        ids = transfer_store.ids_of(connection, viewer.user_id)

    def parts() -> Iterator[bytes]:
        head = json.dumps(transfer.to_json([], at=now()))
        yield head.removesuffix("]}").encode()
        first = True
        for id in ids:
            with reading(service.database) as connection:
                row = store.find(connection, id, viewer.user_id)
                chat = transfer_store.as_json(connection, row, viewer.user_id) if row else None
            if chat is not None:
                yield (b"" if first else b",\n") + json.dumps(chat, ensure_ascii=False).encode(errors="replace")
                first = False
        yield b"]}\n"

    return StreamingResponse(parts(), media_type="application/json", headers=_attachment("chats", "json"))


@router.post("/api/import", status_code=201)
async def import_chats(request: Request, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Chats of a file: ours, ChatGPT's or Open WebUI's. What is here already is skipped.

    Imports take turns. A file is looked through before anything of it is kept; should the service end in the middle,
    the same file again adds the rest.
    """
    is_markdown = request.headers.get("content-type", "").startswith("text/")
    async with service.get(ImportDesk).take(request, viewer.user_id) as ticket:
        return await asyncio.to_thread(_import, service, ticket, is_markdown=is_markdown)


@router.get("/api/import")
def import_status(viewer: Chatter, service: TheService) -> dict[str, Any]:
    """How far one's import is: `uploading`, `waiting` behind `before` others, `reading`, or `none`."""
    return service.get(ImportDesk).status(viewer.user_id)


def _import(service: Service, ticket: Ticket, *, is_markdown: bool) -> dict[str, Any]:
    contents = chat_files.look_through(ticket.file, is_markdown=is_markdown)
    ticket.chats = contents.chats
    new: list[dict[str, str]] = []
    chats = chat_files.read_chats(ticket.file, contents)
    for part in chat_files.in_parts(chats, messages=IMPORT_MESSAGES):  # short transactions: others write too
        with writing(service.database) as connection:
            new += transfer_store.write(connection, ticket.user_id, part, source=contents.form)
        ticket.kept += len(part)
    skipped = contents.skipped + contents.chats - len(new)
    return {"imported": len(new), "skipped": skipped, "format": contents.form, "conversations": new[:100]}


def _attachment(title: str, ending: str) -> dict[str, str]:
    """Headers of a download; the name is the title, plain for old programs and whole for new ones."""
    name = " ".join(re.sub(r"[\\/:*?\"<>|\x00-\x1f\x7f]", " ", title).split())[:80] or "chat"
    plain = re.sub(r"[^A-Za-z0-9 _.-]", "_", name)
    disposition = f"attachment; filename=\"{plain}.{ending}\"; filename*=UTF-8''{quote(name)}.{ending}"
    return {"content-disposition": disposition}
