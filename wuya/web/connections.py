"""Connections that never say what they want: a time limit on request headers, and a door that closes before we drown.

uvicorn waits for ever for a request's headers, and when descriptors run out asyncio logs a traceback per try, thousands
a second, while nobody gets in. Here a connection has some seconds to send its headers, the newest connection displaces
the one that has been silent longest, and a full house is one line in the log per minute.
"""

import asyncio
import logging
import resource
import time
from collections import OrderedDict
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger("wuya.web.connections")
HEADER_SECONDS = 10.0
QUIET_SECONDS = 60.0
"""Between two lines of the log about the same trouble."""


def raise_descriptor_limit() -> int:
    """Take as many descriptors as this process may have; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard if hard != resource.RLIM_INFINITY else 1 << 16, 1 << 16)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


class Door:
    """Counts open connections and knows which of them have not sent a request yet."""

    def __init__(self, descriptors: int, *, header_seconds: float = HEADER_SECONDS) -> None:
        """`descriptors`: the process's limit; some are kept for files, the database and the engine."""
        self.most = descriptors - min(128, descriptors // 2)
        self.header_seconds = header_seconds
        self.open = 0
        self.silent: OrderedDict[GuardedProtocol, asyncio.TimerHandle | None] = OrderedDict()
        """Without a timer: between two requests, where uvicorn's own limit counts."""
        self._told = -1e9

    def enter(self, protocol: "GuardedProtocol") -> None:
        """A connection was accepted; where there is no room, the longest silent one goes, else this one."""
        self.open += 1
        self.wait_for_headers(protocol)
        if self.open > self.most:
            self.tell("too many open connections; closing those that send nothing", limit=self.most)
            longest = next(iter(self.silent))
            self.heard(longest)  # it is on its way out: the next newcomer displaces another
            longest.drop()

    def leave(self, protocol: "GuardedProtocol") -> None:
        """A connection is gone."""
        self.open -= 1
        self.heard(protocol)

    def wait_for_headers(self, protocol: "GuardedProtocol") -> None:
        """From now on the connection has so many seconds to send the rest of a request's headers."""
        if self.silent.get(protocol) is None:
            self.silent[protocol] = protocol.loop.call_later(self.header_seconds, protocol.drop)

    def answered(self, protocol: "GuardedProtocol") -> None:
        """The connection may send its next request, or be displaced by one that has something to say."""
        self.silent.setdefault(protocol, None)

    def heard(self, protocol: "GuardedProtocol") -> None:
        """The headers are there."""
        timer = self.silent.pop(protocol, None)
        if timer is not None:
            timer.cancel()

    def tell(self, message: str, **more: object) -> None:
        """One line a minute."""
        if time.monotonic() - self._told > QUIET_SECONDS:
            self._told = time.monotonic()
            log.warning(message, extra=more)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The event loop's exception handler: running out of descriptors is a line, anything else as before."""
        if "out of system resource" in context.get("message", ""):
            self.tell("no descriptors left; new connections wait", reason=str(context.get("exception")))
        else:
            loop.default_exception_handler(context)


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a door."""

    door: Door

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.door.heard(self)
        elif not self.transport.is_closing():  # a part of the next request's headers
            self.door.wait_for_headers(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:
            self.door.heard(self)  # the next request was there already
        elif not self.transport.is_closing():
            self.door.answered(self)

    def drop(self) -> None:
        """Close at once, whatever is still unsent."""
        self.transport.abort()


def guarded(door: Door) -> type[GuardedProtocol]:
    """The protocol class of a server with this door."""
    return type("GuardedProtocol", (GuardedProtocol,), {"door": door})
