"""Background tasks outlive their failures, `/readyz` tells, and an answer's end is saved when the database is back."""

import asyncio
import logging
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from wuya.errors import RunLocked
from wuya.web.chat.journal import Journal, left_behind
from wuya.web.operations.write_probe import WriteProbe
from wuya.web.service import Service
from wuya.web.supervision import Keepers, keepers_of, persistently


def test_a_task_that_fails_is_tried_again_and_named(caplog: pytest.LogCaptureFixture) -> None:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        if len(rounds) < 3:
            raise RunLocked("the database stays locked")

    async def scenario() -> tuple[list[str], list[str]]:
        keepers = Keepers()
        keeper = keepers.start("sweeping", every=0.01, work=work)
        while len(rounds) < 2:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        failing = keepers.failing()
        while len(rounds) < 4:
            await asyncio.sleep(0.005)
        well = keepers.failing()
        await keeper.stop()
        return failing, well

    with caplog.at_level(logging.WARNING, "wuya.web.background"):
        assert asyncio.run(scenario()) == (["sweeping"], [])
    assert sum(record.exc_info is not None and bool(record.exc_info) for record in caplog.records) == 1, "one traceback"


def test_stopping_a_failing_task_does_not_raise() -> None:
    async def work() -> None:
        raise OSError("no space left on device")

    async def scenario() -> None:
        keeper = Keepers().start("sweeping", every=0.001, work=work)
        await asyncio.sleep(0.02)
        await keeper.stop()

    asyncio.run(scenario())


def test_readyz_names_what_fails(client: TestClient, service: Service) -> None:
    assert client.get("/readyz").json() == {"status": "ready", "problems": [], "failing": []}
    keepers_of(service).running[0].failures = 3
    assert client.get("/readyz").json()["failing"] == ["housekeeping"]


def test_a_database_that_takes_no_writes_is_not_ready(client: TestClient, service: Service) -> None:
    """As on a full disk: reading goes on."""

    def full(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("UPDATE service_settings", "INSERT INTO service_settings")):
            raise OperationalError(statement, None, Exception("database or disk is full"))

    event.listen(service.database, "before_cursor_execute", full)
    try:
        answer = client.get("/readyz")
    finally:
        event.remove(service.database, "before_cursor_execute", full)
    assert answer.status_code == 503 and answer.json()["problems"] == ["database"]
    service.put(WriteProbe())
    assert client.get("/readyz").status_code == 200


def test_work_is_retried_until_it_succeeds_or_time_is_over() -> None:
    tries: list[int] = []

    async def locked_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise RunLocked("locked")
        return "saved"

    assert asyncio.run(persistently(locked_once, seconds=10)) == "saved" and len(tries) == 2

    async def always() -> str:
        raise RunLocked("locked")

    with pytest.raises(RunLocked):
        asyncio.run(persistently(always, seconds=10, stop=lambda: True))


def test_a_kept_journal_is_there_for_the_next_start(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "name")
    journal.append([("g", 0, "text that was never saved")])
    journal.keep()
    journal.clear()
    journal.close()
    with left_behind(tmp_path) as pieces:
        assert pieces == {"g": [(0, "text that was never saved")]}
    assert not list(tmp_path.glob("*.journal"))
