"""Two things on their way at once: replies are held back until something else was done, and the last word stands."""

import json
from typing import Any

import pytest

from tests.web.e2e.conftest import Chat
from wuya.inference.backends.fake import FakeEngine

HOLD = """
  const held = [];
  let rule = null;
  window.hold = (method, pattern) => { rule = { method, pattern: new RegExp(pattern) }; };
  window.held = () => held.length;
  window.release = () => { rule = null; for (const go of held.splice(0)) go(); };
  const quick = window.fetch;
  window.fetch = async (address, options) => {
    const holds = rule && (options?.method ?? "GET") === rule.method && rule.pattern.test(String(address));
    const reply = await quick(address, options);
    if (holds) await new Promise(go => held.push(go));
    return reply;
  };
"""
"""Requests go out at once; the page gets their replies when the test says so."""


class Race:
    """The chat page with replies that can be held back."""

    def __init__(self, chat: Chat) -> None:
        self.chat, self.page = chat, chat.page
        self.page.add_init_script(HOLD)

    def hold(self, method: str, pattern: str) -> None:
        self.page.evaluate(f"window.hold({json.dumps(method)}, {json.dumps(pattern)})")

    def wait_for_held(self, count: int = 1) -> None:
        self.chat.until(f"window.held() >= {count}")

    def release(self) -> None:
        self.page.evaluate("window.release()")
        self.settle()

    def settle(self) -> None:
        """Until the page has asked for what it wanted, and drawn it."""
        self.page.evaluate("new Promise(go => setTimeout(go, 150))")

    def new_chat(self, question: str) -> str:
        self.page.locator("#new-chat").click()
        self.chat.ask(question)
        self.chat.until("location.pathname.startsWith('/chat/')")
        return self.chat.id

    def open(self, id: str) -> None:
        self.page.locator(f"[data-chat='{id}'] .history-link").click()


@pytest.fixture
def race(chat: Chat) -> Race:
    found = Race(chat)
    chat.open()
    return found


def test_another_chat_is_opened_while_a_new_one_is_made(race: Race) -> None:
    first = race.new_chat("the first question")
    race.page.locator("#new-chat").click()
    race.hold("POST", "/api/conversations$")
    race.chat.ask("the second question", wait=False)
    race.wait_for_held()
    race.open(first)
    race.release()
    race.page.locator(".msg.user", has_text="the first question").wait_for()
    assert race.chat.id == first and race.chat.messages("user") == ["the first question"]
    race.page.locator(".history-link", has_text="the second question").click()
    race.page.locator(".msg.user", has_text="the second question").wait_for()
    race.chat.done()


def test_a_setting_chosen_while_a_chat_is_made_is_kept(race: Race) -> None:
    race.hold("POST", "/api/conversations$")
    race.chat.ask("hello", wait=False)
    race.wait_for_held()
    race.page.locator("#compare").click()
    race.release()
    race.chat.done()
    assert race.chat.api("GET", f"/api/conversations/{race.chat.id}")["mode"] == "compare"
    assert race.page.locator("#compare").get_attribute("aria-pressed") == "true"


def test_a_version_that_comes_late_does_not_land_in_another_chat(race: Race) -> None:
    first = race.new_chat("the first question")
    race.page.locator("[data-act=regenerate]").click()
    race.chat.until("document.querySelector('.branch-count')")
    race.chat.done()
    second = race.new_chat("the second question")
    race.open(first)
    race.chat.until("document.querySelector('.branch-count')")
    race.hold("POST", "/select$")
    race.page.locator("[data-act=previous]").click()
    race.wait_for_held()
    race.open(second)
    race.page.locator(".msg.user", has_text="the second question").wait_for()
    race.release()
    assert race.chat.messages("user") == ["the second question"] and len(race.chat.messages("assistant")) == 1


def test_the_last_thumb_stands_whatever_comes_first(race: Race) -> None:
    first = race.new_chat("a question")
    answer = race.page.locator(".msg.assistant").get_attribute("data-id")
    race.hold("PUT", "/feedback$")
    race.page.locator("[data-act=good]").click()
    race.wait_for_held()
    race.page.locator("[data-act=bad]").click()
    race.release()
    race.chat.until("document.querySelector('[data-act=bad][aria-pressed=true]')")
    race.chat.until_kept(f"/api/messages/{answer}", "it.feedback.value === -1")
    race.page.locator("[data-act=good]").click()
    race.chat.until_kept(f"/api/messages/{answer}", "it.feedback.value === 1")
    race.hold("DELETE", "/feedback$")
    race.page.locator("[data-act=good]").click()
    race.wait_for_held()
    race.page.locator("#new-chat").click()
    race.release()
    race.open(first)
    race.chat.until("document.querySelector('[data-act=good][aria-pressed=false]')")


def test_a_double_click_asks_once_and_does_not_stop(race: Race, engine: FakeEngine) -> None:
    race.chat.box.fill("hello")
    race.hold("POST", "/messages$")
    race.page.locator("#send").dblclick()
    race.wait_for_held()
    race.release()
    race.chat.done()
    assert len(race.chat.messages("assistant")) == 1 and race.page.locator(".badge", has_text="stopped").count() == 0
    assert len(engine.requests) == 1
    race.hold("POST", "/generate$")
    race.page.locator("[data-act=regenerate]").evaluate("button => { button.click(); button.click(); }")
    race.wait_for_held()
    race.release()
    race.chat.until("document.querySelector('.branch-count')?.textContent === '2/2'")
    race.chat.done()
    assert len(engine.requests) == 2


def test_stop_reaches_an_answer_whose_chat_was_left(race: Race, engine: FakeEngine) -> None:
    first = race.new_chat("the first question")
    engine.tokens_per_second = 5
    race.hold("POST", "/messages$")
    race.chat.ask("a long one", wait=False)
    race.wait_for_held()
    race.page.locator("#send").click()
    race.page.locator("#new-chat").click()
    race.release()
    race.chat.until_kept(
        f"/api/conversations/{first}", "it.messages.length === 4 && it.messages[3].status === 'stopped'"
    )
    assert race.chat.messages() == [], "and nothing of it is shown in the new chat"


def test_the_list_that_was_asked_for_last_is_shown(race: Race) -> None:
    race.new_chat("a question")
    race.hold("GET", "state=active")
    race.page.evaluate("document.querySelector('#history-filter').click()")
    race.page.get_by_role("menuitemradio", name="Last 7 days").click()
    race.wait_for_held()
    race.page.locator("#history-menu").click()
    race.page.get_by_role("menuitemradio", name="Trash").click()
    race.page.locator(".history-note").wait_for()
    race.release()
    assert race.page.locator("#chat-list .history-link").count() == 0, "the trash is empty"


def test_settings_are_sent_in_their_order(race: Race) -> None:
    race.new_chat("a question")
    race.hold("PATCH", "/api/conversations/")
    race.page.locator("#compare").click()
    race.wait_for_held()
    race.page.locator("#compare").click()
    race.release()
    race.chat.until_kept(f"/api/conversations/{race.chat.id}", "it.mode === 'single'")
    race.settle()
    assert race.page.locator("#compare").get_attribute("aria-pressed") == "false"


def test_drafts_are_saved_one_after_another(race: Race) -> None:
    script = """async () => {
      const { TaskSession } = await import('/static/js/label/session.js');
      const sent = [];
      let running = 0;
      window.fetch = async (address, options) => {
        running += 1;
        sent.push([JSON.parse(options.body).draft_rev, running]);
        await new Promise(go => setTimeout(go, 20));
        running -= 1;
        const body = JSON.stringify({ draft_rev: sent.length, saved_at: new Date().toISOString() });
        return new Response(body, { headers: { 'content-type': 'application/json' } });
      };
      const model = { ids: [], listen() {}, toDraft: () => ({}) };
      const task = { id: 't', draft_rev: 0, lease_until: new Date(Date.now() + 1e7).toISOString() };
      const session = new TaskSession(task, model);
      await Promise.all([session.save(), session.save(), session.save()]);
      session.end();
      return sent;
    }"""
    found: Any = race.page.evaluate(script)
    assert found == [[0, 1], [1, 1], [2, 1]], "each knows the revision before it, and no two are on their way at once"
