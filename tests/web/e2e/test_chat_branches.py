"""Versions, ratings and drafts: nothing that was written is ever destroyed (E5, E6)."""

from tests.web.e2e.conftest import Chat
from wuya.inference.backends.fake import FakeEngine


def test_edit_and_regenerate_make_versions_and_arrows_walk_them(chat: Chat, engine: FakeEngine) -> None:
    engine.script = lambda request, index: f"Answer {len(engine.requests)}."
    chat.open().ask("First question")
    chat.page.click("[data-act=regenerate]")
    chat.done()
    assert chat.messages("assistant") == ["Answer 2."]
    assert chat.page.locator(".assistant .branch-count").inner_text() == "2/2"

    chat.page.locator(".msg.user").hover()
    chat.page.click(".msg.user [data-act=edit]")
    chat.page.locator(".edit-area").fill("Better question")
    chat.page.locator(".edit-area").press("Control+Enter")
    chat.until("document.querySelector('.assistant .md')?.innerText === 'Answer 3.'")
    chat.done()
    assert chat.messages() == ["Better question", "Answer 3."]

    chat.page.click(".msg.user [data-act=previous]")
    chat.until("document.querySelector('.user .md').innerText === 'First question'")
    assert chat.messages() == ["First question", "Answer 2."]
    assert "Version 1 of 2" in chat.page.locator("#announcer").inner_text()
    chat.page.locator(".msg.assistant").focus()
    chat.page.keyboard.press("[")
    chat.until("document.querySelector('.assistant .md').innerText === 'Answer 1.'")
    chat.page.reload()  # the branch on screen is the server's, too
    chat.page.wait_for_selector(".msg.assistant .tools")
    assert chat.messages() == ["First question", "Answer 1."]


def test_thumbs_keep_reasons_a_comment_and_a_better_answer(chat: Chat) -> None:
    chat.open().ask("A question")
    page = chat.page
    page.click("[data-act=bad]")
    page.click("[data-reason=inaccurate]")
    page.click("[data-reason=too_long]")
    page.locator(".rating textarea").first.fill("It is wrong.")
    page.click(".better summary")
    page.locator(".better textarea").fill("The right answer.")
    page.click("[data-act=send-rating]")
    page.wait_for_selector(".rating", state="hidden")
    chat.until_kept(f"/api/conversations/{chat.id}", "it.messages.some((m) => m.feedback?.better_answer)")
    page.reload()
    page.wait_for_selector("[data-act=bad][aria-pressed=true]")
    [message] = [m for m in chat.api("GET", f"/api/conversations/{chat.id}")["messages"] if m["role"] == "assistant"]
    feedback = message["feedback"]
    assert (feedback["value"], set(feedback["reasons"])) == (-1, {"inaccurate", "too_long"})
    assert (feedback["comment"], feedback["better_answer"]) == ("It is wrong.", "The right answer.")
    page.click("[data-act=bad]")  # the same thumb again takes it back
    chat.until("document.querySelector('[data-act=bad]').getAttribute('aria-pressed') === 'false'")
    chat.until_kept(f"/api/messages/{message['id']}", "it.feedback === null")


def test_drafts_survive_a_reload_and_long_pastes_become_blocks(chat: Chat) -> None:
    chat.open()
    chat.box.fill("half a thought")
    script = """text => {
      const data = new DataTransfer();
      data.setData("text/plain", text);
      const paste = new ClipboardEvent("paste", { clipboardData: data, cancelable: true });
      document.querySelector("#message").dispatchEvent(paste);
    }"""
    chat.page.evaluate(script, "long text " * 1000)
    assert "10,000 characters" in chat.page.locator(".paste-chip").inner_text()
    chat.page.reload()
    chat.page.wait_for_selector(".paste-chip")
    assert chat.box.input_value() == "half a thought"
    chat.box.press("Enter")
    chat.done()
    assert chat.box.input_value() == ""
    assert chat.page.locator(".fold").count() == 1  # a long question is folded
    chat.page.reload()
    chat.page.wait_for_selector("body.ready")
    assert chat.box.input_value() == ""


def test_parameters_live_with_the_chat(chat: Chat, engine: FakeEngine) -> None:
    chat.open()
    page = chat.page
    page.click("#params")
    page.fill("#param-temperature", "0.3")
    page.fill("#param-max_tokens", "5")
    page.fill("#system-prompt", "Speak like a pirate.")
    chat.ask("Who are you?")
    request = engine.requests[-1]
    assert (request.params.temperature, request.params.max_tokens) == (0.3, 5)
    assert "cut off" in page.locator(".stats").inner_text()
    page.reload()
    page.wait_for_selector("body.ready")
    page.click("#params")
    assert page.input_value("#param-temperature") == "0.3"
    assert page.input_value("#system-prompt") == "Speak like a pirate."
    page.click("[data-param=temperature] button")
    assert page.input_value("#param-temperature") == ""
    page.check("#data-use")
    chat.until("document.querySelector('#consent').classList.contains('on')")
    path = f"/api/conversations/{chat.id}"
    chat.until(f"fetch('{path}').then(r => r.json()).then(c => c.data_use && !('temperature' in c.params))")
    full = chat.api("GET", f"/api/conversations/{chat.id}")
    assert full["data_use"] is True
    assert full["params"] == {"max_tokens": 5}
