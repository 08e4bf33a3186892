"""The page Keys & usage in a real browser."""

from typing import Any

import pytest

from tests.web.conftest import LiveServer, shoot
from wuya.web.api.key_text import looks_like_ours

pytest.importorskip("playwright")


def test_make_use_and_revoke_a_key(live_server: LiveServer, page: Any) -> None:
    page.set_default_timeout(30_000)
    page.goto(live_server.url + "/keys")
    page.get_by_text("No keys yet").wait_for()
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("notebook <b>x</b>")
    page.get_by_label("Tokens a month").fill("5000")
    shoot(page, "keys-new")
    page.keyboard.press("Enter")
    page.get_by_text("Copy it now").wait_for()
    secret = page.locator("dialog .copy-line code").first.inner_text()
    assert looks_like_ours(secret)
    assert secret in page.locator("dialog .copy-line code").nth(1).inner_text()
    shoot(page, "keys-secret")
    page.get_by_role("button", name="I stored it").click()
    row = page.locator("tbody tr")
    row.wait_for()
    shoot(page, "keys-table")
    assert "notebook <b>x</b>" in row.inner_text() and secret not in page.content()
    answer = page.request.post(
        live_server.url + "/v1/chat/completions",
        data={"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5},
        headers={"authorization": f"Bearer {secret}"},
    )
    assert answer.ok, answer.text()

    page.get_by_role("tab", name="Usage").click()
    page.locator("svg.usage-chart").wait_for()
    assert "notebook" in page.locator("table").inner_text()
    shoot(page, "keys-usage")
    page.get_by_role("tab", name="Keys", exact=True).click()

    page.get_by_role("button", name="Actions for").click()
    page.get_by_role("menuitem", name="Revoke").click()
    page.locator("dialog").get_by_role("button", name="Revoke").click()
    page.get_by_text("No keys yet").wait_for()


def test_a_refused_form_says_why_and_stays(live_server: LiveServer, page: Any) -> None:
    page.goto(live_server.url + "/keys")
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("x")
    for name in ("chat", "completions", "embeddings"):
        page.get_by_label(name, exact=True).uncheck()
    page.get_by_role("button", name="Create").click()
    page.locator("dialog [role=alert]:visible").wait_for()
    assert page.get_by_label("Name").input_value() == "x"


def test_narrow_dark_and_chinese(live_server: LiveServer, page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    page.context.add_cookies([{"name": "wuya_locale", "value": "zh-CN", "url": live_server.url}])
    page.goto(live_server.url + "/keys")
    page.locator("#new-key").wait_for()
    page.locator("main .copy-line").wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    assert "keys." not in page.locator("main").inner_text()
    shoot(page, "keys-zh-360-dark")
