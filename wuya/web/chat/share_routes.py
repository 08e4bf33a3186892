"""Shares, export and import over HTTP; the chat's own page and the page of a share."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from wuya.feedback.database import reading, writing
from wuya.web import pages
from wuya.web.accounts.auth import Viewer, current_viewer, require
from wuya.web.chat import schema, shares, store, views
from wuya.web.chat.conversation_routes import Cursor, Limit
from wuya.web.service import Service, service_of

router = APIRouter(tags=["chat"])
Chatter = Annotated[Viewer, Depends(require("chat"))]
TheService = Annotated[Service, Depends(service_of)]
NOINDEX = {"x-robots-tag": "noindex, nofollow"}


@router.get("/chat", include_in_schema=False)
@router.get("/chat/{id}", include_in_schema=False)
def chat_page(request: Request, viewer: Chatter, id: str = "") -> Response:
    """The chat page; its script asks the API for everything."""
    return pages.render(request, "chat.html", viewer, data={"conversation": id})


@router.get("/s/{id}", include_in_schema=False)
def share_page(id: str, request: Request, service: TheService) -> Response:
    """A share, readable without a script; never in a search engine."""
    viewer = current_viewer(request)
    with writing(service.database) as connection:
        shown = shares.public(connection, id, signed_in=viewer is not None, count=True)
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
    with reading(service.database) as connection:
        return shares.public(connection, id, signed_in=current_viewer(request) is not None)


@router.post("/api/shares/{id}/fork", status_code=201)
def fork_share(id: str, viewer: Chatter, service: TheService) -> dict[str, Any]:
    """Go on with it in one's own account."""
    with writing(service.database) as connection:
        new = shares.fork(connection, id, viewer.user_id)
        return views.conversation(connection, store.owned(connection, new, viewer.user_id), viewer.user_id)
