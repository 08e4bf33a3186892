"""Imports of chats one after another: who waits, who is read, how far; and the file on disk meanwhile."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from starlette.requests import Request

from wuya.web.errors import ApiError

IN_MEMORY = 1 << 20
"""Bytes of a file that are kept in memory; the rest goes to an unnamed temporary file."""


@dataclass(slots=True)
class Ticket:
    """One import, from its first byte to its last chat."""

    user_id: str
    file: IO[bytes]
    state: str = "uploading"
    place: int = 0
    """Order of the tickets that have arrived whole."""
    chats: int = 0
    """Chats of the file; 0 until it was looked through."""
    kept: int = 0
    """Chats that were written, or were here already."""


@dataclass(slots=True)
class ImportDesk:
    """The imports of one web process; one is worked on at a time, one per person is taken."""

    tickets: dict[str, Ticket] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    arrived: int = 0

    @asynccontextmanager
    async def take(self, request: Request, user_id: str) -> AsyncIterator[Ticket]:
        """Receive the request's body and wait for its turn. Raises ApiError 409 while an earlier one is under way."""
        if user_id in self.tickets:
            raise ApiError(409, "import_running", "an import of yours is under way; wait until it has ended")
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
            ticket = self.tickets[user_id] = Ticket(user_id, file)
            try:
                async for block in request.stream():
                    file.write(block)
                self.arrived += 1
                ticket.state, ticket.place = "waiting", self.arrived
                async with self.turn:
                    ticket.state = "reading"
                    yield ticket
            finally:
                del self.tickets[user_id]

    def status(self, user_id: str) -> dict[str, Any]:
        """What a page shows meanwhile."""
        ticket = self.tickets.get(user_id)
        if ticket is None:
            return {"state": "none", "before": 0, "chats": 0, "kept": 0}
        before = sum(0 < other.place < ticket.place for other in self.tickets.values())
        return {"state": ticket.state, "before": before, "chats": ticket.chats, "kept": ticket.kept}
