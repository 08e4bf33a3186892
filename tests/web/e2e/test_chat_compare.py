"""Two answers, no names, a vote: by keys, and by touch on a telephone (E7, E20)."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.conftest import VIOLATIONS
from tests.web.e2e.conftest import Chat
from wuya.inference.backends.fake import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    script = ("Written by someone, {}." + " More words" * 60).format
    return FakeEngine(models=("alpha", "beta"), tokens_per_second=200, script=lambda r, _: script(r.params.seed))


SLOW_VOTES = """() => {
  const real = window.fetch;
  window.answered = 0;
  window.fetch = async (...request) => {
    const reply = await real(...request);
    if (!String(request[0]).includes("/api/comparisons")) return reply;
    await new Promise((done) => setTimeout(done, 400));
    window.answered += 1;
    return reply;
  };
}"""


@pytest.fixture
def phone(browser: Any, live_server: Any) -> Iterator[Chat]:
    small = {"width": 360, "height": 740}
    context = browser.new_context(viewport=small, has_touch=True, is_mobile=True, locale="en-US")
    context.add_init_script(VIOLATIONS)
    page = context.new_page()
    yield Chat(page, live_server.url)
    violations = page.evaluate("window.__violations")
    context.close()
    assert not violations


def test_a_blind_comparison_is_voted_on_by_key_and_goes_on_with_the_winner(chat: Chat, engine: FakeEngine) -> None:
    engine.tokens_per_second = 2
    chat.open()
    page = chat.page
    page.click("#compare")
    page.click("#params")
    page.locator("#drawer select").nth(1).select_option("beta")
    page.keyboard.press("Escape")
    chat.ask("Which is better?", wait=False)
    page.wait_for_selector(".pair")
    page.reload()
    page.wait_for_selector(".pair")  # both answers are still there, and still without names
    assert page.locator(".vote:disabled").count() == 4  # not before both have ended
    engine.tokens_per_second = 5000
    page.wait_for_selector(".vote:enabled")
    shown = page.locator(".pair").inner_text()
    assert "alpha" not in shown and "beta" not in shown
    page.locator(".pair .msg").first.focus()
    page.keyboard.press("2")
    page.wait_for_selector(".verdict")
    assert {"alpha", "beta"} == {name for name in ("alpha", "beta") if name in page.locator(".pair").inner_text()}
    winner = page.locator(".pair [data-side=right] .md").text_content()
    page.evaluate(SLOW_VOTES)  # what follows is clicked before the server has answered
    page.click(".segment >> nth=1")
    page.click(".votes [data-reason=clear]")
    page.click("[data-act=continue-winner]")
    chat.until("window.answered === 2 && document.querySelectorAll('.pair').length === 0")
    assert chat.messages("assistant") == [winner]
    assert page.evaluate("document.activeElement.id") == "message"
    [comparison] = chat.api("GET", f"/api/conversations/{chat.id}")["comparisons"]
    assert (comparison["outcome"], comparison["strength"], comparison["reasons"]) == ("right", 2, ["clear"])
    page.click("#compare")
    chat.ask("And then?")
    assert len(chat.messages("assistant")) == 2


def test_a_telephone_does_it_all_by_touch(phone: Chat) -> None:
    page = phone.open().page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.tap("#chat-menu")
    page.tap("role=menuitem[name='Compare two answers']")
    phone.box.fill("Which is better?")
    page.tap("#send")
    page.wait_for_selector(".vote:enabled")
    assert page.locator(".pair .msg:visible").count() == 1
    page.tap("role=tab[name='Answer B']")
    assert page.locator(".pair [data-side=right]").is_visible()
    page.tap("[data-vote=tie]")
    page.wait_for_selector(".verdict")
    page.locator(".votes .row button").first.tap()
    phone.done()
    page.tap("#history-open")
    page.wait_for_selector("body.history-open .history-row")
    page.tap("#new-chat")
    page.wait_for_selector("#welcome:not([hidden])")
    for selector in ("#history-open", "#send", "#chat-menu", "#params"):
        box = page.locator(selector).bounding_box()
        assert min(box["width"], box["height"]) >= 44, selector
