"""One request of `/v1` as jobs of the engine: accepted before the first byte, freed when the client leaves."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from wuya.inference.backends.protocol import (
    Delta,
    Done,
    Event,
    Failed,
    GenerationRequest,
    ServingEngine,
    Started,
)
from wuya.web.operations.metrics import Metrics

ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Usage:
    """Tokens of a request so far; right at any moment, so that a client who leaves is counted as far as it went."""

    prompt_tokens: int = 0
    by_choice: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def completion_tokens(self) -> int:
        """Tokens sampled for all choices."""
        return sum(self.by_choice.values())

    def see(self, prompt: int, event: Event) -> None:
        """Count an event of the job of prompt number `prompt`."""
        match event:
            case Started(prompt_tokens=tokens):
                self.prompt_tokens += tokens
            case Delta(index=index, token_ids=ids):
                self.by_choice[prompt, index] = self.by_choice.get((prompt, index), 0) + len(ids)
            case Done(index=index, completion_tokens=tokens):
                self.by_choice[prompt, index] = tokens

    def as_json(self) -> dict[str, int]:
        """OpenAI's `usage`."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _Watch:
    """Times what a client waits for, and counts how jobs end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._start = time.perf_counter()
        self._last: dict[tuple[int, int], float] = {}

    def see(self, prompt: int, event: Event) -> None:
        """Note an event of the job of prompt number `prompt`."""
        match event:
            case Delta(index=index, token_ids=ids) if ids:
                now, before = time.perf_counter(), self._last.get((prompt, index))
                self._last[prompt, index] = now
                if before is None:
                    self._metrics.ttft_seconds.observe(now - self._start)
                else:
                    self._metrics.inter_token_seconds.observe(now - before)
            case Done(finish_reason=reason):
                self._metrics.generations.labels("stopped" if reason == "cancelled" else "done").inc()
            case Failed():
                self._metrics.generations.labels("failed").inc()


class Jobs:
    """The engine's jobs for the prompts of one request, read as one stream of (prompt number, event)."""

    def __init__(
        self, streams: Sequence[AsyncGenerator[Event, None]], first: Sequence[tuple[int, Event]], metrics: Metrics
    ) -> None:
        self._watch = _Watch(metrics)
        self._streams = streams
        self._first = first
        self.num_prompts = len({number for number, _ in first})
        self._pumps: list[asyncio.Task[None]] = []
        self.usage = Usage()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        for number, event in self._first:
            self.usage.see(number, event)
            yield number, event
        async for number, event in self._one() if len(self._streams) == 1 else self._several():
            self.usage.see(number, event)
            self._watch.see(number, event)
            yield number, event

    async def _one(self) -> AsyncIterator[tuple[int, Event]]:
        async for event in self._streams[0]:
            yield 0, event

    async def _several(self) -> AsyncIterator[tuple[int, Event]]:
        queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()

        async def pump(number: int, stream: AsyncGenerator[Event, None]) -> None:
            try:
                async for event in stream:
                    queue.put_nowait((number, event))
            finally:
                queue.put_nowait((number, None))

        self._pumps = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(self._streams)]
        for _ in self._pumps:
            while (item := await queue.get())[1] is not None:
                yield item[0], item[1]
            await self._pumps[item[0]]  # raises what the stream raised

    async def close(self) -> None:
        """Cancel what still runs."""
        for task in self._pumps:
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for stream in self._streams:
            await stream.aclose()


@asynccontextmanager
async def open_jobs(
    engine: ServingEngine, requests: Sequence[GenerationRequest], metrics: Metrics
) -> AsyncIterator[Jobs]:
    """Hand `requests` to the engine, all or none; raises what the engine refuses with. Leaving frees every slot."""
    streams: list[AsyncGenerator[Event, None]] = []
    jobs: Jobs | None = None
    try:
        first: list[tuple[int, Event]] = []
        for number, request in enumerate(requests):
            if request.params.max_tokens:
                streams.append(engine.submit(request))
                first.append((number, await anext(streams[-1])))
            else:
                first += [(number, event) for event in _nothing_to_write(request)]
        jobs = Jobs(streams, first, metrics)
        yield jobs
    finally:
        if jobs is None:
            for stream in streams:
                await stream.aclose()
        else:
            await jobs.close()


def _nothing_to_write(request: GenerationRequest) -> list[Event]:
    """What an engine would say if it could be asked for no tokens at all."""
    ends: list[Event] = [Done(request.job, index, "length", 0) for index in range(request.params.n)]
    return [Started(request.job, len(request.prompt_ids)), *ends]


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of `work`, which is cancelled as soon as the client closes the connection (`ClientDisconnect`)."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_client_left(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return await task
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
