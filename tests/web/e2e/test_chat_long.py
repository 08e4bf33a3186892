"""A chat of two hundred messages stays quick while an answer streams in (E23)."""

from itertools import pairwise

import pytest

from tests.web.e2e.conftest import Chat
from wuya.inference.backends.fake import FakeEngine

LONG_TASKS = """
  window.__tasks = [];
  new PerformanceObserver(list => list.getEntries().forEach(e => window.__tasks.push(e.duration)))
    .observe({ type: "longtask", buffered: true });
"""
PARAGRAPH = "Some **words** with `code`, a [link](https://example.org/) and $a^2 + b^2$.\n\n- one\n- two\n\n"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(tokens_per_second=5000, script="A short answer, but one of many.", context_length=1 << 16)


def test_older_messages_come_in_pieces_of_forty(chat: Chat) -> None:
    chat.open()
    made = fill(chat, 60)
    chat.open(f"/chat/{made}")
    chat.page.wait_for_selector(".msg")
    assert 40 <= chat.page.locator(".msg").count() <= 61
    chat.page.evaluate("document.querySelector('#scroller').scrollTop = 0")
    chat.until("document.querySelectorAll('.msg').length === 61")
    assert chat.messages("user")[0] == "Question 0"


@pytest.mark.slow  # 200 messages and 15 s of streaming; a figure that wants a quiet machine
def test_a_long_chat_streams_without_long_tasks(chat: Chat, engine: FakeEngine) -> None:
    chat.page.add_init_script(LONG_TASKS)
    chat.open()
    made = fill(chat, 200)
    chat.open(f"/chat/{made}")
    chat.page.wait_for_selector(".msg")
    while chat.page.locator(".older").count():
        chat.page.evaluate("document.querySelector('#scroller').scrollTop = 0")
        chat.page.wait_for_timeout(300)
    engine.script, engine.tokens_per_second = PARAGRAPH * 40, 40
    chat.page.evaluate("window.__tasks = []")
    chat.ask("Go on at length", wait=False)
    chat.page.wait_for_timeout(15_000)
    tasks = sorted(chat.page.evaluate("window.__tasks"))
    frames = chat.page.evaluate("""() => new Promise(done => {
      const times = [];
      const tick = now => { times.push(now); times.length < 60 ? requestAnimationFrame(tick) : done(times); };
      requestAnimationFrame(tick);
    })""")
    gaps = sorted(b - a for a, b in pairwise(frames))
    assert not tasks or tasks[int(len(tasks) * 0.95)] < 200, f"long tasks of {tasks[-5:]} ms"
    assert gaps[int(len(gaps) * 0.95)] < 200
    chat.page.keyboard.press("Escape")
    chat.done()


def fill(chat: Chat, count: int) -> str:
    """A chat with so many messages: one file, imported."""
    messages, parent = [], None
    for index in range(count + 1):
        role = "assistant" if index % 2 else "user"
        text = PARAGRAPH if index % 2 else f"Question {index}"
        messages.append({"id": f"m{index}", "parent_id": parent, "role": role, "content": text})
        parent = f"m{index}"
    conversation = {"id": "c1", "title": "Long", "messages": messages, "active_leaf_id": parent}
    body = {"format": "wuya.conversations", "version": 1, "conversations": [conversation]}
    result = chat.api("POST", "/api/import", body)
    assert result["imported"] == 1, result
    return str(result["conversations"][0]["id"])
