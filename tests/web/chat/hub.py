"""A hub of generations with its database and no HTTP, and what tests ask of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as Database
from sqlalchemy import select

from wuya.database.base import uuid7
from wuya.database.connection import open_engine, reading, writing
from wuya.database.service_tables import ChatMessage, Generation
from wuya.inference.backends.fake import FakeEngine
from wuya.inference.backends.protocol import GenerationParams, GenerationRequest
from wuya.web.accounts.store import ensure_single_user
from wuya.web.chat import ledger, messages, store
from wuya.web.chat.job import Job, ServerEvent
from wuya.web.chat.jobs import GenerationHub
from wuya.web.chat.journal import Journal

TEXT = (
    "# Title\n\nSome **bold** text.\n\n```py\nx = 1\n```\n\n" + " ".join(f"word{i}" for i in range(40)) + "\n\nThe end."
)


DATABASE: list[str | Path] = []


@pytest.fixture(autouse=True)
def _database(database: str | Path) -> Iterator[None]:
    DATABASE.append(database)
    yield
    DATABASE.clear()


class World:
    """A hub with its database, without HTTP."""

    def __init__(self, folder: Path, engine: FakeEngine, **values: Any) -> None:
        self.folder, self.engine = folder, engine
        self.database: Database = open_engine(DATABASE[0])
        self.journal = Journal(folder / "journals", uuid7())
        self.hub = GenerationHub(engine, self.database, self.journal, **values)
        with writing(self.database) as connection:
            self.user = ensure_single_user(connection, f"user {uuid7()}")

    def job(self, user: str = "") -> Job:
        """Rows of a question and an empty answer, and the job that shall write it."""
        request = GenerationRequest(
            job=uuid7(), model="fake", prompt_ids=(1, 2, 3), params=GenerationParams(max_tokens=500)
        )
        with writing(self.database) as connection:
            owner = user or self.user
            chat = store.create(connection, owner)
            asked = messages.add(connection, chat, None, "user", "hello")
            id = messages.add(
                connection,
                chat,
                asked,
                "assistant",
                "",
                status="streaming",
                generation_id=request.job,
                model_alias="fake",
            )
            row = {"id": request.job, "conversation_id": chat, "message_id": id, "user_id": owner, "state": "queued"}
            ledger.begin(connection, [row])
        return Job(request, chat, id, owner)

    def message(self, job: Job) -> Any:
        with reading(self.database) as connection:
            return (
                connection.execute(select(ChatMessage.__table__).where(ChatMessage.id == job.message_id))
                .mappings()
                .one()
            )

    def generation(self, job: Job) -> Any:
        with reading(self.database) as connection:
            return connection.execute(select(Generation.__table__).where(Generation.id == job.id)).mappings().one()

    async def watch(self, job: Job, last: int | None = None, *, most: int = 10_000) -> list[ServerEvent]:
        """Events up to the end, or the first few of them."""
        found: list[ServerEvent] = []
        async for event in self.hub.events(job.id, last):
            if event is not None:
                found.append(event)
            if len(found) >= most:
                break
        return found


@asynccontextmanager
async def world(folder: Path, engine: FakeEngine | None = None, **values: Any) -> AsyncIterator[World]:
    found = World(folder, engine or FakeEngine(script=TEXT), **values)
    await found.engine.start()
    try:
        yield found
    finally:
        await found.hub.close()
        await found.engine.close()
        found.database.dispose()


def drawn(events: list[ServerEvent]) -> tuple[str, list[Any]]:
    """Text and blocks as a page has them after these events."""
    text, nodes = "", []
    for event in events:
        if event.name == "snapshot":
            text, nodes = event.data["text"], event.data["nodes"]
        elif event.name == "delta":
            text += event.data["t"]
            if "nodes" in event.data:
                nodes = nodes[: event.data["from"]] + event.data["nodes"]
        elif event.name in ("final", "error"):
            text, nodes = event.data["message"]["content"], event.data["message"]["nodes"]
    return text, nodes


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        await asyncio.sleep(0.005)
