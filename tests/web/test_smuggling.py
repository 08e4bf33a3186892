"""What must not pass by a side door: blocked words in any string, the names of blind answers, streams of the barred."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.web.chat.conftest import Chat, new_chat, ok
from tests.web.labeling.desk import begin, claim, make_project, sign_in
from wuya.database.connection import writing
from wuya.database.labeling_tables import User
from wuya.inference.backends.fake import FakeEngine
from wuya.web.accounts import store
from wuya.web.accounts.admin import keep_an_admin
from wuya.web.errors import ApiError
from wuya.web.runs import routes
from wuya.web.service import Service


def block(client: TestClient) -> None:
    rule = {"name": "r", "action": "block", "stages": ["input"], "words": ["gunpowder"]}
    ok(client.put("/api/admin/moderation/rules", json={"items": [rule]}))


def says(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text, **more}, {"role": "user", "content": "go on"}]}


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\u0067unpowder"}'}}
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"gunpowder": {"type": "string"}}}}


@pytest.mark.parametrize(
    "body",
    [
        says("gunpowder", "assistant"),
        says("x", name="gunpowder"),
        says("x", "assistant", tool_calls=[CALL]),
        says("x") | {"tools": [{"type": "function", "function": TOOL}]},
        says("x") | {"tools": [{"type": "function", "function": {"name": "f", "description": "no\ngunpowder"}}]},
    ],
)
def test_rules_read_every_string_that_a_program_sends(client: TestClient, engine: FakeEngine, body: Any) -> None:
    block(client)
    model = client.get("/v1/models").json()["data"][0]["id"]
    answer = client.post("/v1/chat/completions", json={"model": model, **body})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "content_policy_violation", answer.text
    assert not engine.requests


def test_rules_read_prompts_that_come_as_ids(client: TestClient, engine: FakeEngine) -> None:
    block(client)
    model = client.get("/v1/models").json()["data"][0]["id"]
    ids = ok(client.post("/v1/tokenize", json={"model": model, "prompt": "about gunpowder"}))["tokens"]
    answer = client.post("/v1/completions", json={"model": model, "prompt": ids})
    assert answer.status_code == 400 and not engine.requests, answer.text


@pytest.mark.parametrize("where", ["system", "user", "assistant"])
def test_rules_read_what_was_imported_or_set_up(client: TestClient, engine: FakeEngine, where: str) -> None:
    block(client)
    if where == "system":
        chat = new_chat(client, system_prompt="speak of gunpowder")
        answer = client.post(f"/api/conversations/{chat.id}/messages", json={"content": "hello", "generate": {}})
    else:
        turns = [("m", None, where if where == "user" else "user", "gunpowder" if where == "user" else "x")]
        turns += [("n", "m", "assistant", "gunpowder" if where == "assistant" else "x"), ("o", "n", "user", "go on")]
        messages = [{"id": i, "parent_id": p, "role": r, "content": c} for i, p, r, c in turns]
        file = {"format": "wuya.conversations", "version": 1, "conversations": [{"id": "c", "messages": messages}]}
        id = ok(client.post("/api/import", json=file), 201)["conversations"][0]["id"]
        asked = ok(client.get(f"/api/conversations/{id}"))["messages"][-1]["id"]
        answer = client.post(f"/api/messages/{asked}/generate", json={})
    assert answer.status_code == 400 and answer.json()["code"] == "content_policy_violation", answer.text
    assert not engine.requests


def test_exports_keep_blind_answers_blind(client: TestClient) -> None:
    chat = new_chat(client)
    said = chat.say("hello", None, {"compare": True})
    alias = ok(client.get("/api/models"))["items"][0]["alias"]
    for format in ("json", "md"):
        text = client.get(f"/api/conversations/{chat.id}/export", params={"format": format}).text
        assert f'"model": "{alias}"' not in text and f"({alias})" not in text, text
    body = {"comparison_id": said["comparison"]["id"], "outcome": "left"}
    assert ok(client.post("/api/comparisons", json=body))["models"]["left"] == alias
    assert f'"model": "{alias}"' in client.get(f"/api/conversations/{chat.id}/export").text


class TestPeople:
    @pytest.fixture
    def accounts(self) -> bool:
        return True

    def test_ids_of_answers_do_not_tell_the_order_of_the_models(self, client: TestClient, service: Service) -> None:
        client.headers["cookie"] = "=".join(sign_in(service, "lea", "lead"))
        project = make_project(client, tasks=6, k=4)
        begin(client, project)
        in_order = 0
        for _ in range(6):
            task = claim(client, project)
            ids = [c["id"] for c in sorted(task["candidates"], key=lambda c: int(c["text"].split()[1]))]
            in_order += ids == sorted(ids)
            ok(client.post(f"/api/assignments/{task['id']}/skip", json={"reason": "x"}))
        assert in_order < 5

    def test_a_stream_of_runs_ends_with_its_viewers_right(
        self, app: FastAPI, client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(routes, "LOOK_SECONDS", 0.01)
        monkeypatch.setattr(routes, "PING_SECONDS", 0.02)
        cookie = "=".join(sign_in(service, "lea", "lead")).encode()
        request = Request({"type": "http", "method": "GET", "headers": [(b"cookie", cookie)], "app": app})

        async def watch() -> int:
            count = 0
            async with asyncio.timeout(20):
                async for _ in routes._follow(request, service, {}):
                    count += 1
                    if count == 3:
                        with writing(service.database) as connection:
                            connection.execute(User.__table__.update().values(status="suspended"))
            return count

        assert 3 <= asyncio.run(watch()) < 10

    def test_the_last_admin_is_found_among_many(self, service: Service) -> None:
        with writing(service.database) as connection:
            named = [("ann", "admin"), ("bo", "admin"), *((f"user {n}", "user") for n in range(201))]
            ids = [
                store.add_user(connection, email=f"{i}@x.org", name=name, password_hash="x", role=role)
                for i, (name, role) in enumerate(named)
            ]
            keep_an_admin(connection, ids[0])
            store.change_user(connection, ids[1], role="user")
            with pytest.raises(ApiError, match="last admin"):
                keep_an_admin(connection, ids[0])


def test_chat_of_a_clean_text_goes_on(client: TestClient) -> None:
    block(client)
    chat: Chat = new_chat(client, system_prompt="be kind")
    assert chat.ask("hello")["status"] == "complete"
