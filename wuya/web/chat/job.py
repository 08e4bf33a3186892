"""One answer being written: its text, its numbered events in memory, and the drawing its viewers have."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from wuya.inference.backends.protocol import GenerationRequest
from wuya.web.markdown.stream import MarkdownStream
from wuya.web.traffic import without_canary

RING = 1000
"""Events kept to be sent again; who missed more gets a snapshot."""
DRAW_SECONDS = 0.08
"""Least time between two drawings of one answer."""
DRAW_SECONDS_MOST = 1.0
DRAW_SHARE = 20
"""A drawing that took t seconds is not repeated within 20 t: at most 5 % of a core an answer."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event as it goes to a page; `seq` numbers those of one generation."""

    seq: int
    name: str
    data: dict[str, Any]


@dataclass(slots=True, eq=False)
class Job:
    """A generation in this process. The hub changes it, viewers only read; all on the event loop."""

    request: GenerationRequest
    conversation_id: str
    message_id: str
    user_id: str
    question: str = ""
    """What is answered, for the moderator's scorers."""
    text: str = ""
    """Of the message: what is continued, and what came since."""
    state: str = "queued"
    tokens: int = 0
    """Completion tokens, those of a continued message included."""
    prompt_tokens: int | None = None
    seq: int = 0
    finish_reason: str | None = None
    error_code: str | None = None
    retryable: bool = False
    stopped_by: str | None = None
    withheld: str = ""
    """What a rule did not let pass; the answer ends before it."""
    is_blind: bool = False
    """Its viewers are to vote without knowing the model: no counts of tokens, no speed."""
    is_hidden: bool = False
    """A rule looked at the whole answer and hides it."""
    is_dirty: bool = False
    """Whether the database lacks something."""
    asked_at: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    last_token: float | None = None
    started_at: datetime | None = None
    first_token_at: datetime | None = None
    position: int | None = None
    new_tokens: int = 0
    ended: bool = False
    pending: list[str] = field(default_factory=list)
    """Texts that were not sent yet."""
    viewers: set[asyncio.Event] = field(default_factory=set)
    events: deque[ServerEvent] = field(default_factory=lambda: deque(maxlen=RING))
    task: asyncio.Task[None] | None = None
    in_engine: bool = False
    drawing: MarkdownStream = field(default_factory=MarkdownStream)
    drawn: int = 0
    """Characters of the text that the last drawing shows."""
    draw_at: float = 0.0

    @property
    def id(self) -> str:
        """Of the generation."""
        return self.request.job

    @property
    def alias(self) -> str:
        """Of the model, as people know it."""
        return without_canary(self.request.model)

    @property
    def tokens_per_second(self) -> float | None:
        """Since the first token; None before the second."""
        if self.first_token is None or self.new_tokens < 2:
            return None
        return round((self.new_tokens - 1) / max(1e-6, time.monotonic() - self.first_token), 1)

    @property
    def shown_tokens(self) -> int | None:
        """The number of tokens so far, for viewers: over a text of known length it tells the tokenizer."""
        return None if self.is_blind else self.tokens

    def publish_usage(self) -> None:
        """Tell viewers the tokens and the speed, unless these would tell them the model."""
        if not self.is_blind:
            usage = {"prompt": self.prompt_tokens, "completion": self.tokens, "tps": self.tokens_per_second}
            self.publish("usage", usage)

    def publish(self, name: str, data: dict[str, Any]) -> None:
        """Number an event, keep it and wake who watches."""
        self.seq += 1
        self.events.append(ServerEvent(self.seq, name, data))
        self.wake()

    def wake(self) -> None:
        """Let every viewer look again."""
        for viewer in self.viewers:
            viewer.set()

    def since(self, seq: int) -> Iterator[ServerEvent] | None:
        """Events after `seq`, None if some of them are not in memory any more (or `seq` is none of ours)."""
        oldest = self.events[0].seq if self.events else self.seq + 1
        if not oldest - 1 <= seq <= self.seq:
            return None
        return (event for event in list(self.events) if event.seq > seq)

    def delta(self, text: str, *, draw: bool) -> float:
        """Send more text; with the changed blocks, if it is time to draw. Seconds that the drawing took."""
        data: dict[str, Any] = {"i": 0, "t": text, "n": self.shown_tokens}
        took = 0.0
        if draw:
            before = time.perf_counter()
            change = self.drawing.update(self.text)
            self.drawn = len(self.text)
            took = time.perf_counter() - before
            self.draw_at = time.monotonic() + min(DRAW_SECONDS_MOST, max(DRAW_SECONDS, DRAW_SHARE * took))
            data |= {"from": change.keep, "nodes": change.nodes}
        self.publish("delta", data)
        return took

    def snapshot(self) -> ServerEvent:
        """All there is, for a viewer who comes late; it carries the number of the last event."""
        if self.drawn < len(self.text):
            self.delta("", draw=True)  # other viewers draw it too, so that all agree on the blocks
        data = {"text": self.text, "n": self.shown_tokens, "nodes": self.drawing.all, "state": self.state}
        return ServerEvent(self.seq, "snapshot", data)
