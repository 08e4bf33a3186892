"""Token buckets: what they let through, how long they make wait, what they tell the client."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
