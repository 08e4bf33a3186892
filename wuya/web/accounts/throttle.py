"""The brakes on guessing passwords: after five wrong ones each further try doubles the wait, per account and network.

An account also has a count over all networks together, so that a thousand networks with one guess each are braked too;
it does not apply to a network from which the account signed in before, or strangers could lock people out.

Counted in the database, so that several web processes brake together and a restart forgets nothing. A try counts from
its beginning: a hundred sent at the same moment are not a hundred tries. The table holds hashes, nobody's address.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from wuya.database.connection import writing
from wuya.database.service_tables import RateBucket

FREE = 5
"""Wrong passwords of an account from one network that cost nothing; a whole network has ten times as many."""
FREE_ANYWHERE = 20
"""Wrong passwords of an account from all the networks it never signed in from."""
LONGEST_SECONDS = 900.0
FORGET_SECONDS = 3600.0


class AddressBrake:
    """Slows each network down before its requests cost anything: a token bucket per network, in memory.

    It guards the routes that anyone may call without signing in. Each web process counts for itself; the exact count of
    wrong passwords is `LoginThrottle`'s, in the database.
    """

    BURST = 60.0
    PER_SECOND = 1.0
    MOST_NETWORKS = 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, network: str) -> float:
        """Take a token: 0, or the seconds until there is one."""
        now = self._clock()
        with self._lock:
            level, at = self._buckets.pop(network, (self.BURST, now))
            level = min(self.BURST, level + (now - at) * self.PER_SECOND)
            self._buckets[network] = (level - 1 if level >= 1 else level, now)
            if len(self._buckets) > self.MOST_NETWORKS:
                self._buckets.popitem(last=False)  # the network that was seen longest ago
        return 0.0 if level >= 1 else (1 - level) / self.PER_SECOND


@dataclass(frozen=True, slots=True)
class LoginThrottle:
    """One per service."""

    database: Engine
    clock: Callable[[], float] = time.time

    def enter(self, account: str, network: str, *, known: bool = True) -> float:
        """Begin a try: 0, and it counts as a failure unless one of the others is called; or the seconds to wait.

        Args:
            known: the account has signed in from this network before, so failures elsewhere do not brake it.
        """
        now, names = self.clock(), _names(account, network, known)
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

    def succeeded(self, account: str, network: str, *, known: bool = True) -> None:
        """Forget the account's failures; the network's stay, but this was none."""
        self._take_back(account, network, known, forget=True)

    def undecided(self, account: str, network: str, *, known: bool = True) -> None:
        """The try was neither: the password is right, and the second factor is still to come."""
        self._take_back(account, network, known, forget=False)

    def _take_back(self, account: str, network: str, known: bool, *, forget: bool) -> None:
        now, names = self.clock(), _names(account, network, known)
        with writing(self.database) as connection:
            found = _locked(connection, names, now)
            for name, free in names.items():
                count, at = found[name]
                _keep(connection, name, 0 if forget and free == FREE else max(0, count - 1), at)


def _names(account: str, network: str, known: bool) -> dict[str, int]:
    """Names of the counted rows with how many failures each has free; always in the same order."""

    def named(*parts: str) -> str:
        return f"login {hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"

    anywhere = {} if known else {named(account, "", "anywhere"): FREE_ANYWHERE}
    return dict(sorted({named(account, network): FREE, named(network): FREE * 10, **anywhere}.items()))


def _locked(connection: Connection, names: dict[str, int], now: float) -> dict[str, tuple[int, float]]:
    """(failures, time of the last) by name; nobody else can read them until the transaction ends."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    found = {}
    for name in names:
        connection.execute(dialect.insert(RateBucket).values(name=name, level=0.0, at=now).on_conflict_do_nothing())
        query = select(RateBucket.level, RateBucket.at).where(RateBucket.name == name).with_for_update()
        level, at = connection.execute(query).one()
        found[name] = (int(level), min(at, now)) if at > now - FORGET_SECONDS else (0, now)  # clocks are set back
    return found


def _wait(count: int, last: float, free: int, now: float) -> float:
    return last + min(LONGEST_SECONDS, 2.0 ** min(count - free, 20)) - now if count >= free else 0.0


def _keep(connection: Connection, name: str, count: int, at: float) -> None:
    connection.execute(update(RateBucket).where(RateBucket.name == name).values(level=float(count), at=at))
