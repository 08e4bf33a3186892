"""Finding, sorting, sharing, exporting and deleting chats (E10, E11)."""

import json
from pathlib import Path
from typing import Any

from tests.web.e2e.conftest import Chat


def titles(chat: Chat) -> list[str]:
    found: list[str] = chat.page.locator(".history-row .history-title").all_text_contents()
    return found


def make(chat: Chat, *texts: str) -> list[str]:
    """Chats with one question each, without the model."""
    ids = []
    for text in texts:
        made = chat.api("POST", "/api/conversations", {"title": text})
        chat.api("POST", f"/api/conversations/{made['id']}/messages", {"content": text, "parent_id": None})
        ids.append(made["id"])
    return ids


def test_search_finds_two_chinese_characters_and_opens_the_message(chat: Chat) -> None:
    chat.open()
    make(chat, "Rivers and mountains", "\u68af\u5ea6\u4e0b\u964d\u662f\u4ec0\u4e48", "Bread")
    chat.page.reload()
    chat.page.wait_for_selector("[data-chat]")
    assert titles(chat)[0] == "Bread"
    chat.page.fill("#chat-search", "\u68af\u5ea6")
    chat.until("document.querySelectorAll('.hit mark').length > 0")
    assert "\u68af\u5ea6" in chat.page.locator(".hit mark").all_inner_texts()
    chat.page.locator(".hit a").last.click()
    chat.page.wait_for_selector(".msg.user")
    assert chat.messages("user") == ["\u68af\u5ea6\u4e0b\u964d\u662f\u4ec0\u4e48"]
    chat.page.fill("#chat-search", "nowhere to be found")
    chat.page.wait_for_selector(".history-note")
    chat.page.locator("#chat-search").press("Escape")
    chat.until("document.querySelectorAll('[data-chat]').length === 3")


def test_archive_trash_and_delete_one_or_several(chat: Chat) -> None:
    chat.open()
    make(chat, "One", "Two", "Three")
    page = chat.page
    page.reload()
    page.wait_for_selector("[data-chat]")

    def act(row: str, entry: str) -> None:
        page.locator(".history-row", has_text=row).hover()
        page.locator(".history-row", has_text=row).locator("button").click()
        page.click(f"role=menuitem[name='{entry}']")

    act("Three", "Archive")
    chat.until("document.querySelectorAll('[data-chat]').length === 2")
    page.click("#history-menu")
    page.click("role=menuitem[name='Select several']")
    page.click(".bulk-bar .text-button")
    page.click("[data-bulk=trash]")
    chat.until("document.querySelectorAll('[data-chat]').length === 0")
    page.click("#history-menu")
    page.click("role=menuitemradio[name='Trash']")
    chat.until("document.querySelectorAll('[data-chat]').length === 2")
    assert sorted(titles(chat)) == ["One", "Two"]
    act("One", "Delete for good")
    page.locator("dialog .button.danger").click()
    chat.until("document.querySelectorAll('[data-chat]').length === 1")
    act("Two", "Restore")
    chat.until("document.querySelectorAll('[data-chat]').length === 0")
    for state, count in {"active": 1, "archived": 1, "trash": 0}.items():
        chat.until_kept(f"/api/conversations?state={state}", f"it.items.length === {count}")


def test_share_shows_a_frozen_copy_until_it_is_revoked(chat: Chat, browser: Any) -> None:
    chat.open().ask("Share me")
    page = chat.page
    page.click("#share")
    page.locator("dialog input[value=link]").check()
    page.click("[data-act=create-share]")
    link = page.locator(".share-link input")
    address = link.input_value()
    page.keyboard.press("Escape")
    chat.ask("Not in the copy")

    visitor = browser.new_context()
    other = visitor.new_page()
    assert other.goto(address).headers["x-robots-tag"].startswith("noindex")
    other.wait_for_selector(".msg.assistant")
    assert other.locator(".msg.user").all_inner_texts() == ["Share me"]
    page.click("#share")
    page.click("[data-act=revoke]")
    page.wait_for_selector(".share", state="detached")
    assert other.goto(address).status == 404
    visitor.close()


def test_export_and_import_are_a_round_trip(chat: Chat, tmp_path: Path) -> None:
    chat.open().ask("Take me along")
    page = chat.page
    before = chat.messages()
    page.click("#chat-menu")
    with page.expect_download() as download:
        page.click("role=menuitem[name='Export as JSON']")
    file = tmp_path / "chat.json"
    download.value.save_as(file)
    assert "Take me along" in json.dumps(json.loads(file.read_text(encoding="utf-8")))
    chat.api("DELETE", f"/api/conversations/{chat.id}?permanent=true")  # what is here already would be skipped
    chat.open()
    page.click("#history-menu")
    page.click("role=menuitem[name='Import chats']")
    page.set_input_files("#import-file", file)
    page.wait_for_selector(".msg.assistant .tools")
    assert chat.messages() == before
    assert page.locator("[data-chat]").count() == 1
