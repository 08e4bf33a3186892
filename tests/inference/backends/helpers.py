"""Requests, and what came back of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from wuya.inference.backends.local import LocalEngine
from wuya.inference.backends.protocol import Delta, Done, Event, GenerationParams, GenerationRequest, ServingEngine


def request(job: str, prompt: list[int] | tuple[int, ...], *, model: str = "tiny", **params: Any) -> GenerationRequest:
    settings = GenerationParams(**{"max_tokens": 16, "temperature": 0.0} | params)
    return GenerationRequest(job=job, model=model, prompt_ids=tuple(prompt), params=settings)


async def collect(engine: ServingEngine, wanted: GenerationRequest) -> list[Event]:
    async with aclosing(engine.submit(wanted)) as events:
        return [event async for event in events]


def text(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def ids(events: list[Event], index: int = 0) -> list[int]:
    return [id for event in events if isinstance(event, Delta) and event.index == index for id in event.token_ids]


def reasons(events: list[Event]) -> dict[int, str]:
    return {event.index: event.finish_reason for event in events if isinstance(event, Done)}


@asynccontextmanager
async def running(checkpoint: Path, **options: Any) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine({"tiny": checkpoint}, device="cpu", dtype="float32", **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def running_many(checkpoints: dict[str, Path]) -> AsyncIterator[LocalEngine]:
    """One engine for several models, by name."""
    engine = LocalEngine(dict(checkpoints), device="cpu", dtype="float32")
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 500)

    asyncio.run(bounded())
