"""The chat area: its API, its pages, and the hub that lives as long as the service."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from wuya.database.base import now
from wuya.database.connection import writing
from wuya.web.chat import conversation_routes, ledger, message_routes, share_routes, store
from wuya.web.chat.import_desk import ImportDesk
from wuya.web.chat.jobs import GenerationHub
from wuya.web.chat.journal import Journal, left_behind
from wuya.web.chat.meter import Meter
from wuya.web.markdown.nodes import render
from wuya.web.moderation.moderator import moderator_of
from wuya.web.operations.metrics import metrics_of
from wuya.web.routing import Router
from wuya.web.service import Service
from wuya.web.supervision import keepers_of
from wuya.web.usage import add_usage

router = Router()
for part in (conversation_routes, message_routes, share_routes):
    router.include_router(part.router)

HOUSEKEEPING_SECONDS = 15.0


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[None]:
    """End what a killed process left, then take jobs; at the end tell the viewers and keep what was written."""
    await asyncio.to_thread(render, "```py\nx = 1\n```\n$x$")  # loads lexers and maths before the first answer
    await asyncio.to_thread(recover, service, everything=service.database.dialect.name == "sqlite")
    journal = Journal(journals(service), f"{socket.gethostname()}-{os.getpid()}-{id(service):x}")
    hub = GenerationHub(
        service.engine, service.database, journal, job_seconds=service.settings.job_seconds,
        meter=Meter(metrics_of(service), partial(add_usage, service.database)), moderator=moderator_of(service),
    )  # fmt: skip
    service.put(hub)
    service.put(ImportDesk())
    service.on_shutdown.append(hub.say_goodbye)
    keeper = keepers_of(service).start("housekeeping", every=HOUSEKEEPING_SECONDS, work=partial(_keep_house, service))
    try:
        yield
    finally:
        await keeper.stop()
        await hub.close()


def recover(service: Service, *, everything: bool) -> int:
    """End the jobs of processes that are no more, with every text they had shown."""
    folder = journals(service)
    with left_behind(folder) as pieces, writing(service.database) as connection:
        return ledger.recover(connection, pieces, everything=everything)


def journals(service: Service) -> Path:
    """Folder of the journals."""
    return service.settings.workspace / "journals"


async def _keep_house(service: Service) -> None:
    """Look for jobs of other processes that died, and empty the trash."""
    if service.database.dialect.name != "sqlite":
        await asyncio.to_thread(recover, service, everything=False)
    await asyncio.to_thread(_purge, service)


def _purge(service: Service) -> None:
    with writing(service.database) as connection:
        store.purge_trash(connection, at=now())
