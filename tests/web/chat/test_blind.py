"""Until the vote nothing tells which model wrote which of two answers: no name, no token count, no speed, no time."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.web.chat.conftest import Chat, Json, new_chat, ok, server_events, wait
from wuya.inference.backends.fake import FakeEngine
from wuya.web.chat.jobs import GenerationHub
from wuya.web.service import Service

TELLING = {"model", "prompt_tokens", "completion_tokens", "tps", "started_at", "first_token_at", "ended_at"}
TELLING |= {"n", "prompt", "completion", "models", "seed", "params", "model_alias", "model_version_id", "fingerprint"}


def told(value: Any, path: str = "") -> Iterator[str]:
    """Places in an answer of the API that hold something telling."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if key in TELLING and inside is not None and not isinstance(inside, dict | list):
                yield f"{path}.{key}"
            yield from told(inside, f"{path}.{key}")
    elif isinstance(value, list):
        for inside in value:
            yield from told(inside, path)


def events(client: TestClient, generation: str) -> list[tuple[str, str, Json]]:
    """All of them, from the first on."""
    with client.stream("GET", f"/api/generations/{generation}/events?last_event_id={generation}:0") as stream:
        return server_events(stream.iter_lines())


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(models=("one", "two"))


@pytest.fixture
def chat(client: TestClient) -> Chat:
    return new_chat(client)


@pytest.fixture
def pair(chat: Chat, engine: FakeEngine) -> Json:
    """Two answers of two models, not voted on."""
    engine.script = "some words of an answer"
    body = {"content": "hello", "id": None, "generate": {"models": ["one", "two"]}}
    begun = ok(chat.client.post(f"/api/conversations/{chat.id}/messages", json=body), 201)
    wait(chat.client, [g["id"] for g in begun["generations"]])
    return dict(begun)


def test_no_answer_of_the_api_tells_the_models(client: TestClient, service: Service, chat: Chat, pair: Json) -> None:
    jobs, sides = [g["id"] for g in pair["generations"]], [pair["comparison"][side] for side in ("left", "right")]
    shown: dict[str, Any] = {"say": {**pair, "conversation": None}}
    shown |= {f"message {n}": ok(client.get(f"/api/messages/{id}")) for n, id in enumerate(sides)}
    shown |= {f"generation {n}": ok(client.get(f"/api/generations/{id}")) for n, id in enumerate(jobs)}
    shown |= {f"stop {n}": ok(client.post(f"/api/generations/{id}/stop"), 202) for n, id in enumerate(jobs)}
    shown |= {f"select {n}": ok(client.post(f"/api/messages/{id}/select")) for n, id in enumerate(sides)}
    found = chat.get()
    shown["conversation"] = [found["messages"][-1], found["generations"], found["comparisons"]]
    shown |= {f"events {n}": [data for _, _, data in events(client, id)] for n, id in enumerate(jobs)}
    service.get(GenerationHub).jobs.clear()  # as another web process tells it
    shown |= {f"later events {n}": [data for _, _, data in events(client, id)] for n, id in enumerate(jobs)}
    assert {what: list(told(value)) for what, value in shown.items() if list(told(value))} == {}


def test_the_vote_tells_everything(client: TestClient, pair: Json) -> None:
    body = {"comparison_id": pair["comparison"]["id"], "outcome": "left"}
    models = ok(client.post("/api/comparisons", json=body))["models"]
    message = ok(client.get(f"/api/messages/{pair['comparison']['left']}"))
    assert message["model"] == models["left"] and message["prompt_tokens"] and message["completion_tokens"]
    generation = ok(client.get(f"/api/generations/{message['generation_id']}"))
    assert generation["ended_at"] and generation["completion_tokens"] == message["completion_tokens"]


def test_streams_of_a_pair_hold_no_counts(client: TestClient, engine: FakeEngine, chat: Chat) -> None:
    """While they are written; the events of a single answer go on to hold them."""
    engine.script, engine.tokens_per_second = "word " * 40, 100
    body = {"content": "hello", "generate": {"models": ["one", "two"]}}
    begun = ok(client.post(f"/api/conversations/{chat.id}/messages", json=body), 201)
    for generation in begun["generations"]:
        seen = events(client, generation["id"])
        assert seen[-1][1] == "final" and "delta" in {name for _, name, _ in seen}
        assert list(told([data for _, _, data in seen])) == []
    single = ok(client.post(f"/api/conversations/{chat.id}/messages", json={"content": "x", "generate": {}}), 201)
    seen = events(client, single["generations"][0]["id"])
    assert {"usage"} <= {name for _, name, _ in seen} and any(data.get("n") for _, _, data in seen)


def test_usage_has_no_row_per_model_before_the_vote(client: TestClient, chat: Chat, pair: Json) -> None:
    """What one model wrote on this day, less what it wrote before, is the length of its answer."""
    [row] = ok(client.get("/api/usage"))["items"]
    assert row["model"] == "" and row["requests"] == 2
    [everybodys] = ok(client.get("/api/usage", params={"everyone": True}))["items"]
    assert everybodys == row
    ok(client.post("/api/comparisons", json={"comparison_id": pair["comparison"]["id"], "outcome": "tie"}))
    items = ok(client.get("/api/usage"))["items"]
    assert {item["model"] for item in items} == {"one", "two"}
    assert sum(item["completion_tokens"] for item in items) == row["completion_tokens"]


def test_a_blind_answer_is_not_continued(client: TestClient, pair: Json) -> None:
    """A refusal for want of room would tell the length of its model's context."""
    answer = client.post(f"/api/messages/{pair['comparison']['left']}/continue")
    assert answer.status_code == 409 and answer.json()["code"] == "vote_first"
