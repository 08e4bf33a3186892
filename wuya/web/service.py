"""What every handler can reach: settings, engine, database, and the objects that areas put there at start."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Engine as Database
from starlette.requests import HTTPConnection

from wuya.inference.backends.protocol import ServingEngine
from wuya.web.settings import Settings

PartT = TypeVar("PartT")


@dataclass(slots=True)
class Service:
    """One per application. Areas keep their long-lived objects (job hub, rate limiter) as parts, found by class."""

    settings: Settings
    engine: ServingEngine
    database: Database
    parts: dict[type, Any] = field(default_factory=dict)
    on_shutdown: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Called when the server is told to stop, while streams are still open: end them with `event: bye`."""
    closing: bool = False
    """The server was told to stop."""

    async def begin_shutdown(self) -> None:
        """Tell every area; the server then waits for open requests."""
        self.closing = True
        for callback in self.on_shutdown:
            await callback()

    def put(self, part: object) -> None:
        """Keep an object for handlers to find by its class."""
        self.parts[type(part)] = part

    def get(self, kind: type[PartT]) -> PartT:
        """The object of a class that an area put there."""
        part = self.parts[kind]
        assert isinstance(part, kind)
        return part


def service_of(connection: HTTPConnection) -> Service:
    """The service that a request was sent to; also a FastAPI dependency."""
    service = connection.app.state.service
    assert isinstance(service, Service)
    return service
