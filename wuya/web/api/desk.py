"""The desk that every request of `/v1` passes: key, scope, model, limits and budget before the first byte; then usage.

In single-user mode a request needs no key; a key of ours that is sent all the same is checked and counted.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from wuya.database.labeling_tables import now
from wuya.errors import WuyaError
from wuya.inference.backends.protocol import ModelInfo
from wuya.web.api import refusals, shared_limits, store
from wuya.web.api.jobs import Usage
from wuya.web.api.key_text import looks_like_ours, sha256_of
from wuya.web.api.limits import RateLimiter, Verdict
from wuya.web.api.store import KeyRecord
from wuya.web.operations.metrics import Metrics, metrics_of
from wuya.web.service import Service, service_of
from wuya.web.supervision import persistently
from wuya.web.traffic import models_of
from wuya.web.usage import add_usage, release, reserve

log = logging.getLogger("wuya.web.api")

GRACE_SECONDS = 3.0
"""How long answers may go on once the server was told to stop; uvicorn cuts connections after five."""
USAGE_SECONDS = 120.0
"""How long counting a request's tokens is tried again while the database takes no writes."""
BEARER = HTTPBearer(auto_error=False, description="An API key. Not needed where the server runs without accounts.")
"""For the OpenAPI document; the work is done by `caller_with`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who pays for a request."""

    user_id: str
    key: KeyRecord | None
    """None: the single user of this machine, without limits."""

    def may_use(self, alias: str) -> bool:
        """Whether the key is for this model."""
        return self.key is None or not self.key.models or alias in self.key.models


V1_SCOPES = frozenset({"chat", "completions", "embeddings", "moderations"})


def caller_with(scope: str) -> Callable[[Request, object], Caller]:
    """A dependency: the request's caller, refused without a good key of this scope ("": any scope of `/v1`)."""

    def dependency(request: Request, _documented: Annotated[object, Depends(BEARER)]) -> Caller:
        service = service_of(request)
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        text = text.strip() if scheme.lower() == "bearer" else ""
        if not service.settings.accounts and not looks_like_ours(text):
            return Caller(service.get(Desk).single_user_id, None)
        if not text:
            raise refusals.bad_key(
                "send your API key as `Authorization: Bearer sk-...`; keys are made on the page Keys"
            )
        key = store.find_key(service.database, sha256_of(text)) if looks_like_ours(text) else None
        if key is None:
            raise refusals.bad_key("this API key is unknown, expired or revoked")
        if not ({scope} if scope else V1_SCOPES) & set(key.scopes):
            needed = f"the scope `{scope}`" if scope else "a scope of `/v1`"
            raise refusals.not_allowed(f"this API key lacks {needed}; it has: {', '.join(key.scopes)}")
        return Caller(key.user_id, key)

    return dependency


def find_model(service: Service, caller: Caller, alias: str) -> ModelInfo:
    """The model of a request, which must exist and be allowed."""
    models = {model.alias: model for model in models_of(service.engine)}
    if alias not in models:
        raise refusals.no_such_model(alias, [known for known in models if caller.may_use(known)])
    if not caller.may_use(alias):
        raise refusals.not_allowed(f"this API key is not for the model `{alias}`", "model")
    return models[alias]


@dataclass(slots=True)
class Ticket:
    """A request that was let in. `close` counts what it used."""

    desk: "Desk"
    caller: Caller
    model: ModelInfo
    reservation: str
    """Of the key's budget; empty without one."""
    headers: dict[str, str]
    usage: Usage | None = None
    """None until the engine accepted it."""

    def close(self) -> None:
        """Count; in an event loop, without waiting for the database."""
        self.desk.close(self)


@dataclass(slots=True)
class Desk:
    """Limits and usage. What counts across web processes is in the database."""

    service: Service
    single_user_id: str = ""
    limiter: RateLimiter = field(default_factory=RateLimiter)
    """Of the only web process; with several (PostgreSQL) the buckets are in the database."""
    live: set[str] = field(default_factory=set)
    """The engine's jobs of requests that are open."""
    _writes: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def _metrics(self) -> Metrics:
        return metrics_of(self.service)

    async def admit(self, caller: Caller, model: ModelInfo, *, prompt_tokens: int, max_tokens: int) -> Ticket:
        """Let a request in, or refuse it with 429.

        Args:
            max_tokens: most tokens it may write, over all choices.
        """
        if self.service.closing:
            raise refusals.overloaded("the server is about to stop")
        key, most = caller.key, prompt_tokens + max_tokens
        if key is None:
            return Ticket(self, caller, model, "", {})
        reservation = await self._reserve(key, most)
        verdict = await self._rates(key, prompt_tokens)
        if verdict.wait_seconds > 0:
            await self._give_back(reservation)
            self._metrics.rate_limited.inc()
            limit = key.rpm if verdict.what == "requests" else key.tpm
            raise refusals.rate_limited(
                f"this key may use {limit:,} {verdict.what} a minute; try again in {verdict.wait_seconds:.1f} s",
                retry_after=math.ceil(verdict.wait_seconds),
                headers=verdict.headers,
            )
        return Ticket(self, caller, model, reservation, verdict.headers)

    async def _reserve(self, key: KeyRecord, most: int) -> str:
        if key.monthly_tokens is None:
            return ""
        budget = key.monthly_tokens
        id, left = await run_in_threadpool(reserve, self.service.database, key.id, most, budget=budget)
        if not id:
            self._metrics.rate_limited.inc()
            raise refusals.quota_spent(
                f"this key has {max(0, left):,} of {budget:,} tokens left this month; the request may"
                f" use {most:,} (lower `max_tokens`, or ask for a larger budget)"
            )
        return id

    async def _rates(self, key: KeyRecord, tokens: int) -> Verdict:
        rpm, tpm = key.rpm, key.tpm
        if self._shares_limits and (rpm or tpm):
            database = self.service.database
            return await run_in_threadpool(shared_limits.admit, database, key.id, rpm=rpm, tpm=tpm, tokens=tokens)
        return self.limiter.admit(key.id, rpm=rpm, tpm=tpm, tokens=tokens)

    @property
    def _shares_limits(self) -> bool:
        return self.service.database.dialect.name == "postgresql"

    async def _give_back(self, reservation: str) -> None:
        if reservation:
            await run_in_threadpool(release, self.service.database, reservation)

    def close(self, ticket: Ticket) -> None:
        """See `Ticket.close`."""
        if ticket.usage is None:
            if ticket.reservation:
                self._later(self._give_back(ticket.reservation))
            return
        counter = self._metrics.tokens
        counter.labels("prompt", ticket.model.alias).inc(ticket.usage.prompt_tokens)
        counter.labels("completion", ticket.model.alias).inc(ticket.usage.completion_tokens)
        key = ticket.caller.key
        if key is not None and not self._shares_limits:
            self.limiter.charge(key.id, tpm=key.tpm, tokens=ticket.usage.completion_tokens)
        self._later(self._write(ticket, ticket.usage, now().date()))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def told() -> None:
            try:
                await work
            except WuyaError as error:
                log.error("usage could not be counted", extra={"reason": error.brief})

        task = asyncio.create_task(told())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, ticket: Ticket, usage: Usage, day: date) -> None:
        key = ticket.caller.key
        add = partial(
            run_in_threadpool,
            add_usage,
            self.service.database,
            day=day,
            user_id=ticket.caller.user_id,
            key_id=key.id if key else None,
            model=ticket.model.alias,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            reservation=ticket.reservation,
        )
        await persistently(add, seconds=USAGE_SECONDS, stop=lambda: self.service.closing)  # a full disk is freed
        if key is not None and key.tpm and self._shares_limits:
            tokens = usage.completion_tokens
            await run_in_threadpool(shared_limits.charge, self.service.database, key.id, tpm=key.tpm, tokens=tokens)

    async def say_goodbye(self) -> None:
        """The server stops: answers have a moment to end by themselves, then they end with an error that says so."""
        self._later(self._end_jobs())

    async def _end_jobs(self) -> None:
        for _ in range(int(GRACE_SECONDS / 0.1)):
            if not self.live:
                return
            await asyncio.sleep(0.1)
        for job in list(self.live):
            await self.service.engine.cancel(job)

    async def settle(self) -> None:
        """Wait until everything is written (at the end of the service, and in tests)."""
        await asyncio.gather(*self._writes, return_exceptions=True)
