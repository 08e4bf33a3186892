"""A disk that fills while people chat and is freed again: `/readyz` says so, nothing shown gets a hole, all goes on."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.web.chat.hub import TEXT, _database, drawn, run, until, world  # noqa: F401
from tests.web.chat.test_transfer import CHATGPT
from wuya.inference.backends.fake import FakeEngine
from wuya.web.api.desk import Desk
from wuya.web.chat.journal import Journal, apply_pieces, left_behind
from wuya.web.operations.write_probe import WriteProbe
from wuya.web.service import Service

Full = Callable[[int], AbstractContextManager[None]]


def skip_postgresql(service: Service) -> None:
    if service.database.dialect.name != "sqlite":
        pytest.skip("PostgreSQL writes in its own processes")


def test_writes_are_503_and_readyz_says_so_until_space_is_freed(
    client: TestClient, service: Service, no_file_beyond: Full
) -> None:
    skip_postgresql(service)
    chat = client.post("/api/conversations", json={}).json()["id"]
    with no_file_beyond(4096):
        service.put(WriteProbe())
        ready = client.get("/readyz")
        assert ready.status_code == 503 and ready.json()["problems"] == ["database"]
        body = {"content": "x" * 20_000, "generate": {}}
        for answer in (
            client.post("/api/conversations", json={}),
            client.post(f"/api/conversations/{chat}/messages", json=body),
            client.post("/api/import", json=CHATGPT),
        ):
            assert answer.status_code == 503 and answer.headers["retry-after"] == "5", answer.text
            assert "wuya.db" in answer.text and str(service.settings.workspace) not in answer.text
        assert client.get(f"/api/conversations/{chat}").status_code == 200
        assert client.get("/healthz").status_code == 200
    service.put(WriteProbe())
    assert client.get("/readyz").status_code == 200
    assert client.post(f"/api/conversations/{chat}/messages", json=body).status_code == 201


def test_readyz_needs_room_for_more_than_one_row(client: TestClient, service: Service, no_file_beyond: Full) -> None:
    """SQLite's log has room for one row long after a message fits no more."""
    for _ in range(20):
        client.post("/api/conversations", json={})
    size = max([file.stat().st_size for file in service.settings.workspace.parent.rglob("*") if file.is_file()])
    with no_file_beyond(max(4096, min(size, 200_000))):
        service.put(WriteProbe())
        assert client.get("/readyz").status_code == 503
    assert not list(service.settings.workspace.glob(".write_probe*"))


def test_tokens_are_counted_once_the_disk_is_free(client: TestClient, service: Service, no_file_beyond: Full) -> None:
    skip_postgresql(service)
    with no_file_beyond(4096):
        body = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert service.get(Desk)._writes
    deadline = time.monotonic() + 20
    while service.get(Desk)._writes and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [row["completion_tokens"] for row in client.get("/api/usage").json()["items"]] == [5]


def test_an_answer_in_progress_keeps_its_text(
    tmp_path: Path, no_file_beyond: Full, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=40)) as w:
            if w.database.dialect.name != "sqlite":
                pytest.skip("PostgreSQL writes in its own processes")
            job = w.job()
            w.hub.start(job)
            await until(lambda: len(job.text) > 40)
            with no_file_beyond(64):
                await until(lambda: len(job.text) > 200)
                tasks = [record for record in caplog.records if record.levelno >= logging.ERROR]
            events = await w.watch(job)
            assert events[-1].name == "final" and drawn(events)[0] == TEXT
            assert w.message(job)["content"] == TEXT
            assert len(tasks) <= 2, [record.getMessage() for record in tasks]

    with caplog.at_level(logging.ERROR):
        run(test)


def test_what_the_journal_could_not_take_comes_with_the_next_piece(
    tmp_path: Path, no_file_beyond: Full, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, "one")
    journal.append([("g", 0, "one ")])
    size = next(tmp_path.glob("*.journal")).stat().st_size
    for limit in (size, size + 7):  # nothing of a line fits, and the beginning of one
        with no_file_beyond(limit):
            journal.append([("g", 4, "two "), ("g", 8, "three ")])
            journal.append([("g", 14, "four ")])
            journal.rotate()
        assert next(tmp_path.glob("*.journal")).stat().st_size == size
    assert len(caplog.records) == 1, "one line, not one per piece"
    journal.append([("g", 19, "five")])
    os.close(journal._file)  # killed
    with left_behind(tmp_path) as pieces:
        assert apply_pieces("", pieces["g"]) == "one two three four five"


def test_the_journal_forgets_what_the_database_has(tmp_path: Path, no_file_beyond: Full) -> None:
    journal = Journal(tmp_path, "one")
    with no_file_beyond(0):
        journal.append([("g", 0, "saved ")])
        journal.rotate()
        journal.append([("g", 6, "later")])
        journal.drop_old()
    assert b"saved" not in journal._unwritten and b"later" in journal._unwritten
    journal.clear()
    assert not journal._unwritten
    journal.close()
