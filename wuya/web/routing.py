"""Every route of an application in one flat list, however FastAPI keeps them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from fastapi import FastAPI


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
