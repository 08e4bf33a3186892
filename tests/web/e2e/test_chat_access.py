"""For everybody, and nothing from elsewhere: axe, both themes, both languages, keys, weight of the page (E12, E21)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.web.e2e.conftest import Chat
from tests.web.e2e.test_screens import serious_in_both_themes
from wuya.inference.backends.fake import FakeEngine

LOCALES = Path(__file__).parents[3] / "wuya" / "web" / "static" / "locales"
EVERYTHING = """# Title

A [link](https://example.org/), `code`, **bold** and an ![image](https://example.org/tracker.png).

```python
def f(x):  # a comment
    return x + 1
```

| a | b |
|---|--:|
| 1 | 2 |

$$\\sum_{i=1}^n i$$

> quoted
"""


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(script=EVERYTHING, tokens_per_second=5000)


def test_axe_finds_nothing_serious(chat: Chat) -> None:
    page = chat.page
    chat.open()
    assert not serious_in_both_themes(page)
    chat.ask("Show me everything")
    page.click("[data-act=good]")
    page.wait_for_selector(".rating")
    page.click("#params")
    page.click(".drawer details summary")
    assert not serious_in_both_themes(page)
    page.keyboard.press("Escape")
    page.click("#share")
    page.click("[data-act=create-share]")
    page.wait_for_selector(".share")
    assert not serious_in_both_themes(page)


def test_the_first_load_is_light_and_asks_no_other_host(chat: Chat) -> None:
    seen: dict[str, int] = {}
    hosts = set()

    def note(response: Any) -> None:
        hosts.add(response.url.split("/")[2])
        if re.search(r"\.(js|css)(\?|$)", response.url):
            sizes = response.request.sizes()
            seen[response.url] = sizes["responseBodySize"]

    chat.page.on("requestfinished", lambda request: note(request.response()))
    chat.open().ask("Show me everything")
    chat.page.wait_for_timeout(200)
    assert hosts == {chat.url.split("/")[2]}
    assert sum(seen.values()) < 120 * 1024, sorted(seen.items(), key=lambda item: -item[1])
    assert len(seen) > 10


def test_chinese_is_complete_and_nothing_stays_english(chat: Chat, browser: Any) -> None:
    english = json.loads((LOCALES / "en" / "chat.json").read_text(encoding="utf-8"))
    chinese = json.loads((LOCALES / "zh-CN" / "chat.json").read_text(encoding="utf-8"))
    assert list(english) == list(chinese)
    for key in english:
        assert set(re.findall(r"\{(\w+)", english[key])) >= set(re.findall(r"\{(\w+)\}", chinese[key])), key
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    zh = Chat(page, chat.url).open()
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    zh.ask("\u4f60\u597d")
    page.click("#params")
    page.click(".drawer details summary")
    shown = page.locator("body").inner_text()
    labels = page.evaluate(
        "[...document.querySelectorAll('[aria-label],[title],[placeholder]')]"
        ".map(e => [e.ariaLabel, e.title, e.placeholder].join(' ')).join('\\n')"
    )
    texts = {text for text in english.values() if re.fullmatch(r"[A-Z][a-z]+ [a-z ]{6,}[.?]?", text)}
    assert len(texts) > 60
    assert not [text for text in texts if text in shown + labels]
    context.close()


def test_a_pseudo_language_shows_no_text_outside_the_catalogues(chat: Chat) -> None:
    """Every text is put in brackets and made 40 % longer: what has no bracket was not translated."""

    def pseudo(route: Any) -> None:
        texts = route.fetch().json()
        route.fulfill(json={key: f"\u27e6{text} {'~' * (len(text) * 2 // 5)}\u27e7" for key, text in texts.items()})

    chat.page.route("**/locales/**", pseudo)
    chat.open().ask("Q")
    chat.page.click("#params")
    bare = chat.page.evaluate("""() => {
      const found = [];
      const walk = document.createTreeWalker(document.querySelector(".chat"), NodeFilter.SHOW_TEXT);
      while (walk.nextNode()) {
        const { nodeValue: text, parentElement: host } = walk.currentNode;
        const names = ".md, option, .history-title, #title, .meter-text, .model-name, .who";
        const drawn = host.checkVisibility() && !host.closest(names);
        if (drawn && /[a-z]{3}/i.test(text) && !/[\u27e6~]/.test(text)) found.push(text);
      }
      return found;
    }""")
    server_side = {"New chat", "Models make mistakes. Check what matters."}  # from the template, same catalogue
    assert set(bare) - server_side == set()
    assert chat.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_whole_page_works_by_keyboard(chat: Chat) -> None:
    page = chat.open().page
    page.keyboard.press("Control+k")
    page.wait_for_selector("dialog[open] [role=combobox]")
    page.keyboard.type("param")
    page.keyboard.press("Enter")
    page.wait_for_selector("#drawer:not([hidden])")
    page.keyboard.press("Escape")
    chat.ask("Show me everything")
    page.locator(".msg.assistant").focus()
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.classList.contains('user')")
    page.keyboard.press("e")
    page.wait_for_selector(".edit-area")
    page.keyboard.press("Escape")
    page.locator(".msg.assistant").focus()
    page.keyboard.press("r")
    chat.until("document.querySelector('.branch-count')?.innerText === '2/2'")
    chat.done()
    page.locator(".msg.assistant").focus()
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] .keys")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+o")
    page.wait_for_selector("#welcome:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "message"
    assert page.locator("#thread").get_attribute("aria-live") == "off"  # tokens are not read out


def test_a_link_says_where_it_leads_and_an_image_is_never_fetched(chat: Chat) -> None:
    asked: list[str] = []
    chat.page.on("request", lambda request: asked.append(request.url))
    chat.open().ask("Show me everything")
    chat.page.locator(".md a.external").first.click()
    dialog = chat.page.locator("dialog[open]")
    assert "example.org" in dialog.inner_text()
    assert dialog.locator("a").get_attribute("rel") == "noopener noreferrer nofollow"
    assert chat.page.locator(".md img").count() == 0
    assert not [url for url in asked if "example.org" in url]
