"""Server-sent events as OpenAI's clients read them, over a response that notices a client who left or reads no more."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wuya.web.api import refusals
from wuya.web.errors import ApiError

SEND_SECONDS = 30.0
"""How long a client may leave what it was sent unread."""
DONE = b"data: [DONE]\n\n"

log = logging.getLogger("wuya.web.api")


def event(body: Mapping[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n\n"


async def guarded(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events, then `[DONE]`; a failure on the way becomes an error event, for the status is sent already."""
    try:
        async for data in events:
            yield data
    except ApiError as error:
        yield event(refusals.error_object(error))
    except Exception as error:  # a bug: the client must hear of it, the log has the traceback
        log.error("a bug in the middle of a stream", exc_info=error)
        yield event(refusals.error_object(refusals.internal_error()))
    finally:
        await events.aclose()
    yield DONE


class EventStream(Response):
    """A response of events. Its generator is closed as soon as the client leaves, at the latest 30 s after it sleeps.

    Starlette's StreamingResponse leaves a generator that waits in `send` to the garbage collector.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str] | None = None,
        *,
        on_close: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_close` is awaited however the stream ends, also if it never began."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self.events = events
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end or until nobody listens."""
        writer = asyncio.create_task(self._write(send))
        watch = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({writer, watch}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                await writer
        finally:
            for task in (writer, watch):
                task.cancel()
            await asyncio.gather(writer, watch, return_exceptions=True)
            await self.events.aclose()
            await self._on_close()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for data in self.events:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            log.info("a client stopped reading its stream")


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
