"""Jobs that are not in this process: ended long ago, or written by another web process. The database tells."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from sqlalchemy import Engine as Database

from wuya.database.connection import reading, writing
from wuya.web.chat import ledger
from wuya.web.chat.job import ServerEvent

LOOK_SECONDS = 0.5
PING_SECONDS = 15.0


async def follow(
    database: Database, id: str, is_closing: Callable[[], bool]
) -> AsyncGenerator[ServerEvent | None, None]:
    """What a viewer should see, twice a second; None now and then, to keep the line open."""
    text, seq, waited = None, 0, 0.0
    while True:
        event = await asyncio.to_thread(_read, database, id)
        if event.name in ("final", "error") or event.data["text"] != text:
            text, seq, waited = event.data.get("text"), event.seq, 0.0
            yield event
        if event.name in ("final", "error"):
            return
        if is_closing():
            yield ServerEvent(seq, "bye", {"retry_ms": 1500})
            return
        await asyncio.sleep(LOOK_SECONDS)
        waited += LOOK_SECONDS
        if waited >= PING_SECONDS:
            waited = 0.0
            yield None


def ask_to_stop(database: Database, id: str, by: str) -> None:
    """A note for the process that runs the job."""
    with writing(database) as connection:
        ledger.ask_to_stop(connection, id, by)


def _read(database: Database, id: str) -> ServerEvent:
    with reading(database) as connection:
        return ledger.as_event(connection, id)
