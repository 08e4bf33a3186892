"""The machine's clock jumps a day forward, then two days back: people stay signed in, and nobody waits for a day."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.web.chat.conftest import new_chat
from tests.web.test_accounts import _fast_hashes, set_up  # noqa: F401
from wuya.database import base
from wuya.web.accounts.throttle import LONGEST_SECONDS, LoginThrottle
from wuya.web.api import shared_limits
from wuya.web.service import Service

DAY = 86_400.0
Jump = Callable[[float], None]


@pytest.fixture
def accounts() -> bool:
    return True


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch, service: Service) -> Jump:
    """Set the clock so many seconds from the true time; what measures durations goes on, as on a real machine."""
    true_time, true_datetime = time.time, datetime

    def set_clock(offset: float) -> None:
        shifted = SimpleNamespace(now=lambda zone=UTC: true_datetime.now(zone) + timedelta(seconds=offset))
        monkeypatch.setattr(base, "datetime", shifted)
        monkeypatch.setattr(time, "time", lambda: true_time() + offset)
        service.put(LoginThrottle(service.database, clock=time.time))

    return set_clock


def wrong(client: TestClient) -> Any:
    return client.post("/api/auth/login", json={"email": "ann@example.org", "password": "wrong password"})


def test_people_stay_signed_in_and_their_answers_are_written(client: TestClient, service: Service, jump: Jump) -> None:
    set_up(client, service)
    for offset in (0.0, DAY, -DAY, 0.0):
        jump(offset)
        assert client.get("/api/me").status_code == 200
        assert new_chat(client).ask("hello")["status"] == "complete"
        assert client.get("/readyz").json() == {"status": "ready", "problems": [], "failing": []}


@pytest.mark.parametrize("offset", [DAY, -DAY])
def test_nobody_waits_longer_than_the_longest_brake(
    client: TestClient, service: Service, jump: Jump, offset: float
) -> None:
    set_up(client, service)
    jump(0.0)
    answers = [wrong(client) for _ in range(12)]
    jump(offset)
    answers += [wrong(client) for _ in range(8)]
    waits = [int(answer.headers["retry-after"]) for answer in answers if answer.status_code == 429]
    assert waits and max(waits) <= LONGEST_SECONDS
    assert answers[-1].status_code == 429, "a jump gives no guesses for nothing"


def test_limits_that_processes_share_fill_up_after_a_jump_back(client: TestClient, service: Service) -> None:
    at = [DAY]

    def wait() -> float:
        found = shared_limits.admit(service.database, "k", rpm=5, tpm=None, tokens=0, clock=lambda: at[0])
        return found.wait_seconds

    assert [wait() for _ in range(5)] == [0.0] * 5
    at[0] = 0.0
    seconds = wait()
    assert 0 < seconds <= 60
    at[0] = seconds + 1
    assert wait() == 0
