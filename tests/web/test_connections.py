"""Half-open connections: dropped after seconds, displaced when the house is full, one line in the log."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import uvicorn

from wuya.web.connections import Door, guarded

Running = tuple[int, Door]
PAUSE = threading.Event()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        for _ in range(200):
            await asyncio.sleep(0.02)
            if PAUSE.is_set():
                break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:

        def start(**door: Any) -> Running:
            guard = Door(**door)
            config = uvicorn.Config(app, http=guarded(guard), ws="none", lifespan="off", log_config=None, backlog=64)
            server = uvicorn.Server(config)
            listener = socket.create_server(("127.0.0.1", 0), backlog=256)
            thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
            thread.start()

            def stop() -> None:
                PAUSE.set()
                server.should_exit = True
                thread.join(10)
                listener.close()
                PAUSE.clear()

            stack.callback(stop)
            while not server.started:
                time.sleep(0.01)
            return listener.getsockname()[1], guard

        yield start


def connect(port: int, stack: ExitStack) -> socket.socket:
    found = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
    found.settimeout(5)
    return found


def is_closed(connection: socket.socket) -> bool:
    with suppress(ConnectionError):
        return connection.recv(100) == b""
    return True


def ask(connection: socket.socket, path: str = "/") -> bytes:
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"ok") and (more := connection.recv(1000)):
        answer += more
    return answer


def test_headers_that_never_end_are_not_waited_for(running: Callable[..., Running]) -> None:
    port, _ = running(descriptors=1000, header_seconds=0.3)
    with ExitStack() as stack:
        silent, half, second = (connect(port, stack) for _ in range(3))
        half.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        assert b"200" in ask(second)
        second.sendall(b"GET / HT")  # the second request on a connection that is kept alive
        began = time.monotonic()
        assert is_closed(silent) and is_closed(half) and is_closed(second)
        assert time.monotonic() - began < 3


def test_an_answer_may_take_longer_than_headers(running: Callable[..., Running]) -> None:
    port, _ = running(descriptors=1000, header_seconds=0.2)
    with ExitStack() as stack:
        slow = connect(port, stack)
        threading.Timer(0.8, PAUSE.set).start()
        assert b"200" in ask(slow, "/slow")


def test_a_full_house_displaces_the_longest_silent(
    running: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    """What is being answered goes on, newcomers get in, and the log has one line."""
    port, door = running(descriptors=40, header_seconds=60)
    with ExitStack() as stack, caplog.at_level(logging.WARNING):
        working = connect(port, stack)
        answers: list[bytes] = []
        thread = threading.Thread(target=lambda: answers.append(ask(working, "/slow")))
        thread.start()
        time.sleep(0.1)
        silent = [connect(port, stack) for _ in range(100)]
        for _ in range(5):
            assert b"200" in ask(connect(port, stack))
        PAUSE.set()
        thread.join(10)
        assert answers and b"200" in answers[0]
        assert is_closed(silent[0]) and door.open <= door.most + 1
        for connection in (connect(port, stack) for _ in range(50)):  # idle ones make room, too
            assert b"200" in ask(connection)
    assert sum("too many open connections" in record.message for record in caplog.records) == 1


def test_running_out_of_descriptors_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    door, loop = Door(100), asyncio.new_event_loop()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many")}
            door.on_loop_error(loop, context)
    loop.close()
    assert len(caplog.records) == 1
