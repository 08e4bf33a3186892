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
    for route in app.routes:
        contexts: Any = getattr(route, "effective_route_contexts", lambda route=route: [route])
        for part in contexts():
            methods = getattr(part, "methods", None)
            if methods:
                yield FlatRoute(part.path, frozenset(methods), part)
