"""Routes whose answers are encoded off the event loop, and every route of an application in one flat list."""

import asyncio
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI
from starlette.responses import Response

from wuya.web.sane_json import SaneJSONResponse


class Router(APIRouter):
    """FastAPI's router, except that JSON is written in a worker thread.

    FastAPI copies and encodes what a route returns on the event loop: a chat of long messages stalls every stream
    meanwhile.
    """

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """As FastAPI's; the description of the API still shows the endpoint's own types."""
        if typing.get_origin(inspect.signature(endpoint, eval_str=True).return_annotation) in (dict, list):
            endpoint = _encoded(endpoint, options.get("status_code") or 200)
        super().add_api_route(path, endpoint, **options)


def _encoded(endpoint: Callable[..., Any], status: int) -> Callable[..., Any]:
    def encode(content: Any) -> Response:
        return content if isinstance(content, Response) else SaneJSONResponse(content, status)

    if inspect.iscoroutinefunction(endpoint):

        @functools.wraps(endpoint)
        async def answer(*args: Any, **named: Any) -> Response:
            return await asyncio.to_thread(encode, await endpoint(*args, **named))

        return answer

    @functools.wraps(endpoint)
    def answer_in_thread(*args: Any, **named: Any) -> Response:
        return encode(endpoint(*args, **named))

    return answer_in_thread


class FlatRoute(NamedTuple):
    """A path, its methods and the object FastAPI made of it."""

    path: str
    methods: frozenset[str]
    route: Any


def routes_of(app: FastAPI) -> Iterator[FlatRoute]:
    """All routes with methods; newer FastAPI keeps an included router as one object, older ones copy its routes."""
    for part in _parts_of(app):
        methods = getattr(part, "methods", None)
        if methods:
            yield FlatRoute(part.path, frozenset(methods), part)


def without_methods(app: FastAPI) -> Iterator[str]:
    """Kind and path of what else is served: mounted applications, web sockets, endpoints that take any method."""
    for part in _parts_of(app):
        if not getattr(part, "methods", None):
            kind = type(getattr(part, "original_route", part)).__name__
            yield f"{kind} {getattr(part, 'path', '')}"


def _parts_of(app: FastAPI) -> Iterator[Any]:
    for route in app.routes:
        contexts: Any = getattr(route, "effective_route_contexts", lambda route=route: [route])
        yield from contexts()
