"""Generations as jobs of the server: a page may come, go, reload or never return; the answer is written to its end.

    hub.start(job)                        # runs on, with or without viewers
    async for event in hub.events(id, last_seq): ...
    await hub.stop(id, by=user)           # idempotent; before the first token too

Text goes engine -> journal (a file) -> viewers every few milliseconds, and into the database every half second. What a
page has shown is in the journal, so a killed process loses none of it. docs/concepts/generation-jobs.md has the why.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from functools import partial

from sqlalchemy import Engine as Database

from wuya.database.base import now
from wuya.database.connection import reading, writing
from wuya.errors import WuyaError
from wuya.inference.backends.protocol import (
    ContextTooLong,
    Delta,
    Done,
    EngineError,
    Event,
    Failed,
    ServingEngine,
    Started,
    UnknownModel,
)
from wuya.web.chat import elsewhere, ledger
from wuya.web.chat.job import Job, ServerEvent
from wuya.web.chat.journal import Journal
from wuya.web.chat.meter import Meter
from wuya.web.errors import ApiError
from wuya.web.moderation.moderator import Moderator
from wuya.web.moderation.rules import WordRules
from wuya.web.supervision import persistently

log = logging.getLogger("wuya.web.chat")

FLUSH_SECONDS = 0.015
SAVE_SECONDS = 0.5
PING_SECONDS = 15.0
KEEP_SECONDS = 60.0
"""How long an ended job's events stay in memory."""
TOTAL = 64
GRACE_SECONDS = 2.0
"""After which an engine that ignores a cancel is left alone."""
DRAW_REST = 4.0
"""After a drawing of any answer, all rest so many times as long: drawing takes a fifth of a core at most."""
RULE_CHARS = 400
"""A word that a rule looks for may begin so far back."""
END_SECONDS = 120.0
"""How long the end of an answer is tried to be saved."""
RETRY_SECONDS = 30.0
"""How long a job waits for an engine that is full or starting again."""


class GenerationHub:
    """The jobs of this process; one per service. Its methods are called on the event loop."""

    def __init__(
        self,
        engine: ServingEngine,
        database: Database,
        journal: Journal,
        *,
        job_seconds: float = 600.0,
        meter: Meter | None = None,
        moderator: Moderator | None = None,
    ) -> None:
        self.engine, self.database, self.journal = engine, database, journal
        self.job_seconds, self.meter, self.moderator = job_seconds, meter, moderator
        self._rules = WordRules(())
        self.jobs: dict[str, Job] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._saver: asyncio.Task[None] | None = None
        self._due: list[Job] = []
        """Jobs with text that was not sent yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._draw_at = 0.0
        self._wake_saver = asyncio.Event()
        self._closing = False
        self.streams: dict[str, int] = {}
        """Open event streams by person."""

    # Begin, watch, stop

    def admit(self, user_id: str, count: int) -> None:
        """Raise ApiError if so many more answers are too many."""
        live = [job for job in self.jobs.values() if not job.ended]
        if self._closing:
            raise ApiError(503, "unavailable", "the server is about to stop", retry_after=2)
        if len(live) + count > TOTAL:
            raise ApiError(503, "overloaded", "too many answers are being written", retry_after=2)
        if sum(job.user_id == user_id for job in live) + count > ledger.PER_USER + ledger.WAITING_PER_USER:
            raise ledger.too_many()

    def start(self, job: Job) -> None:
        """Begin to write an answer whose rows are in the database."""
        self.jobs[job.id] = job
        job.publish("state", {"state": "queued", "position": None})
        job.task = asyncio.create_task(self._run(job), name=f"generation {job.id}")
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._save_until_idle(), name="generation saver")

    async def stop(self, id: str, *, by: str) -> None:
        """End an answer; what is there is kept. Ended ones stay as they are."""
        job = self.jobs.get(id)
        if job is None:
            await asyncio.to_thread(elsewhere.ask_to_stop, self.database, id, by)
        elif not job.ended and job.stopped_by is None:
            job.stopped_by = by
            await self._cancel(job)

    async def stop_and_wait(self, id: str, *, by: str) -> None:
        """Stop, and return when nothing of the job will be written any more."""
        await self.stop(id, by=by)
        job = self.jobs.get(id)
        if job is not None and job.task is not None:
            await asyncio.wait([job.task], timeout=2 * GRACE_SECONDS)

    async def events(self, id: str, last_seq: int | None) -> AsyncGenerator[ServerEvent | None, None]:
        """What a viewer has not seen yet, then what comes; None now and then, to keep the line open.

        Args:
            last_seq: number of the last event the viewer got; None if there was none.
        """
        job = self.jobs.get(id)
        if job is None:
            async with aclosing(elsewhere.follow(self.database, id, lambda: self._closing)) as events:
                async for event in events:
                    yield event
            return
        changed = asyncio.Event()
        job.viewers.add(changed)
        try:
            seq = -1 if last_seq is None else last_seq
            while True:
                changed.clear()
                waiting = job.since(seq)
                if waiting is None:
                    waiting = iter([job.events[-1] if job.ended else job.snapshot()])  # the end holds everything
                for event in waiting:
                    yield event
                    seq = event.seq
                if job.ended and seq >= job.seq:
                    return
                if self._closing:
                    yield ServerEvent(seq, "bye", {"retry_ms": 1500})
                    return
                if seq < job.seq:
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), PING_SECONDS)
                except TimeoutError:
                    yield None
        finally:
            job.viewers.discard(changed)

    async def say_goodbye(self) -> None:
        """The server is about to stop: take no more jobs, let the viewers go. Open streams would hold it up."""
        self._closing = True
        for job in self.jobs.values():
            job.wake()

    async def close(self) -> None:
        """End every job and keep what they wrote."""
        await self.say_goodbye()
        live = [job for job in self.jobs.values() if not job.ended]
        for job in live:
            if job.task is not None:
                job.task.cancel()
        await asyncio.gather(*(job.task for job in live if job.task), return_exceptions=True)
        if self._saver is not None:  # it may be in the middle of a transaction: let it come to its end
            self._wake_saver.set()
            await self._saver
        self.journal.close()

    # One job

    async def _run(self, job: Job) -> None:
        turn = self._turns.setdefault(job.user_id, asyncio.Semaphore(ledger.PER_USER))
        try:
            async with asyncio.timeout(self.job_seconds), turn:
                await self._generate(job)
        except TimeoutError:
            job.state, job.error_code, job.retryable = "failed", "timeout", True
        except asyncio.CancelledError:
            self._interrupted(job)
        except (UnknownModel, ContextTooLong, EngineError) as error:
            job.state, job.error_code, job.retryable = "failed", error.code, isinstance(error, EngineError)
        except WuyaError:
            log.exception("a generation failed")
            job.state, job.error_code = "failed", "internal_error"
        finally:
            if job.state in ("queued", "running"):  # a bug: the exception goes on to the task's own report
                job.state, job.error_code, job.retryable = "failed", "internal_error", True
            await asyncio.shield(asyncio.ensure_future(self._finish(job)))

    async def _generate(self, job: Job) -> None:
        if self.moderator:
            self._rules = await asyncio.to_thread(self.moderator.word_rules)
        give_up = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                async with aclosing(self.engine.submit(job.request)) as events:
                    async for event in events:
                        job.in_engine = True
                        if job.stopped_by and isinstance(event, Started):
                            await self._cancel(job)  # it was stopped while the engine took it in
                        await self._take(job, event)
                        if job.withheld:
                            await self.engine.cancel(job.id)
                return
            except EngineError as error:
                if job.in_engine or job.stopped_by or time.monotonic() > give_up:
                    raise
                job.publish("state", {"state": "queued", "position": None, "reason": error.code})
                await asyncio.sleep(min(2.0, getattr(error, "retry_after", 1.0)))

    async def _take(self, job: Job, event: Event) -> None:
        if isinstance(event, Started):
            job.prompt_tokens, job.position, job.is_dirty = event.prompt_tokens, event.position or None, True
            if event.position:
                job.publish("state", {"state": "queued", "position": event.position})
            else:
                self._running(job)
        elif isinstance(event, Delta):
            self._running(job)
            job.tokens += len(event.token_ids)
            job.new_tokens += len(event.token_ids)
            job.is_dirty = True
            if self.meter:
                self.meter.token(job)
            if event.text and not job.withheld:
                if not job.pending:
                    self._due.append(job)
                job.pending.append(event.text.replace("\0", "\ufffd"))  # PostgreSQL keeps no NUL
                if job.first_token is None:
                    job.first_token, job.first_token_at = time.monotonic(), now()
                    self._flush_due()
                elif self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush_due)
        elif isinstance(event, Done):
            job.finish_reason = event.finish_reason
            job.state = "stopped" if event.finish_reason == "cancelled" else "done"
            if job.withheld:
                job.state, job.finish_reason = "done", "content_filter"
            elif job.state == "stopped" and job.stopped_by is None:
                job.state, job.error_code, job.retryable = "failed", "engine_lost", True
        elif isinstance(event, Failed):
            job.state, job.error_code, job.retryable = "failed", event.code, event.retryable

    def _running(self, job: Job) -> None:
        if job.state == "queued":
            job.state, job.position, job.started_at = "running", None, now()
            job.publish("state", {"state": "running", "prompt": None if job.is_blind else job.prompt_tokens})
            if self.meter:
                self.meter.running(job)

    def _flush_due(self) -> None:
        """Text of all jobs that have some: to the journal in one go, then to the viewers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [(job, text) for job in self._due if (text := self._passed(job))]
        self._due.clear()
        if due:
            self.journal.append([(job.id, len(job.text), text) for job, text in due])
        for job, text in due:
            job.text += text
            job.is_dirty = True
            at = time.monotonic()
            draw = bool(job.viewers) and at >= max(job.draw_at, self._draw_at)
            if took := job.delta(text, draw=draw):
                self._draw_at = at + DRAW_REST * took

    def _passed(self, job: Job) -> str:
        """What a job has to say and no rule holds back."""
        text = "".join(job.pending)
        job.pending.clear()
        if text and self._is_blocked(job.text[-RULE_CHARS:] + text):
            job.withheld = text
            return ""
        return text

    def _is_blocked(self, text: str) -> bool:
        verdict = self._rules.check(text, "output")
        return verdict is not None and verdict.rule.action == "block"

    async def _cancel(self, job: Job) -> None:
        if not job.in_engine:
            if job.task is not None:
                job.task.cancel()
            return
        await self.engine.cancel(job.id)
        task = job.task
        if task is not None:
            asyncio.get_running_loop().call_later(GRACE_SECONDS, lambda: None if task.done() else task.cancel())

    def _interrupted(self, job: Job) -> None:
        if job.withheld:
            job.state, job.finish_reason = "done", "content_filter"
        elif job.stopped_by is not None:
            job.state, job.finish_reason = "stopped", "cancelled"
        else:
            job.state, job.error_code, job.retryable = "failed", "server_stopped", True

    async def _finish(self, job: Job) -> None:
        """Write the end, then tell it: whoever hears of the end finds it in the database."""
        self._flush_due()
        message = await self._written_end(job)
        job.publish_usage()
        job.ended = True
        if job.error_code:
            job.publish("error", {"code": job.error_code, "retryable": job.retryable, "message": message})
        else:
            job.publish("final", {"message": message, "finish_reason": job.finish_reason})
        asyncio.get_running_loop().call_later(KEEP_SECONDS, self.jobs.pop, job.id, None)

    async def _written_end(self, job: Job) -> dict[str, object] | None:
        """Write the end, whatever the database says at first: a job without an end would be watched for ever."""
        try:
            write = partial(asyncio.to_thread, self._write_end, job)
            return await persistently(write, seconds=END_SECONDS, stop=lambda: self._closing)
        except WuyaError:
            log.exception("the end of an answer could not be saved; its text is in the journal")
            self.journal.keep()
            job.state, job.error_code, job.retryable = "failed", "not_saved", True
            return None

    def _write_end(self, job: Job) -> dict[str, object]:
        if self.moderator and (job.text or job.withheld):
            named = {"prompt": job.question, "user_id": job.user_id, "message_id": job.message_id}
            verdict = self.moderator.note_output(job.text + job.withheld, **named)
            if verdict is not None and verdict.rule.action == "block" and not job.withheld:
                job.is_hidden, job.finish_reason = True, "content_filter"
        with writing(self.database) as connection:
            ledger.finish(connection, job)
        job.is_dirty = False
        if self.meter:
            self.meter.ended(job)
        with reading(self.database) as connection:
            return ledger.message_for_viewers(connection, job.message_id, job.user_id)

    # All jobs

    async def _save_until_idle(self) -> None:
        """Every half second: texts of all jobs in one transaction, usage to viewers, stops asked of other processes."""
        is_saved = True
        while any(not job.ended for job in self.jobs.values()):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake_saver.wait(), SAVE_SECONDS)
            live = [job for job in self.jobs.values() if not job.ended]
            for job in live:
                if job.is_dirty and job.viewers:
                    self._draw_rest(job)
                    job.publish_usage()
                    await asyncio.sleep(0)
            self.journal.rotate()
            dirty = [job for job in live if job.is_dirty]
            progress = [ledger.Progress.of(job) for job in dirty]
            for job in dirty:
                job.is_dirty = False
            try:
                asked = await asyncio.to_thread(self._save, progress, [job.id for job in live])
            except WuyaError:
                for job in dirty:
                    job.is_dirty = True
                if is_saved:  # once, not twice a second
                    log.exception("texts of running generations could not be saved; they are in the journal")
                is_saved = False
                continue
            is_saved = True
            for id, by in asked.items():
                await self.stop(id, by=by)
            self.journal.drop_old()
        self.journal.clear()

    def _draw_rest(self, job: Job) -> None:
        """Draw what was only sent as text, so that a pause in writing never leaves a block undrawn."""
        if job.drawn < len(job.text) and time.monotonic() >= job.draw_at:
            job.delta("", draw=True)

    def _save(self, progress: list[ledger.Progress], running: list[str]) -> dict[str, str]:
        if self.moderator:
            self._rules = self.moderator.word_rules()
        with writing(self.database) as connection:
            return ledger.save(connection, progress, running)
