"""How fast a key may go: token buckets for requests and tokens a minute, in this process's memory.

A bucket fills at limit / 60 a second up to its limit. Tokens are taken when they are known: the prompt's before, the
completion's after, so that bucket may go below zero and the next request waits until it is above. `shared_limits` has
the same buckets in the database, for several web processes.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

KEPT_KEYS = 10_000


class TokenBucket:
    """So many a minute."""

    def __init__(
        self,
        per_minute: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        level: float | None = None,
        at: float | None = None,
    ) -> None:
        """Full; or with the level that it had at a time."""
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute) if level is None else level
        self._at = clock() if at is None else at

    def level(self) -> float:
        """What may be taken now; below zero while a debt is paid off."""
        now = self._clock()
        passed = max(0.0, now - self._at)  # clocks of several machines differ a little
        self._level = min(float(self.per_minute), self._level + passed * self.per_minute / 60)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        """Take, also on credit."""
        self._level = self.level() - amount

    def seconds_until(self, amount: float) -> float:
        """How long until `amount` (or all a full bucket has) may be taken; 0 if now."""
        missing = min(amount, float(self.per_minute)) - self.level()
        return max(0.0, missing * 60 / self.per_minute)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may go on, and the headers that tell the client where it stands."""

    wait_seconds: float
    """0: go on."""
    what: str
    """`requests` or `tokens`: the bucket that is empty."""
    headers: dict[str, str]


def take_all(buckets: Mapping[str, TokenBucket], *, tokens: int) -> Verdict:
    """Take one request and so many tokens, or nothing at all if any of the buckets says wait."""
    amounts = {"requests": 1, "tokens": tokens}
    waits = {what: bucket.seconds_until(amounts[what]) for what, bucket in buckets.items()}
    worst = max(waits, key=waits.__getitem__, default="")
    wait = waits[worst] if worst else 0.0
    if wait == 0:
        for what, bucket in buckets.items():
            bucket.take(amounts[what])
    return Verdict(wait, worst, headers(buckets))


def headers(buckets: Mapping[str, TokenBucket]) -> dict[str, str]:
    """OpenAI's x-ratelimit headers; `reset` is when the bucket is full again."""
    found = {}
    for what, bucket in buckets.items():
        found[f"x-ratelimit-limit-{what}"] = str(bucket.per_minute)
        found[f"x-ratelimit-remaining-{what}"] = str(max(0, math.floor(bucket.level())))
        found[f"x-ratelimit-reset-{what}"] = _duration(bucket.seconds_until(bucket.per_minute))
    return found


class RateLimiter:
    """The buckets of all keys; those not used for longest are forgotten."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str, int], TokenBucket] = OrderedDict()

    def admit(self, key: str, *, rpm: int | None, tpm: int | None, tokens: int) -> Verdict:
        """Take one request and its prompt's tokens, or nothing at all if either bucket says wait."""
        return take_all(self._buckets_of(key, rpm=rpm, tpm=tpm), tokens=tokens)

    def charge(self, key: str, *, tpm: int | None, tokens: int) -> None:
        """Take the tokens that a request turned out to write."""
        bucket = self._bucket(key, "tokens", tpm)
        if bucket is not None:
            bucket.take(tokens)

    def headers(self, key: str, *, rpm: int | None, tpm: int | None) -> dict[str, str]:
        """See the function of this name."""
        return headers(self._buckets_of(key, rpm=rpm, tpm=tpm))

    def _buckets_of(self, key: str, *, rpm: int | None, tpm: int | None) -> dict[str, TokenBucket]:
        found = {"requests": self._bucket(key, "requests", rpm), "tokens": self._bucket(key, "tokens", tpm)}
        return {what: bucket for what, bucket in found.items() if bucket is not None}

    def _bucket(self, key: str, what: str, limit: int | None) -> TokenBucket | None:
        if not limit:
            return None
        name = key, what, limit  # a changed limit starts a new bucket
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(limit, clock=self._clock)
            if len(self._buckets) > KEPT_KEYS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return bucket


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 6m0s, 1.5s, 20ms."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
