"""The service as tests see it: an application with a fake engine, an HTTP client, a live server and a browser page.

    def test_x(client): client.get("/api/me")                      # in process
    def test_y(live_server, page): page.goto(live_server.url + "/chat")   # real server, real Chromium

Override `engine`, `settings` or `accounts` in a test module to change what they are made of.
"""

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi", reason="the service's packages are not installed")

import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from wuya.inference.backends.fake import FakeEngine
from wuya.web.app import create_app
from wuya.web.service import Service
from wuya.web.settings import Settings

if TYPE_CHECKING:
    from tests.web.openid_provider import OpenIdProvider

ROOT_URL = "http://127.0.0.1:8000"
VIOLATIONS = """
  window.__violations = [];
  document.addEventListener('securitypolicyviolation', e => window.__violations.push(
    e.violatedDirective + ' ' + e.blockedURI + ' ' + e.sourceFile + ':' + e.lineNumber + ' ' + e.sample));
"""
SLOW_NETWORK = """
  const quick = window.fetch;
  window.fetch = async (...request) => {
    const [reply] = await Promise.allSettled([quick(...request), new Promise(done => setTimeout(done, %d))]);
    if (reply.status === 'rejected') throw reply.reason;
    return reply.value;
  };
"""
"""Every reply comes late: what a page does in between must not depend on the machine's speed. `WUYA_SLOW_NETWORK=300
pytest tests/web/e2e` runs all tests of pages like that."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What fails beside a live server or page runs once more, and the summary counts it: busy cores reorder events."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def accounts() -> bool:
    return False


@pytest.fixture
def settings(tmp_path: Path, accounts: bool) -> Settings:
    return Settings(workspace=tmp_path / "workspace", accounts=accounts)


@pytest.fixture
def app(settings: Settings, engine: FakeEngine, database: str | Path) -> Iterator[FastAPI]:
    found = create_app(settings, engine=engine, database=database)
    yield found
    found.state.service.database.dispose()  # also where the service was never started


@pytest.fixture
def service(app: FastAPI) -> Service:
    found = app.state.service
    assert isinstance(found, Service)
    return found


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A program on this machine; bugs come out as HTTP 500, as they would outside."""
    here = ("127.0.0.1", 50_000)
    with TestClient(app, ROOT_URL, raise_server_exceptions=False, follow_redirects=False, client=here) as found:
        yield found


@dataclass
class LiveServer:
    """A server on a free port, in a thread."""

    url: str
    app: FastAPI
    service: Service


@pytest.fixture
def live_server(app: FastAPI, service: Service) -> Iterator[LiveServer]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="on"))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started, "the server did not start"
    yield LiveServer(f"http://127.0.0.1:{port}", app, service)
    server.should_exit = True
    thread.join(15)
    listener.close()
    assert not thread.is_alive(), "the server did not stop"


def chromium() -> str | None:
    """The browser to test with."""
    return os.environ.get("WUYA_CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium for one file of tests: while Playwright's event loop runs, `asyncio.run` refuses."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip("chromium is not on the PATH (or set WUYA_CHROMIUM)")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh browser profile with one page, 1280 x 800; it must end without a CSP violation or an uncaught error."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    context.set_default_timeout(30_000)  # a busy machine is slow, not wrong
    context.add_init_script(VIOLATIONS)
    if late := int(os.environ.get("WUYA_SLOW_NETWORK", "0")):
        context.add_init_script(SLOW_NETWORK % late)
    found = context.new_page()
    errors: list[str] = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    yield found
    violations = [] if found.is_closed() else found.evaluate("window.__violations || []")
    context.close()
    assert not violations, f"content security policy: {violations}"
    assert not errors, f"errors in the page: {errors}"


def shoot(page: Any, name: str) -> None:
    """Keep a picture where WUYA_SCREENSHOTS says so."""
    folder = os.environ.get("WUYA_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module")
def running_provider() -> "Iterator[OpenIdProvider]":
    from tests.web.openid_provider import OpenIdProvider

    found = OpenIdProvider()
    yield found
    found.close()


@pytest.fixture
def provider(running_provider: "OpenIdProvider") -> "OpenIdProvider":
    """An OpenID provider on this machine that tells the truth until a test says otherwise."""
    running_provider.reset()
    return running_provider
