"""One service with accounts and one without, kept for all tests; each test gets the engine as new."""

import asyncio
import json
import math
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

pytest.importorskip("fastapi", reason="the service's packages are not installed")

import uvicorn
from openai import OpenAI

from tests.databases import Databases
from wuya.database.connection import writing
from wuya.database.labeling_tables import User, uuid7
from wuya.inference.backends.fake import FakeEngine
from wuya.web.api import store
from wuya.web.api.desk import Desk
from wuya.web.app import create_app
from wuya.web.service import Service
from wuya.web.settings import Settings

ALL_SCOPES = ("chat", "completions", "embeddings", "moderations")


@dataclass(frozen=True)
class Raw:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)

    def events(self) -> list[Any]:
        """Of a stream: every event's JSON; the last must be [DONE]."""
        *events, last = [part.removeprefix("data: ") for part in self.text.split("\n\n") if part]
        assert last == "[DONE]", last
        return [json.loads(event) for event in events]


@dataclass
class Api:
    """A live server and what a test wants of it."""

    url: str
    service: Service
    engine: FakeEngine
    user_id: str = ""
    loop: Any = None
    """The server's."""
    clients: list[Any] = field(default_factory=list)

    def key(self, **settings: Any) -> str:
        """A new key's text."""
        chosen = store.KeySettings(**{"scopes": ALL_SCOPES, "name": "test", **settings})
        return store.create_key(self.service.database, self.user_id, chosen)[1]

    def client(self, key: str = "none", **options: Any) -> OpenAI:
        """OpenAI's own client."""
        found = OpenAI(base_url=self.url + "/v1", api_key=key, **{"max_retries": 0, "timeout": 20, **options})
        self.clients.append(found)
        return found

    def send(self, path: str, body: Any = None, *, method: str = "", headers: dict[str, str] | None = None) -> "Raw":
        """A plain request; `body` is JSON unless it is bytes already."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **(headers or {})}
        asked = urllib.request.Request(self.url + path, data, headers, method=method or None)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return Raw(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Raw(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read().decode())

    def wait(self, condition: Callable[[], bool], seconds: float = 5.0) -> float:
        """Until something holds; how long it took."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < seconds, "it did not come true"
            time.sleep(0.005)
        return time.monotonic() - start

    def settle(self) -> None:
        """Until everything used is in the ledger."""
        self.wait(lambda: not self.service.get(Desk)._writes)


@contextmanager
def serve(folder: Path, databases: Databases, *, accounts: bool, engine: Any = None) -> Iterator[Api]:
    engine = engine or FakeEngine()
    with databases.new(folder / "wuya.db") as database:
        yield from _serve(folder, database, accounts=accounts, engine=engine)


def _serve(folder: Path, database: str | Path, *, accounts: bool, engine: Any) -> Iterator[Api]:
    app = create_app(Settings(workspace=folder, accounts=accounts), engine=engine, database=database)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="on"))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    if not server.started:
        listener.close()
        pytest.fail("the server did not start")
    api = Api(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.service, engine, loop=loops[0])
    if accounts:
        api.user_id = uuid7()
        with writing(api.service.database) as connection:
            connection.execute(insert(User).values(id=api.user_id, display_name="ada", role="user"))
    else:
        api.user_id = api.service.get(Desk).single_user_id
    yield api
    server.should_exit = True
    thread.join(15)
    listener.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Api]:
    with serve(tmp_path_factory.mktemp("laptop"), databases, accounts=False) as api:
        yield api


@pytest.fixture(scope="session")
def keyed_server(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Api]:
    with serve(tmp_path_factory.mktemp("accounts"), databases, accounts=True) as api:
        yield api


def _fresh(api: Api) -> Iterator[Api]:
    engine = api.engine
    engine.script, engine.tokens_per_second, engine.prefill_seconds = None, math.inf, 0.0
    engine.fail_after, engine.slots_total, engine.queue_limit, engine.num_words = None, 8, 64, 12
    engine.requests.clear()
    engine.cancelled.clear()
    yield api
    for client in api.clients:
        client.close()
    api.clients.clear()


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    """Single-user mode: no keys."""
    yield from _fresh(server)


@pytest.fixture
def keyed(keyed_server: Api) -> Iterator[Api]:
    """With accounts: keys."""
    yield from _fresh(keyed_server)
