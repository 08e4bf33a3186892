"""What every handler can reach: settings, engine, database, and the objects that areas put there at start."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Engine as Database
from starlette.requests import HTTPConnection

from wuya.inference.backends.protocol import Engine
from wuya.web.settings import Settings

PartT = TypeVar("PartT")


@dataclass(slots=True)
class Service:
    """One per application. Areas keep their long-lived objects (job hub, rate limiter) as parts, found by class."""

    settings: Settings
    engine: Engine
    database: Database
    parts: dict[type, Any] = field(default_factory=dict)

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
