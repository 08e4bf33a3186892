"""The brake on guessing passwords: after five wrong ones each further try doubles the wait, per account and network.

Counted in the database, so that several web processes brake together and a restart forgets nothing. A try counts from
its beginning: a hundred sent at the same moment are not a hundred tries. The table holds hashes, nobody's address.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from wuya.feedback.database import writing
from wuya.web.tables import RateBucket

FREE = 5
"""Wrong passwords of an account that cost nothing; a whole network has ten times as many."""
LONGEST_SECONDS = 900.0
FORGET_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class LoginThrottle:
    """One per service."""

    database: Engine
    clock: Callable[[], float] = time.time

    def enter(self, account: str, network: str) -> float:
        """Begin a try: 0, and it counts as a failure unless one of the others is called; or the seconds to wait."""
        now, names = self.clock(), _names(account, network)
        with writing(self.database) as connection:
            found = _locked(connection, names, now)
            wait = max(_wait(*found[name], free, now) for name, free in names.items())
            if wait > 0:
                return wait
            for name in names:
                _keep(connection, name, found[name][0] + 1, now)
            old = (
                select(RateBucket.name)
                .where(RateBucket.at < now - FORGET_SECONDS)
                .limit(100)
                .with_for_update(skip_locked=True)
            )
            connection.execute(delete(RateBucket).where(RateBucket.name.in_(old)))
        return 0.0

    def succeeded(self, account: str, network: str) -> None:
        """Forget the account's failures; the network's stay, but this was none."""
        self._take_back(account, network, forget=True)

    def undecided(self, account: str, network: str) -> None:
        """The try was neither: the password is right, and the second factor is still to come."""
        self._take_back(account, network, forget=False)

    def _take_back(self, account: str, network: str, *, forget: bool) -> None:
        now, names = self.clock(), _names(account, network)
        with writing(self.database) as connection:
            found = _locked(connection, names, now)
            for name, free in names.items():
                count, at = found[name]
                _keep(connection, name, 0 if forget and free == FREE else max(0, count - 1), at)


def _names(account: str, network: str) -> dict[str, int]:
    """Of the rows of an account in a network and of the network, with how much is free; always in the same order."""

    def named(*parts: str) -> str:
        return f"login {hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"

    return dict(sorted({named(account, network): FREE, named(network): FREE * 10}.items()))


def _locked(connection: Connection, names: dict[str, int], now: float) -> dict[str, tuple[int, float]]:
    """(failures, time of the last) by name; nobody else can read them until the transaction ends."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    found = {}
    for name in names:
        connection.execute(dialect.insert(RateBucket).values(name=name, level=0.0, at=now).on_conflict_do_nothing())
        query = select(RateBucket.level, RateBucket.at).where(RateBucket.name == name).with_for_update()
        level, at = connection.execute(query).one()
        found[name] = (int(level), at) if at > now - FORGET_SECONDS else (0, now)
    return found


def _wait(count: int, last: float, free: int, now: float) -> float:
    return last + min(LONGEST_SECONDS, 2.0 ** min(count - free, 20)) - now if count >= free else 0.0


def _keep(connection: Connection, name: str, count: int, at: float) -> None:
    connection.execute(update(RateBucket).where(RateBucket.name == name).values(level=float(count), at=at))
