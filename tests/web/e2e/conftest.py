"""A person at the chat page: what they type, click and see."""

import time
from typing import Any

import pytest

from wuya.inference.backends.fake import FakeEngine

pytest.importorskip("playwright", reason="playwright is not installed")


class Chat:
    """The chat page in a browser."""

    def __init__(self, page: Any, url: str) -> None:
        page.set_default_timeout(30_000)  # a busy machine is slow, not wrong
        self.page, self.url = page, url
        self.box = page.locator("#message")
        self.send_button = page.locator("#send")

    def open(self, path: str = "/chat") -> "Chat":
        self.page.goto(self.url + path)
        self.page.wait_for_selector("body.ready")
        return self

    def ask(self, text: str, *, wait: bool = True) -> None:
        self.box.fill(text)
        self.box.press("Enter")
        if wait:
            self.done()

    def done(self) -> None:
        """Until nothing is being written."""
        nothing_runs = "!document.querySelector('.stopping, .msg.streaming')"
        self.until(f"{nothing_runs} && document.querySelector('.msg.assistant .tools')")

    def until(self, condition: str, seconds: float = 30) -> None:
        """Wait for a JavaScript expression (the page's CSP forbids Playwright's own way, which needs eval)."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(f"(async () => Boolean(await ({condition})))()"):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.02)

    def until_kept(self, path: str, condition: str) -> None:
        """Until the server's own answer fulfils a condition on `it`: pages show some things before they are kept."""
        self.until(f"(async () => {{ const it = await (await fetch('{path}')).json(); return {condition}; }})()")

    def messages(self, role: str = "") -> list[str]:
        """Their texts; also of those far above, which the browser does not lay out (content-visibility)."""
        found: list[str] = self.page.locator(f".thread .msg{'.' + role if role else ''} .md").all_text_contents()
        return found

    @property
    def id(self) -> str:
        return str(self.page.url.rsplit("/", 1)[1])

    def api(self, method: str, path: str, body: object = None) -> Any:
        """What the page's own session may ask the server."""
        script = """async ([method, path, body]) => {
          const options = { method, headers: { "content-type": "application/json" } };
          if (body !== null) options.body = JSON.stringify(body);
          const reply = await fetch(path, options);
          return reply.status === 204 ? null : reply.json();
        }"""
        return self.page.evaluate(script, [method, path, body])


@pytest.fixture
def chat(live_server: Any, page: Any) -> Chat:
    return Chat(page, live_server.url)


@pytest.fixture
def engine() -> FakeEngine:
    """Forty words at 200 a second: an answer takes 0.2 s."""
    return FakeEngine(tokens_per_second=200)
