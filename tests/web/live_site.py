"""`wuya serve` as people start it, in a process of its own, and what tests measure while it is under load.

    with serving(place, database, "--engine", "fake") as site, Streams(site) as streams, Health(site) as health:
        ...                                    # the attack
    assert streams.answers and health.p95() < 1

Streams are read event by event and compared with what the server keeps; the engine says 100 numbered words at ten a
second, so that a lost, doubled or late event shows.
"""

import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx
import psutil

from tests.web.chat.conftest import ok, server_events
from wuya.database.connection import open_engine, writing
from wuya.feedback.bulk import ensure_users
from wuya.web.accounts import store as accounts_store

WORDS_PER_SECOND, NUM_WORDS = 10, 100
PEOPLE = 9
COOKIE = "wuya_session"
SERVE = f"""
import sys
from functools import partial
from wuya.inference.backends import fake
words = " ".join(f"word{{i}}" for i in range({NUM_WORDS}))
fake.FakeEngine = partial(fake.FakeEngine, script=words, tokens_per_second={WORDS_PER_SECOND}, slots=16)
from wuya.cli import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""
"""The command itself; only the words of `--engine fake` are set."""


@dataclass
class Site:
    """A server in a process of its own."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    cookies: list[dict[str, str]]
    """A session each of the people of `PEOPLE`."""

    def log(self) -> str:
        """What it has written so far."""
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace")

    def client(self, person: int = 0, *, timeout: float = 60) -> httpx.Client:
        """Signed in as one of `PEOPLE`."""
        return httpx.Client(base_url=self.url, cookies=self.cookies[person], timeout=timeout)

    def memory(self) -> int:
        """Resident bytes of the server and of the processes it started."""
        found = psutil.Process(self.process.pid)
        total = 0
        for process in (found, *found.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def stop(self) -> int:
        """SIGTERM; the exit status: -15, since uvicorn ends its work and then lets the signal through."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def members(database: str | Path) -> list[dict[str, str]]:
    """The cookies of PEOPLE users, the first an admin: one person may have only so many answers written at once."""
    engine, cookies = open_engine(database), []
    with writing(engine) as connection:
        for name, user in ensure_users(connection, [f"person{n}" for n in range(PEOPLE)]).items():
            accounts_store.change_user(connection, user, role="admin" if name == "person0" else "user")
            cookies.append({COOKIE: accounts_store.start_session(connection, user, ip_prefix="", ua="test")})
    engine.dispose()
    return cookies


@contextmanager
def serving(place: Path, database: str | Path, *arguments: str, descriptors: int = 0) -> Iterator[Site]:
    """Start it, wait until it says where it is, and kill what is left of it in the end.

    Args:
        descriptors: hard limit of open files (`ulimit -n`); 0 leaves it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "--workspace", str(place), "--port", str(port), "--accounts", *arguments]
    if "://" in str(database):
        command += ["--database", str(database)]

    def limit() -> None:
        if descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    with tempfile.TemporaryFile() as stderr:
        cookies = members(database if "://" in str(database) else place / "wuya.db")
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr, preexec_fn=limit)
        site = Site(f"http://127.0.0.1:{port}", port, process, stderr, cookies)
        try:
            deadline = time.monotonic() + 120
            while "wuya serves at" not in site.log():
                assert process.poll() is None and time.monotonic() < deadline, site.log()
                time.sleep(0.05)
            yield site
        finally:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait(10)


class _Threads:
    """Threads that go on until the block ends; what one of them raised comes out there."""

    def __init__(self, count: int) -> None:
        self.over = threading.Event()
        self.problems: list[BaseException] = []
        self._threads = [threading.Thread(target=self._guarded, args=(n,), daemon=True) for n in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(120)
        assert error or not any(thread.is_alive() for thread in self._threads), "a thread does not end"
        if self.problems and error is None:
            raise self.problems[0]

    def _guarded(self, number: int) -> None:
        try:
            self.work(number)
        except Exception as error:  # noqa: BLE001  # it comes out where the block ends
            self.problems.append(error)

    def work(self, number: int) -> None:
        raise NotImplementedError


class Streams(_Threads):
    """People who ask again as soon as they have read an answer, and read it to its end when the block is over."""

    def __init__(self, site: Site, count: int = 8, **generate: Any) -> None:
        super().__init__(count)
        self.site, self.generate = site, generate
        self.answers = 0
        """Answers whose events, put together, are what the server keeps."""
        self.longest_gap = 0.0
        """Seconds between two events of a stream."""

    def work(self, number: int) -> None:
        with self.site.client(1 + number) as http:
            chat = ok(http.post("/api/conversations", json={}), 201)["id"]
            while not self.over.is_set():
                self._ask(http, chat)

    def _ask(self, http: httpx.Client, chat: str) -> None:
        body = {"content": "go on", "generate": self.generate}
        asked = ok(http.post(f"/api/conversations/{chat}/messages", json=body), 201)
        generation, message = asked["generations"][0]["id"], asked["messages"][0]["id"]
        lines: list[str] = []
        with http.stream("GET", f"/api/generations/{generation}/events") as stream:
            at = time.monotonic()
            for line in stream.iter_lines():
                lines.append(line)
                now = time.monotonic()
                self.longest_gap, at = max(self.longest_gap, now - at), now
        events = server_events(lines)
        text, last = "", ""
        for _, last, data in events:
            text = data["text"] if last == "snapshot" else text + data["t"] if last == "delta" else text
        kept = ok(http.get(f"/api/messages/{message}"))
        assert (last, kept["status"]) == ("final", "complete"), (last, kept["status"])
        assert data["message"]["content"] == kept["content"]
        if len(events) > 1:  # else it was written before it was asked for
            assert text == kept["content"], "an event was lost"
            self.answers += 1


class Health(_Threads):
    """Somebody else's monitoring: asks for /healthz on a new connection, thirty times a second."""

    def __init__(self, site: Site) -> None:
        super().__init__(1)
        self.site = site
        self.seconds: list[float] = []
        self.memory: list[int] = []
        """Resident bytes, at each tenth question."""

    def work(self, number: int) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", self.site.port), timeout=60) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
                answer = connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            self.seconds.append(time.monotonic() - began)
            if len(self.seconds) % 10 == 1:
                self.memory.append(self.site.memory())
            time.sleep(0.03)

    def p95(self) -> float:
        """Seconds that 95 % of the answers stay below."""
        return statistics.quantiles(self.seconds, n=20)[-1]

    def grown(self) -> int:
        """Bytes of resident memory at the most, over the first."""
        return max(self.memory) - self.memory[0]


def allow_descriptors(number: int) -> int:
    """Let this process open so many files, or as many as it may; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(soft, allowed)
