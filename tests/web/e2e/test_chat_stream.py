"""Asking, stopping, reloading: what must never lose a word (E2, E3, E4, E8, E9)."""

import time
from typing import Any

import pytest

from tests.web.e2e.conftest import Chat
from wuya.inference.backends.fake import FakeEngine

ANSWER = "A list:\n\n- one\n- two\n\n```python\nx = 1\n```\n\nand $a^2$ at the " + "very " * 500 + "end."


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(script=ANSWER, tokens_per_second=30)


def wait_for(check: Any, seconds: float) -> float:
    start = time.monotonic()
    while not check():
        assert time.monotonic() - start < seconds, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - start


def test_an_answer_streams_in_and_ends_with_its_markdown(chat: Chat, engine: FakeEngine) -> None:
    engine.tokens_per_second = 5000
    chat.open().ask("What is it?")
    assert chat.messages("user") == ["What is it?"]
    last = chat.page.locator(".msg.assistant").last
    assert last.locator("li").all_inner_texts() == ["one", "two"]
    assert last.locator("figure.code code").inner_text() == "x = 1"
    assert last.locator("math").count() == 1
    assert "tokens" in last.locator(".stats").inner_text()
    assert chat.page.locator("#announcer").inner_text().startswith("Answer finished")
    assert chat.page.title().startswith("What is it?")


def test_stop_works_before_the_first_token_and_frees_the_slot(chat: Chat, engine: FakeEngine) -> None:
    engine.prefill_seconds = 30
    chat.open().ask("Wait for me", wait=False)
    chat.page.wait_for_selector("#send.stopping")  # at once: no token has come
    wait_for(lambda: engine.slots_used == 1, 5)
    chat.send_button.click()
    assert wait_for(lambda: engine.slots_used == 0, 5) < 3  # the engine's part of it is asserted in tests/inference
    chat.done()
    assert "stopped" in chat.page.locator(".msg.assistant .stats").inner_text()


def test_stop_pressed_before_the_server_has_answered_is_not_lost(chat: Chat, engine: FakeEngine) -> None:
    engine.prefill_seconds = 30
    chat.open()
    chat.page.route("**/messages", lambda route: (time.sleep(0.4), route.continue_()))
    chat.ask("Stop this", wait=False)
    chat.page.keyboard.press("Escape")
    chat.done()
    assert engine.slots_used == 0
    assert len(engine.cancelled) == 1


def test_stop_in_the_middle_keeps_what_was_written_and_continue_goes_on(chat: Chat, engine: FakeEngine) -> None:
    chat.open().ask("Tell me", wait=False)
    chat.page.wait_for_selector(".msg.assistant figure.code")
    chat.send_button.click()
    chat.done()
    before = chat.messages("assistant")[0]
    assert before.startswith("A list") and "end." not in before
    engine.tokens_per_second = 5000
    chat.page.click("[data-act=continue]")
    chat.done()
    assert len(chat.messages("assistant")) == 1
    assert len(chat.messages("assistant")[0]) > len(before)


def test_a_reload_in_the_middle_loses_nothing(chat: Chat, engine: FakeEngine) -> None:
    chat.open().ask("Tell me", wait=False)
    chat.page.wait_for_selector(".msg.assistant li")
    engine.tokens_per_second = 3
    chat.page.reload()
    chat.page.wait_for_selector(".msg.assistant.streaming li")
    assert chat.page.locator("#send.stopping").count() == 1  # still Stop, not Send
    engine.tokens_per_second = 5000
    chat.done()
    html = "document.querySelector('.msg.assistant .md').outerHTML"
    streamed = chat.page.evaluate(html)
    assert chat.messages("assistant")[0].rstrip().endswith("end.")
    chat.page.reload()
    chat.page.wait_for_selector(".msg.assistant .tools")
    assert chat.page.evaluate(html) == streamed  # what was streamed looks like what is stored


def test_a_lost_network_is_shown_and_the_answer_is_caught_up(chat: Chat, engine: FakeEngine) -> None:
    chat.open().ask("Tell me", wait=False)
    chat.page.wait_for_selector(".msg.assistant li")
    context = chat.page.context
    context.set_offline(True)
    assert chat.page.locator("#offline").is_visible()
    chat.page.evaluate("window.dispatchEvent(new Event('offline'))")
    time.sleep(0.3)
    engine.tokens_per_second = 5000
    context.set_offline(False)
    chat.done()
    assert chat.messages("assistant")[0].rstrip().endswith("end.")
    assert not chat.page.locator("#offline").is_visible()


def test_what_could_not_be_sent_stays_and_is_sent_again(chat: Chat, engine: FakeEngine) -> None:
    engine.script = "Short."
    chat.open().ask("First")
    chat.page.route("**/messages", lambda route: route.abort())
    chat.ask("Second", wait=False)
    chat.page.wait_for_selector(".msg.user .problem")
    assert chat.messages("user") == ["First", "Second"]
    chat.page.unroute("**/messages")
    chat.page.click(".msg.user .problem button")
    chat.until("document.querySelectorAll('.msg.assistant .tools').length === 2")
    assert chat.messages("user") == ["First", "Second"]


def test_enter_inside_an_input_method_does_not_send(chat: Chat, engine: FakeEngine) -> None:
    engine.script = "Short."
    chat.open()
    chat.box.focus()
    session = chat.page.context.new_cdp_session(chat.page)
    session.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    chat.page.keyboard.press("Enter")
    assert chat.messages() == []
    session.send("Input.insertText", {"text": "\u4f60\u597d"})
    chat.page.keyboard.press("Shift+Enter")
    assert chat.messages() == []
    assert chat.box.input_value().strip() == "\u4f60\u597d"
    chat.page.keyboard.press("Enter")
    chat.done()
    assert chat.messages("user") == ["\u4f60\u597d"]


def test_a_reader_who_scrolled_up_is_left_alone(chat: Chat, engine: FakeEngine) -> None:
    engine.script = "A line of text.\n\n" * 120
    engine.tokens_per_second = 200
    chat.open().ask("Tell me", wait=False)
    top = "document.querySelector('#scroller').scrollTop"
    chat.until(f"{top} > 200")
    chat.page.locator("#scroller").hover()
    chat.page.mouse.wheel(0, -150)
    chat.page.wait_for_selector("#jump:not([hidden])")
    held = chat.page.evaluate(top)
    engine.tokens_per_second = 5000
    chat.done()
    assert abs(chat.page.evaluate(top) - held) < 2
    chat.page.click("#jump")
    chat.page.wait_for_selector("#jump", state="hidden")
    rest = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.querySelector('#scroller'))"
    chat.until(f"{rest} < 4")


def test_an_error_of_the_engine_is_said_in_words_with_a_way_on(chat: Chat, engine: FakeEngine) -> None:
    engine.fail_after = 8
    chat.open().ask("Tell me")
    problem = chat.page.locator(".msg.assistant .problem")
    assert "engine_lost" in problem.inner_text()
    engine.fail_after = None
    engine.tokens_per_second = 5000
    problem.locator("button").click()
    chat.done()
    assert chat.page.locator(".branch-count").inner_text() == "2/2"
