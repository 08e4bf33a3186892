"""The engine in a process of its own: it can crash, be killed or run out of memory, and the service goes on.

    engine = WorkerEngine({"policy": "runs/demo/ppo"}, slots=16)      # the options of LocalEngine
    await engine.start()

One Unix socket (a pair made before the process starts, so nobody else can connect) carries calls one way, results and
events the other (`wire`). When the process is gone every stream ends in Failed("engine_lost"), calls raise EngineLost,
and a new process is started with the models that were loaded. When the service is gone the process ends itself.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wuya.inference.backends import wire
from wuya.inference.backends.protocol import (
    EngineInfo,
    EngineLost,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    TokenLogprob,
)

LOG = logging.getLogger(__name__)
NOTHING = EngineInfo(models=(), slots_total=0, slots_used=0, queue_length=0, kv_cache_ratio=0.0, ready=False)


class WorkerEngine:
    """Implements `protocol.ServingEngine` over a socket."""

    def __init__(self, models: Mapping[str, Path | str], **options: Any) -> None:
        """
        Args:
            models: alias -> checkpoint.
            options: of `LocalEngine`; and `threads`, how many torch may use (0: as many as there are cores).
        """
        self._paths = {alias: str(path) for alias, path in models.items()}
        self._options = options
        self._link: _Link | None = None
        self._watch: asyncio.Task[None] | None = None
        self._info = NOTHING
        self._closing = False
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Of the engine's process."""
        return None if self._link is None else self._link.process.pid

    async def start(self) -> None:
        """Start the process and wait until its models are loaded; raises what loading raised."""
        self._closing = False
        await self._connect()
        self._watch = asyncio.create_task(self._restart_forever())

    async def close(self) -> None:
        """End the process; streams see `cancelled`."""
        self._closing = True
        if self._link is not None:
            with contextlib.suppress(EngineLost, TimeoutError):
                await asyncio.wait_for(self._link.call("close"), 10)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._link is not None:
            await self._link.end()
        self._link = None

    def info(self) -> EngineInfo:
        """As the process last told, at most 50 ms ago when something runs."""
        return self._info

    async def tokenize(self, model: str, text: str) -> list[int]:
        """See `protocol`, as for all that follow."""
        return list(await self._call("tokenize", model, text))

    async def encode_chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        return list(
            await self._call("encode_chat", model, list(messages), tools=None if tools is None else list(tools))
        )

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        return str(await self._call("decode", model, list(ids)))

    async def cancel(self, job: str) -> None:
        with contextlib.suppress(EngineLost):
            await self._call("cancel", job)

    async def embed(self, model: str, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        return [list(vector) for vector in await self._call("embed", model, [list(ids) for ids in inputs])]

    async def score(self, model: str, ids: Sequence[int], top: int) -> list[TokenLogprob]:
        return list(await self._call("score", model, list(ids), top))

    async def load(self, alias: str, path: str) -> None:
        await self._call("load", alias, path)
        self._paths[alias] = path

    async def unload(self, alias: str) -> None:
        await self._call("unload", alias)
        self._paths.pop(alias, None)

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        link = self._need()
        number, events = link.open_stream(request)
        started = ended = False
        try:
            while not ended:
                event = await events.get()
                if isinstance(event, EngineLost) and started:
                    event = Failed(request.job, "engine_lost", "the engine's process ended", retryable=True)
                if isinstance(event, Exception):
                    ended = True
                    raise event
                started, ended = True, isinstance(event, Finished | Failed)
                yield event
        finally:
            link.close_stream(number, leave=not ended)

    # -- the process

    def _need(self) -> "_Link":
        if self._link is None or self._link.lost:
            raise EngineLost("the engine is being started again", hint="try again in a moment")
        return self._link

    async def _call(self, name: str, *args: Any, **keywords: Any) -> Any:
        return await self._need().call(name, *args, **keywords)

    async def _connect(self) -> None:
        link = await _Link.open(self._told)
        try:
            await link.call("start", self._paths, **self._options)
        except BaseException:
            await link.end()
            raise
        self._link = link

    def _told(self, info: EngineInfo) -> None:
        self._info = info

    def _is_closing(self) -> bool:
        """`close` was called, perhaps while somebody waited."""
        return self._closing

    async def _restart_forever(self) -> None:
        """Wait for the process's end, and start another, more slowly each time it does not come up."""
        while not self._closing:
            assert self._link is not None
            await self._link.gone.wait()
            self._info = EngineInfo(models=self._info.models, slots_total=self._info.slots_total, slots_used=0,
                                    queue_length=0, kv_cache_ratio=0.0, ready=False)  # fmt: skip
            if self._is_closing():
                return
            LOG.error("the engine's process ended (code %s); starting it again", self._link.process.poll())
            await self._link.end()
            for pause in itertools.chain((0.1, 1.0, 3.0, 10.0), itertools.repeat(30.0)):
                await asyncio.sleep(pause)
                try:
                    await self._connect()
                    self.restarts += 1
                    break
                except Exception:  # whatever keeps it from starting may pass: memory, a file being replaced
                    LOG.exception("the engine does not start")


class _Link:
    """One process and the socket to it."""

    def __init__(self, process: "subprocess.Popen[bytes]", told: Any) -> None:
        self.process, self._told = process, told
        self.gone = asyncio.Event()
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, asyncio.Queue[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, told: Any) -> "_Link":
        """Start a process that waits for its first call."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "wuya.inference.backends.worker_process", str(theirs.fileno())]
            folder = str(Path(wire.__file__).parents[3])  # a checkout need not be installed
            path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                       env=os.environ | {"PYTHONPATH": path})  # fmt: skip
        link = cls(process, told)
        reader, link._writer = await asyncio.open_connection(sock=ours)
        link._task = asyncio.create_task(link._listen(reader))
        return link

    @property
    def lost(self) -> bool:
        return self.gone.is_set()

    def send(self, number: int, name: str, args: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None) -> None:
        if self._writer is not None and not self.lost:
            self._writer.write(wire.pack([number, name, list(args), dict(keywords or {})]))

    async def call(self, name: str, *args: Any, **keywords: Any) -> Any:
        if self.lost:
            raise EngineLost("the engine's process ended")
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            self.send(number, name, args, keywords)
            return await future
        finally:
            del self._calls[number]

    def open_stream(self, request: GenerationRequest) -> "tuple[int, asyncio.Queue[Any]]":
        number = next(self._numbers)
        events = self._streams[number] = asyncio.Queue()
        self.send(number, "submit", [request])
        return number, events

    def close_stream(self, number: int, *, leave: bool) -> None:
        del self._streams[number]
        if leave:
            self.send(number, "leave")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                for number, kind, value in await wire.read(reader):
                    self._take(number, kind, value)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone.set()
            lost = EngineLost("the engine's process ended", hint="it is being started again: try in a moment")
            for future in self._calls.values():
                if not future.done():
                    future.set_exception(lost)
            for events in self._streams.values():
                events.put_nowait(lost)

    def _take(self, number: int, kind: str, value: Any) -> None:
        if kind == "info":
            self._told(value)
        elif kind == "event" or number in self._streams:
            if events := self._streams.get(number):
                events.put_nowait(value)
        elif (future := self._calls.get(number)) is not None and not future.done():
            if isinstance(value, Exception):
                future.set_exception(value)
            else:
                future.set_result(value)

    async def end(self) -> None:
        """Close the socket, on which the process ends; kill it if it does not."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await asyncio.to_thread(self.process.wait, 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
