"""Token buckets: what they let through, how long they make wait, what they tell the client; shared ones and budgets."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from wuya.database.connection import open_engine, reading, writing
from wuya.database.labeling_tables import User, now
from wuya.database.service_tables import TokenReservation
from wuya.web import usage
from wuya.web.api import shared_limits, store
from wuya.web.api.limits import RateLimiter, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_full_bucket_gives_its_limit_at_once_and_then_a_sixtieth_a_second() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock=clock)
    for _ in range(60):
        assert bucket.seconds_until(1) == 0
        bucket.take(1)
    assert bucket.seconds_until(1) == pytest.approx(1)
    clock.now += 1
    assert bucket.seconds_until(1) == 0
    clock.now += 3600
    assert bucket.level() == 60


def test_a_debt_is_paid_before_anything_else() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock=clock)
    bucket.take(90)
    assert bucket.seconds_until(1) == pytest.approx(31)
    clock.now += 31
    assert bucket.seconds_until(1) == 0


def test_more_than_a_full_bucket_passes_when_the_bucket_is_full() -> None:
    bucket = TokenBucket(10, clock=Clock())
    assert bucket.seconds_until(1000) == 0


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), max_size=50))
def test_never_more_than_the_limit_and_what_time_brought(limit: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    start, bucket, taken = clock.now, TokenBucket(limit, clock=clock), 0
    for wait, amount in steps:
        clock.now += wait
        amount = min(amount, limit)
        if bucket.seconds_until(amount) == 0:
            bucket.take(amount)
            taken += amount
        assert taken <= limit + (clock.now - start) * limit / 60 + 1e-6


def test_a_refused_request_takes_nothing_from_either_bucket() -> None:
    limiter = RateLimiter(clock=Clock())
    assert limiter.admit("k", rpm=2, tpm=100, tokens=90).wait_seconds == 0
    verdict = limiter.admit("k", rpm=2, tpm=100, tokens=90)
    assert (verdict.what, verdict.wait_seconds) == ("tokens", pytest.approx(48))
    assert verdict.headers["x-ratelimit-remaining-requests"] == "1"
    assert verdict.headers["x-ratelimit-remaining-tokens"] == "10"
    assert limiter.admit("k", rpm=2, tpm=100, tokens=10).wait_seconds == 0


def test_headers_are_openais() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    headers = limiter.admit("k", rpm=60, tpm=600, tokens=300).headers
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "300",
        "x-ratelimit-reset-tokens": "30s",
    }
    limiter.charge("k", tpm=600, tokens=900)
    assert limiter.headers("k", rpm=None, tpm=600)["x-ratelimit-reset-tokens"] == "2m0s"


def test_keys_do_not_share_buckets_and_no_limit_means_no_header() -> None:
    limiter = RateLimiter(clock=Clock())
    assert limiter.admit("a", rpm=1, tpm=None, tokens=5).wait_seconds == 0
    assert limiter.admit("b", rpm=1, tpm=None, tokens=5).wait_seconds == 0
    assert limiter.admit("a", rpm=1, tpm=None, tokens=5).wait_seconds > 0
    assert limiter.admit("c", rpm=None, tpm=None, tokens=5).headers == {}


# ---- several web processes


@pytest.fixture
def processes(database: str | Path) -> Iterator[list[Engine]]:
    """Two web processes as the database sees them."""
    engines = [open_engine(database) for _ in range(2)]
    yield engines
    for engine in engines:
        engine.dispose()


def at_once(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_shared_buckets_say_what_those_of_one_process_say(processes: list[Engine]) -> None:
    clock = Clock()
    alone = RateLimiter(clock=clock)
    steps = [(0.0, 90), (0.0, 30), (5.0, 10), (0.0, 50), (60.0, 100), (0.0, 1)]
    for number, (wait, tokens) in enumerate(steps):
        clock.now += wait
        mine = alone.admit("k", rpm=3, tpm=100, tokens=tokens)
        shared = shared_limits.admit(processes[number % 2], "k", rpm=3, tpm=100, tokens=tokens, clock=clock)
        assert shared == mine
        if mine.wait_seconds == 0:
            alone.charge("k", tpm=100, tokens=7)
            shared_limits.charge(processes[1], "k", tpm=100, tokens=7, clock=clock)


def test_two_processes_let_through_what_one_would(processes: list[Engine]) -> None:
    clock, let_in = Clock(), []

    def ask(n: int) -> None:
        verdict = shared_limits.admit(processes[n % 2], "k", rpm=5, tpm=None, tokens=1, clock=clock)
        let_in.append(verdict.wait_seconds == 0)

    at_once(ask, 12)
    assert sorted(let_in) == [False] * 7 + [True] * 5


def test_two_processes_never_spend_the_same_tokens(processes: list[Engine]) -> None:
    with writing(processes[0]) as connection:
        connection.execute(insert(User).values(id="u", display_name="ada", role="user"))
    key, _ = store.create_key(processes[0], "u", store.KeySettings(monthly_tokens=100))
    kept: list[str] = []

    def ask(n: int) -> None:
        kept.append(usage.reserve(processes[n % 2], key.id, 30, budget=100)[0])

    at_once(ask, 8)
    reservations = [id for id in kept if id]
    assert len(reservations) == 3
    counts = {"day": now().date(), "user_id": "u", "key_id": key.id, "model": "m"}
    usage.add_usage(processes[1], **counts, prompt_tokens=2, completion_tokens=3, reservation=reservations[0])
    usage.release(processes[0], reservations[1])
    assert usage.reserve(processes[1], key.id, 66, budget=100) == ("", 65)
    assert usage.reserve(processes[1], key.id, 65, budget=100)[0]
    with reading(processes[0]) as connection:
        assert sorted(connection.execute(select(TokenReservation.tokens)).scalars()) == [30, 65]
