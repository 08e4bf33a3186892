"""The events over real HTTP: while they happen, after a broken line, to several pages, and at the end of the server."""

import threading
import time
from typing import Any

import httpx
import pytest

from tests.web.chat.conftest import ok, server_events
from wuya.inference.backends.fake import FakeEngine

WORDS = [f"word{i}" for i in range(60)]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(script=" ".join(WORDS), tokens_per_second=100)


@pytest.fixture
def http(live_server: Any) -> Any:
    with httpx.Client(base_url=live_server.url, timeout=30) as client:
        yield client


def ask(http: httpx.Client) -> dict[str, Any]:
    chat = ok(http.post("/api/conversations", json={}), 201)["id"]
    return dict(ok(http.post(f"/api/conversations/{chat}/messages", json={"content": "hello", "generate": {}}), 201))


def read(http: httpx.Client, generation: str, *, last: str = "", most: int = 10_000) -> list[tuple[str, str, Any]]:
    headers = {"last-event-id": last} if last else {}
    lines: list[str] = []
    with http.stream("GET", f"/api/generations/{generation}/events", headers=headers) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no" and "content-encoding" not in response.headers
        for line in response.iter_lines():
            lines.append(line)
            if lines.count("") >= most:
                break
    return server_events(lines)


def text_of(events: list[tuple[str, str, Any]]) -> str:
    text = ""
    for _, name, data in events:
        text = data["text"] if name == "snapshot" else text + data["t"] if name == "delta" else text
    return text


def test_text_comes_while_it_is_written(http: httpx.Client) -> None:
    generation = ask(http)["generations"][0]["id"]
    events = read(http, generation)
    names = [name for _, name, _ in events]
    assert names[-1] == "final" and names.count("delta") > 10 and "usage" in names
    assert text_of(events) == events[-1][2]["message"]["content"] == " ".join(WORDS)
    assert all(id.startswith(f"{generation}:") for id, _, _ in events)


def test_a_broken_line_loses_nothing(http: httpx.Client) -> None:
    generation = ask(http)["generations"][0]["id"]
    events: list[tuple[str, str, Any]] = []
    for most in (4, 3, 10):
        events += read(http, generation, last=events[-1][0] if events else "", most=most)
    events += read(http, generation, last=events[-1][0])
    assert text_of(events) == " ".join(WORDS)
    numbers = [int(id.rpartition(":")[2]) for id, _, _ in events]
    assert numbers == sorted(set(numbers))
    assert read(http, generation, last="other:5")[-1][2]["message"]["content"] == " ".join(WORDS)
    late = read(http, generation, last=f"{generation}:{numbers[-1] + 1000}")
    assert late[-1][1] == "final"


def test_stop_before_the_first_token_frees_the_slot_within_half_a_second(
    http: httpx.Client, engine: FakeEngine
) -> None:
    engine.prefill_seconds = 60
    generation = ask(http)["generations"][0]["id"]
    deadline = time.monotonic() + 10
    while engine.slots_used == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert http.post(f"/api/generations/{generation}/stop").status_code == 202
    start = time.monotonic()
    while engine.slots_used:
        assert time.monotonic() - start < 0.5
        time.sleep(0.005)
    events = read(http, generation)
    assert events[-1][1] == "final" and events[-1][2]["finish_reason"] == "cancelled", events
    assert http.post(f"/api/generations/{generation}/stop").status_code == 202


def test_deleting_a_chat_stops_its_answers(http: httpx.Client, engine: FakeEngine) -> None:
    engine.prefill_seconds = 60
    answer = ask(http)
    assert http.delete(f"/api/conversations/{answer['conversation']['id']}?permanent=true").status_code == 204
    assert engine.slots_used == 0
    assert http.get(f"/api/generations/{answer['generations'][0]['id']}").status_code == 404


def test_too_many_streams_are_refused_before_the_first_byte(
    live_server: Any, http: httpx.Client, engine: FakeEngine
) -> None:
    engine.prefill_seconds = 60
    generation = ask(http)["generations"][0]["id"]
    with httpx.Client(base_url=live_server.url, timeout=30, limits=httpx.Limits(max_connections=20)) as client:
        path = f"/api/generations/{generation}/events"
        streams = [client.stream("GET", path) for _ in range(8)]
        opened = [stream.__enter__() for stream in streams]
        assert {response.status_code for response in opened} == {200}
        lines = [response.iter_lines() for response in opened]  # kept: a line reader that is dropped closes its stream
        assert all(next(reader) for reader in lines)
        refused = client.get(path)
        assert refused.status_code == 429 and refused.json()["code"] == "too_many_streams"
        for stream in streams:
            stream.__exit__(None, None, None)
        http.post(f"/api/generations/{generation}/stop")


def test_the_server_says_goodbye_before_it_stops(live_server: Any, http: httpx.Client, engine: FakeEngine) -> None:
    engine.tokens_per_second = 5
    generation = ask(http)["generations"][0]["id"]
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(read(http, generation)))
    reader.start()
    time.sleep(0.5)
    import asyncio

    service = live_server.service
    asyncio.run(service.begin_shutdown())
    reader.join(10)
    assert found and found[-1][1] == "bye" and found[-1][2]["retry_ms"] > 0
