"""A share is a frozen copy, for whom it is meant, until it expires or is revoked."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from tests.web.chat.conftest import Chat, new_chat, ok
from wuya.database.base import now
from wuya.database.connection import writing
from wuya.database.service_tables import Share
from wuya.web.service import Service


def share(chat: Chat, **values: object) -> str:
    return str(ok(chat.client.post(f"/api/conversations/{chat.id}/share", json=values), 201)["id"])


def test_a_share_shows_the_path_as_it_was(chat: Chat, become: Callable[[str], None]) -> None:
    answer = chat.ask("**hello**")
    id = share(chat)
    chat.ask("later", answer["id"])
    chat.generate(answer["id"])
    become("reader")
    shown = ok(chat.client.get(f"/api/shares/{id}"))
    assert [m["content"] for m in shown["messages"]] == ["**hello**", answer["content"]]
    assert shown["messages"][0]["nodes"][0]["children"][0]["type"] == "strong"
    assert shown["name"] is None, "no name unless chosen"
    assert set(shown) == {"id", "title", "name", "created_at", "messages"}


def test_a_revoked_or_expired_share_is_gone(chat: Chat, service: Service, become: Callable[[str], None]) -> None:
    chat.ask("hello")
    revoked, expired, kept = share(chat), share(chat, expires_in_days=1), share(chat, show_name=True)
    listed = ok(chat.client.get("/api/shares"))["items"]
    assert [s["id"] for s in listed] == [kept, expired, revoked]
    assert chat.client.delete(f"/api/shares/{revoked}").status_code == 204
    assert chat.client.delete(f"/api/shares/{revoked}").status_code == 204, "again changes nothing"
    with writing(service.database) as connection:
        connection.execute(update(Share).where(Share.id == expired).values(expires_at=now() - timedelta(seconds=1)))
    assert [s["revoked"] for s in ok(chat.client.get("/api/shares"))["items"]] == [False, False, True]
    become("reader")
    for id in (revoked, expired, "unknown"):
        assert chat.client.get(f"/api/shares/{id}").status_code == 404
        assert chat.client.get(f"/s/{id}").status_code == 404
        assert chat.client.post(f"/api/shares/{id}/fork").status_code == 404
    assert ok(chat.client.get(f"/api/shares/{kept}"))["name"] == "me"


def test_a_share_dies_with_its_chat(chat: Chat) -> None:
    chat.ask("hello")
    id = share(chat)
    chat.patch(trashed=True)
    assert chat.client.get(f"/api/shares/{id}").status_code == 404
    chat.patch(trashed=False)
    assert chat.client.get(f"/api/shares/{id}").status_code == 200
    assert chat.client.delete(f"/api/conversations/{chat.id}?permanent=true").status_code == 204
    assert chat.client.get(f"/api/shares/{id}").status_code == 404


def test_a_reader_goes_on_in_an_account_of_their_own(chat: Chat, become: Callable[[str], None]) -> None:
    answer = chat.ask("hello")
    id = share(chat)
    become("reader")
    copy = ok(chat.client.post(f"/api/shares/{id}/fork"), 201)
    assert [m["content"] for m in copy["messages"]] == ["hello", answer["content"]] and copy["data_use"] is False
    assert chat.client.get(f"/api/conversations/{chat.id}").status_code == 404


def test_names_stay_hidden_while_a_comparison_waits(chat: Chat) -> None:
    chat.say("hello", None, {"compare": True})
    assert ok(chat.client.get(f"/api/shares/{share(chat)}"))["messages"][1]["model"] is None


def test_an_empty_chat_cannot_be_shared(client: TestClient) -> None:
    chat = new_chat(client)
    refused = client.post(f"/api/conversations/{chat.id}/share", json={})
    assert refused.status_code == 422 and refused.json()["code"] == "nothing_to_share"
    assert client.post(f"/api/conversations/{chat.id}/share", json={"leaf_id": "nobody"}).status_code == 422
    assert client.post(f"/api/conversations/{chat.id}/share", json={"expires_in_days": 0}).status_code == 422


class TestWithAccounts:
    """What somebody who is not signed in sees."""

    @pytest.fixture
    def accounts(self) -> bool:
        return True

    def test_links_are_for_everybody_and_the_default_is_not(self, client: TestClient, service: Service) -> None:
        from wuya.web.accounts.store import ensure_single_user
        from wuya.web.chat import messages, schema, shares

        with writing(service.database) as connection:
            user = ensure_single_user(connection, "ann")
            chat = messages.copy_path(connection, user, [{"role": "user", "content": "<b>hi</b>"}], title="t")
            signed_in, link = (
                shares.share(connection, chat, user, schema.NewShare(visibility=v))["id"] for v in ("signed_in", "link")
            )
        assert client.get(f"/api/shares/{signed_in}").status_code == 401
        assert client.get("/api/shares").status_code == 401
        shown = client.get(f"/api/shares/{link}")
        assert shown.status_code == 200 and shown.json()["messages"][0]["nodes"][0]["children"] == ["<b>hi</b>"]
        page = client.get(f"/s/{link}", headers={"accept": "text/html"})
        assert page.status_code == 200 and page.headers["x-robots-tag"] == "noindex, nofollow"
        assert "<b>hi</b>" not in page.text and "&lt;b&gt;hi" in page.text
        refused = client.get(f"/s/{signed_in}", headers={"accept": "text/html"})
        assert refused.status_code == 303 and refused.headers["location"].startswith("/login")
