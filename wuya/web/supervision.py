"""Background tasks that outlive their failures: each error is noted and tried again, and `/readyz` names what fails.

    keeper = keepers_of(service).start("housekeeping", every=15.0, work=partial(_keep_house, service))
    ...
    await keeper.stop()

A task that dies once is dead for ever, and nobody notices: the trash fills, dead processes' jobs are never taken over.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from wuya.errors import WuyaError
from wuya.web.service import Service

log = logging.getLogger("wuya.web.background")
LONGEST_PAUSE = 300.0
Found = TypeVar("Found")


@dataclass(slots=True)
class Keeper:
    """One task that does its work again and again until it is stopped."""

    name: str
    every: float
    work: Callable[[], Awaitable[object]]
    failures: int = 0
    """Failures in a row."""
    failing_since: float = 0.0
    task: "asyncio.Task[None] | None" = None

    async def run(self) -> None:
        """Work, pause, work; after failures pause longer."""
        while True:
            await asyncio.sleep(min(LONGEST_PAUSE, self.every * 2 ** min(self.failures, 6)))
            try:
                await self.work()
            except Exception as error:  # noqa: BLE001  # whatever it is, the next round may work: that is the point
                self._note(error)
            else:
                if self.failures:
                    log.warning("background work is well again", extra={"task": self.name})
                self.failures = 0

    async def stop(self) -> None:
        """End it; what it failed at before is no reason to fail now."""
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task

    def _note(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            self.failing_since = time.monotonic()
        told = {"task": self.name, "failures": self.failures, "reason": f"{type(error).__name__}: {error}"[:300]}
        log.error("background work failed; it will be tried again", extra=told, exc_info=self.failures == 1)


async def persistently(
    work: Callable[[], Awaitable[Found]], *, seconds: float, stop: Callable[[], bool] = lambda: False
) -> Found:
    """Do something that one of our own errors may hinder for a while: again after growing pauses, then let it raise."""
    give_up = time.monotonic() + seconds
    for pause in itertools.chain((0.5, 1.0, 2.0), itertools.repeat(5.0)):
        try:
            return await work()
        except WuyaError:
            if stop() or time.monotonic() > give_up:
                raise
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")


@dataclass(slots=True)
class Keepers:
    """The service's background tasks."""

    running: list[Keeper] = field(default_factory=list)

    def start(self, name: str, *, every: float, work: Callable[[], Awaitable[object]]) -> Keeper:
        """Begin a task on the running loop; the first round comes after one pause."""
        keeper = Keeper(name, every, work)
        keeper.task = asyncio.create_task(keeper.run(), name=name)
        self.running.append(keeper)
        return keeper

    def failing(self) -> list[str]:
        """Names of the tasks whose last round failed, and of those that ended, which none should."""
        return [k.name for k in self.running if k.failures or (k.task and k.task.done() and not k.task.cancelled())]


def keepers_of(service: Service) -> Keepers:
    """The service's background tasks."""
    if Keepers not in service.parts:
        service.put(Keepers())
    return service.get(Keepers)
