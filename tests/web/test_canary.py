"""A canary answers its share of the chats, each chat always by the same version, until it is promoted or ended."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from tests.web.chat.conftest import new_chat
from tests.web.test_runs import make_run
from wuya.database.connection import reading
from wuya.database.labeling_tables import ModelVersion
from wuya.database.service_tables import ChatMessage, Generation
from wuya.inference.backends.fake import FakeEngine
from wuya.web.engines import promoted
from wuya.web.service import Service
from wuya.web.settings import Settings
from wuya.web.traffic import Share

Json = dict[str, Any]


@pytest.fixture
def versions(client: TestClient, settings: Settings) -> dict[str, str]:
    """Ids of two versions by name; `live` answers as `ppo`."""
    ids = {}
    for name in ("live", "next"):
        make_run(settings.workspace / "runs", name)
        ids[name] = client.post("/api/model-versions", json={"run": name}).json()["id"]
    assert client.post("/api/models/ppo/promote", json={"version_id": ids["live"]}).status_code == 200
    return ids


def canary(client: TestClient, percent: int, version: str | None = None) -> Json:
    body = {"percent": percent} | ({"version_id": version} if version else {})
    answer = client.post("/api/models/ppo/canary", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def version_of(service: Service, chat: str) -> str:
    with reading(service.database) as connection:
        row = connection.execute(
            select(
                ChatMessage.model_version_id, ChatMessage.model_alias, Generation.model_version_id, ModelVersion.name
            )
            .join(Generation, Generation.id == ChatMessage.generation_id)
            .join(ModelVersion, ModelVersion.id == ChatMessage.model_version_id)
            .where(ChatMessage.conversation_id == chat, ChatMessage.role == "assistant")
            .order_by(ChatMessage.id.desc())
        ).first()
    assert row is not None and row[0] == row[2] and row[1] == "ppo"
    return str(row[3])


def test_a_larger_share_only_moves_chats_towards_the_canary() -> None:
    chats = [f"chat {n}" for n in range(2000)]
    before: set[str] = set()
    for percent in (0, 1, 10, 50, 100):
        chosen = {chat for chat in chats if Share("v", percent).has(chat)}
        assert before <= chosen and abs(len(chosen) / len(chats) - percent / 100) < 0.03
        before = chosen
    other = {chat for chat in chats if Share("another", 50).has(chat)}
    assert other != {chat for chat in chats if Share("v", 50).has(chat)}, "each canary meets other chats"


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what the server does after it has answered."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_share_of_the_chats_and_always_the_same_ones(
    client: TestClient, service: Service, engine: FakeEngine, versions: dict[str, str]
) -> None:
    row = canary(client, 50, versions["next"])
    assert (row["version"], row["canary"], row["canary_pct"]) == ("live", "next", 50)
    chats = [new_chat(client, model="ppo") for _ in range(12)]
    expected = {chat.id: "next" if Share(versions["next"], 50).has(chat.id) else "live" for chat in chats}
    for _ in range(2):
        for chat in chats:
            answer = chat.ask("hello")
            assert answer["model"] == "ppo", "people never see the engine's name of a canary"
            assert version_of(service, chat.id) == expected[chat.id]
    aliases = {request.model for request in engine.requests}
    assert aliases == {"ppo@canary" if name == "next" else "ppo" for name in expected.values()}
    opinions = client.get("/api/registry").json()["opinions"]
    assert sum(found["answers"] for found in opinions.values()) == 24
    until(lambda: sum(row["requests"] for row in client.get("/api/usage").json()["items"]) == 24)
    assert {row["model"] for row in client.get("/api/usage").json()["items"]} == {"ppo"}


def test_nobody_can_ask_for_a_canary_by_name(client: TestClient, versions: dict[str, str]) -> None:
    canary(client, 10, versions["next"])
    assert [model["alias"] for model in client.get("/api/models").json()["items"]] == ["fake", "ppo"]
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["fake", "ppo"]
    assert client.post("/api/conversations", json={"model": "ppo@canary"}).status_code == 404
    body = {"model": "ppo@canary", "messages": [{"role": "user", "content": "hello"}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 404
    assert client.post("/api/tokenize", json={"model": "ppo@canary", "text": "x"}).status_code == 404


def test_promote_in_full(client: TestClient, engine: FakeEngine, versions: dict[str, str]) -> None:
    canary(client, 10, versions["next"])
    row = client.post("/api/models/ppo/promote", json={"version_id": versions["next"]}).json()
    assert (row["version"], row["canary"], row["canary_pct"], row["history"]) == ("next", None, 0, [versions["live"]])
    loaded = {model.alias: Path(model.path).parent.name for model in engine.info().models if model.path}
    assert loaded == {"ppo": "next"}, "the canary's memory is free again"


def test_roll_back_ends_the_canary_first(
    client: TestClient, service: Service, engine: FakeEngine, versions: dict[str, str]
) -> None:
    canary(client, 100, versions["next"])
    chat = new_chat(client, model="ppo")
    chat.ask("hello")
    assert version_of(service, chat.id) == "next"
    row = client.post("/api/models/ppo/rollback").json()
    assert (row["version"], row["canary"]) == ("live", None)
    assert "ppo@canary" not in {model.alias for model in engine.info().models}
    chat.ask("again", parent=chat.get()["active_leaf_id"])
    assert version_of(service, chat.id) == "live"
    assert client.post("/api/models/ppo/rollback").json()["code"] == "no_history"
    actions = [row["action"] for row in client.get("/api/admin/audit").json()["items"]]
    assert actions[:3] == ["model.canary", "model.canary", "model.promote"]
    states = {row["name"]: row["state"] for row in client.get("/api/registry").json()["versions"]}
    assert (states["live"], states["next"]) == ("live", "retired")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"percent": 101}, 422, "invalid_value"),
        ({"percent": 10}, 409, "no_canary"),
        ({"percent": 10, "version_id": "nobody"}, 404, "not_found"),
    ],
)
def test_refusals(client: TestClient, versions: dict[str, str], body: Json, status: int, code: str) -> None:
    answer = client.post("/api/models/ppo/canary", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    live = client.post("/api/models/ppo/canary", json={"percent": 10, "version_id": versions["live"]})
    assert live.json()["code"] == "is_live"
    unknown = client.post("/api/models/nobody/canary", json={"percent": 10, "version_id": versions["next"]})
    assert unknown.status_code == 404


def test_a_canary_that_is_not_loaded_gets_no_chats(
    client: TestClient, service: Service, engine: FakeEngine, versions: dict[str, str]
) -> None:
    canary(client, 100, versions["next"])
    del engine._models["ppo@canary"]
    chat = new_chat(client, model="ppo")
    chat.ask("hello")
    assert version_of(service, chat.id) == "live"


def test_the_next_start_loads_it_again(client: TestClient, database: str | Path, versions: dict[str, str]) -> None:
    canary(client, 30, versions["next"])
    found = {alias: Path(path).parent.name for alias, path in promoted(database).items()}
    assert found == {"ppo": "live", "ppo@canary": "next"}
    canary(client, 0)
    assert set(promoted(database)) == {"ppo"}


def test_what_was_never_registered_has_a_version_all_the_same(client: TestClient, service: Service) -> None:
    chat = new_chat(client)
    chat.ask("hello")
    with reading(service.database) as connection:
        query = select(ModelVersion.name).join(ChatMessage, ChatMessage.model_version_id == ModelVersion.id)
        assert connection.execute(query).scalars().all() == ["fake"]


def test_on_the_models_page(live_server: Any, page: Any, settings: Settings) -> None:
    for name in ("live", "next"):
        make_run(settings.workspace / "runs", name)
    page.goto(live_server.url + "/models")
    for _ in range(2):
        page.get_by_role("button", name="Register").first.click()
        page.locator("tbody tr").nth(_).wait_for()
    page.locator("tr", has_text="next").locator("[data-act=canary]").click()
    page.get_by_label("Percent of the chats").fill("25")
    page.locator("[data-act=start-canary]").click()
    card = page.locator("section.card", has_text="fake").first
    card.get_by_text("25% of the chats").wait_for()
    card.locator("[data-act=canary_promote]").click()
    page.locator(".canary").wait_for(state="detached")
    card.locator("p", has_text="next").wait_for()
