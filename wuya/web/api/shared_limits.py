"""The token buckets of `limits` in the database, where several web processes share them (PostgreSQL).

A row is locked while its bucket is looked at, so no two processes take the same tokens.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from wuya.database.connection import writing
from wuya.database.service_tables import RateBucket
from wuya.web.api.limits import TokenBucket, Verdict, take_all

FORGET_SECONDS = 3600.0
"""A bucket is full again long before."""
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Moment:
    """A clock that stands still, so that what is read and what is written agree."""

    at: float

    def __call__(self) -> float:
        return self.at


def admit(
    database: Engine, key: str, *, rpm: int | None, tpm: int | None, tokens: int, clock: Clock = time.time
) -> Verdict:
    """Take one request and its prompt's tokens, or nothing at all if either bucket says wait."""
    now = _Moment(clock())
    limits = {what: limit for what, limit in (("requests", rpm), ("tokens", tpm)) if limit}
    with writing(database) as connection:
        buckets = {what: _locked(connection, key, what, limit, now) for what, limit in limits.items()}
        verdict = take_all(buckets, tokens=tokens)
        for what, bucket in buckets.items():
            _keep(connection, _name(key, what, bucket.per_minute), bucket, now)
    return verdict


def charge(database: Engine, key: str, *, tpm: int, tokens: int, clock: Clock = time.time) -> None:
    """Take the tokens that a request turned out to write."""
    now = _Moment(clock())
    with writing(database) as connection:
        bucket = _locked(connection, key, "tokens", tpm, now)
        bucket.take(tokens)
        _keep(connection, _name(key, "tokens", tpm), bucket, now)
        old = (
            select(RateBucket.name)
            .where(RateBucket.at < now.at - FORGET_SECONDS)
            .limit(100)
            .with_for_update(skip_locked=True)
        )
        connection.execute(delete(RateBucket).where(RateBucket.name.in_(old)))


def _name(key: str, what: str, limit: int) -> str:
    return f"{key} {what} {limit}"  # a changed limit starts a new bucket


def _locked(connection: Connection, key: str, what: str, limit: int, now: _Moment) -> TokenBucket:
    """The bucket as it is, made full if it is new; nobody else can read it until the transaction ends."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    name = _name(key, what, limit)
    connection.execute(
        dialect.insert(RateBucket).values(name=name, level=float(limit), at=now.at).on_conflict_do_nothing()
    )
    query = select(RateBucket.level, RateBucket.at).where(RateBucket.name == name).with_for_update()
    level, at = connection.execute(query).one()
    return TokenBucket(limit, clock=now, level=level, at=at)


def _keep(connection: Connection, name: str, bucket: TokenBucket, now: _Moment) -> None:
    connection.execute(update(RateBucket).where(RateBucket.name == name).values(level=bucket.level(), at=now.at))
