"""The other end of `worker`: `python -m wuya.inference.backends.worker_process FD` is a LocalEngine behind a socket."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from wuya.inference.backends import wire
from wuya.inference.backends.protocol import EngineInfo, GenerationRequest

CALLS = ("tokenize", "encode_chat", "decode", "cancel", "embed", "score", "load", "unload")
INFO_SECONDS = 0.05


class Server:
    """Obeys calls that arrive on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._engine: Any = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._outbox: list[tuple[int, str, Any]] = []

    async def run(self) -> None:
        """Until the service goes away or says so."""
        telling = asyncio.create_task(self._tell_info())
        try:
            while True:
                number, name, args, keywords = await wire.read(self._reader)
                if name == "close":
                    if self._engine is not None:
                        await self._engine.close()
                    await asyncio.sleep(0)
                    self._send(number, "result", None)
                    self._flush()
                    await self._writer.drain()
                    return
                if name == "leave":
                    if task := self._tasks.get(number):
                        task.cancel()
                    continue
                work = self._submit(number, args[0]) if name == "submit" else self._call(number, name, args, keywords)
                self._tasks[number] = task = asyncio.create_task(work)
                task.add_done_callback(lambda _, number=number: self._tasks.pop(number, None))  # type: ignore[misc]
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the service is gone
        finally:
            telling.cancel()

    async def _call(self, number: int, name: str, args: list[Any], keywords: dict[str, Any]) -> None:
        try:
            result = None
            if name == "start":
                await self._start(args[0], keywords)
            elif name in CALLS:
                result = await getattr(self._engine, name)(*args, **keywords)
            else:
                raise ValueError(f"no such call: {name}")
            self._send(number, "info", self._engine.info())
            self._send(number, "result", result)
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the caller
            self._send(number, "error", error)

    async def _start(self, models: Mapping[str, str], options: dict[str, Any]) -> None:
        import torch

        from wuya.inference.backends.local import LocalEngine

        if threads := options.pop("threads", 0):
            torch.set_num_threads(threads)
        engine = LocalEngine(models, **options)
        await engine.start()
        self._engine = engine

    async def _submit(self, number: int, request: GenerationRequest) -> None:
        try:
            async with aclosing(self._engine.submit(request)) as events:
                async for event in events:
                    self._send(number, "event", event)
        except Exception as error:  # noqa: BLE001
            self._send(number, "error", error)

    async def _tell_info(self) -> None:
        last: EngineInfo | None = None
        while True:
            info = None if self._engine is None else self._engine.info()
            if info is not None and info != last:
                self._send(-1, "info", info)
                last = info
            await asyncio.sleep(INFO_SECONDS)

    def _send(self, number: int, kind: str, value: Any) -> None:
        """All that is sent in one turn of the loop goes in one frame."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append((number, kind, value))

    def _flush(self) -> None:
        items, self._outbox = self._outbox, []
        if items and not self._writer.is_closing():
            self._writer.write(wire.pack(items))


async def main(descriptor: int) -> None:
    """Serve the connection that was inherited as `descriptor`."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor))
    with contextlib.suppress(ConnectionError):
        await Server(reader, writer).run()
    os._exit(0)  # a long step must not keep a process alive that nobody listens to


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # also sent to the whole group: meant for the service, which ends
        signal.signal(number, signal.SIG_IGN)  # its streams and then us; when it is gone so is the socket, and we go
    asyncio.run(main(int(sys.argv[1])))
