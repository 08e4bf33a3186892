"""An admin invites, the invited joins, is suspended and is out at once: two browsers on one server."""

from typing import Any

import pytest

from wuya.web.accounts import flows

PASSWORD = "ravens solve puzzles"


@pytest.fixture
def accounts() -> bool:
    return True


def test_invite_join_suspend(live_server: Any, page: Any, browser: Any) -> None:
    page.goto(flows.setup_link(live_server.service, live_server.url))
    page.locator("input[name=email]").fill("ann@example.org")
    page.locator("input[name=name]").fill("Ann")
    page.locator("input[name=password]").fill(PASSWORD)
    page.get_by_label("By invitation").check()
    page.locator("form button.primary").click()
    page.wait_for_url(lambda url: "/setup" not in url)
    page.goto(live_server.url + "/admin#users")
    page.get_by_role("button", name="Invite").click()
    page.get_by_role("dialog").get_by_label("Role").select_option("labeler")
    page.get_by_role("button", name="Make the link").click()
    link = page.locator(".link-once code").inner_text()
    context = browser.new_context(locale="en-US")
    context.set_default_timeout(30_000)
    other = context.new_page()
    other.goto(link)
    other.locator("input[name=email]").fill("bo@example.org")
    other.locator("input[name=name]").fill("Bo")
    other.locator("input[name=password]").fill(PASSWORD)
    other.locator("form button.primary").click()
    other.wait_for_url(lambda url: "/join" not in url)
    page.keyboard.press("Escape")
    page.reload()
    page.get_by_role("button", name="Actions for Bo").click()
    page.get_by_role("menuitem", name="Suspend").click()
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("suspended").wait_for()
    other.goto(live_server.url + "/account")
    other.wait_for_url("**/login?next=**")
    context.close()
