"""Answers are encoded off the event loop, in the form that FastAPI gives them; long chats come in parts."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.web.chat.conftest import new_chat, ok
from wuya.web import routing
from wuya.web.chat.views import MOST_CHARACTERS, drawings
from wuya.web.markdown.nodes import render
from wuya.web.sane_json import SaneJSONResponse

ODD = {"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "sets": {1}, 3: "number", "in": [{"at": datetime(2026, 1, 2)}]}


def test_what_fastapi_would_write_without_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding: list[threading.Thread] = []
    render_as_it_is = SaneJSONResponse.render

    def noted(self: SaneJSONResponse, content: Any) -> bytes:
        encoding.append(threading.current_thread())
        return render_as_it_is(self, content)

    app, plain, ours = FastAPI(default_response_class=SaneJSONResponse), FastAPI().router, routing.Router()
    loops: list[threading.Thread] = []
    for router, place in ((plain, "/plain"), (ours, "/ours")):

        @router.get(place)
        def here() -> dict[Any, Any]:
            return ODD

        @router.post(place, status_code=201)
        async def there() -> dict[Any, Any]:
            loops.append(threading.current_thread())
            return {**ODD, (1, "b"): 2}

        app.include_router(router)
    with TestClient(app) as client:
        first = [client.get("/plain"), client.post("/plain")]
        monkeypatch.setattr(SaneJSONResponse, "render", noted)
        second = [client.get("/ours"), client.post("/ours")]
        schema = client.get("/openapi.json").json()["paths"]
    assert [(a.status_code, a.content) for a in first] == [(a.status_code, a.content) for a in second]
    assert len(encoding) >= 2 and not set(encoding[:2]) & set(loops)
    plain_schema = str(schema["/plain"]).replace("plain", "ours").replace("Plain", "Ours")
    assert plain_schema == str(schema["/ours"])


def test_texts_beyond_the_most_are_not_drawn() -> None:
    long = "*word* " * (MOST_CHARACTERS // 14 + 1)
    first, second, third = drawings([long, long, "*short*"])
    assert first == render(long) and third[0]["children"] == ["*short*"]
    assert second == [{"type": "paragraph", "children": [long]}]


def test_long_messages_come_in_parts(client: TestClient) -> None:
    chat = new_chat(client)
    texts = [f"{n} " + "word " * (MOST_CHARACTERS // 15) for n in range(7)]
    parent = None
    for text in texts:
        parent = chat.say(text, parent)["message"]["id"]
    shown = chat.get()
    found, before = shown["messages"], shown["before"]
    assert len(found) == 2 and before == found[0]["id"]
    while before:
        page = ok(client.get(f"/api/conversations/{chat.id}/messages", params={"before": before}))
        assert 1 <= len(page["items"]) <= 2
        found, before = page["items"] + found, page["next"]
    assert [message["content"] for message in found] == texts
