"""A new route can't be missed by the matrix of `test_matrix.py`, however it is added to the application."""

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Host, Mount, Route, WebSocketRoute

from tests.web.test_matrix import all_routes
from wuya.web.routing import without_methods


@pytest.fixture
def accounts() -> bool:
    return True


def test_nothing_is_served_beside_the_routes(app: FastAPI) -> None:
    """A mounted application or a web socket has no methods, so the table above would not see it."""
    assert list(without_methods(app)) == ["Mount /static"]


async def planted(_: Any) -> Any:
    raise AssertionError


def test_no_new_route_is_missed(app: FastAPI) -> None:
    """However it is added: on the application, in a router, in a router of a router, hidden from the document."""
    known, beside = set(all_routes(app)), set(without_methods(app))
    outer, inner = APIRouter(prefix="/api/outer"), APIRouter(prefix="/inner")
    inner.add_api_route("/{id}", planted, methods=["DELETE"])
    inner.add_api_websocket_route("/socket", planted)
    outer.include_router(inner)
    outer.routes.append(Mount("/api/outer/mounted", Starlette()))
    app.include_router(outer)
    app.add_api_route("/api/plain", planted, methods=["POST"], include_in_schema=False)
    app.router.routes.append(Route("/api/raw", planted, methods=["PUT"]))
    app.router.routes.append(Route("/api/any", type("Any", (HTTPEndpoint,), {})))
    app.mount("/api/other", FastAPI())
    app.router.routes.insert(0, WebSocketRoute("/api/socket", planted))
    app.router.routes.append(Host("admin.example.org", Starlette()))
    found = {"DELETE /api/outer/inner/{id}", "POST /api/plain", "PUT /api/raw"}
    assert set(all_routes(app)) - known == found
    assert len(set(without_methods(app)) - beside) == 6
