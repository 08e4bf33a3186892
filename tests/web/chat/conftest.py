"""Chats as tests make them: a conversation, a message answered to its end, another person."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.testclient import TestClient

from wuya.database.connection import writing
from wuya.web.accounts.auth import Viewer
from wuya.web.accounts.store import ensure_single_user
from wuya.web.service import Service

Json = dict[str, Any]


@dataclass
class Chat:
    """A conversation over HTTP."""

    client: TestClient
    id: str

    def get(self) -> Json:
        return ok(self.client.get(f"/api/conversations/{self.id}"))

    def patch(self, **values: Any) -> Json:
        return ok(self.client.patch(f"/api/conversations/{self.id}", json=values))

    def say(self, content: str, parent: str | None = None, generate: Json | None = None, **values: Any) -> Json:
        """Send and (with `generate`) wait for the answers; the response, with final messages."""
        body = {"content": content, "parent_id": parent, "generate": generate, **values}
        return self.settle(ok(self.client.post(f"/api/conversations/{self.id}/messages", json=body), 201))

    def ask(self, content: str, parent: str | None = None) -> Json:
        """One question, one answer: the answer."""
        return self.say(content, parent, {})["messages"][0]

    def generate(self, message: str, **options: Any) -> Json:
        return self.settle(ok(self.client.post(f"/api/messages/{message}/generate", json=options), 202))

    def settle(self, answer: Json) -> Json:
        wait(self.client, [g["id"] for g in answer["generations"]])
        answer["messages"] = [ok(self.client.get(f"/api/messages/{m['id']}")) for m in answer["messages"]]
        return answer


def ok(response: Any, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def wait(client: TestClient, generations: list[str]) -> None:
    """Until the jobs have ended."""
    deadline = time.monotonic() + 20
    for id in generations:
        while ok(client.get(f"/api/generations/{id}"))["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, "the generation does not end"
            time.sleep(0.01)


def server_events(lines: Any) -> list[tuple[str, str, Json]]:
    """(id, event, data) of a stream's lines."""
    found, current = [], {}
    for line in lines:
        if line.startswith(("id: ", "event: ", "data: ")):
            name, _, value = line.partition(": ")
            current[name] = value
        elif not line and "event" in current:
            found.append((current["id"], current["event"], json.loads(current["data"])))
            current = {}
    return found


@pytest.fixture
def chat(client: TestClient) -> Chat:
    return new_chat(client)


def new_chat(client: TestClient, **values: Any) -> Chat:
    return Chat(client, ok(client.post("/api/conversations", json=values), 201)["id"])


@pytest.fixture
def become(service: Service) -> Callable[[str], None]:
    """From now on requests come from somebody else, a plain user."""

    def change(name: str) -> None:
        with writing(service.database) as connection:
            service.put(Viewer(ensure_single_user(connection, name), "user", name=name))

    return change
