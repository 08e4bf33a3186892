"""Jobs whose engine, process or hub fails: what was shown stays, and nothing is left streaming."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.web.chat.hub import TEXT, World, _database, drawn, run, until, world  # noqa: F401
from wuya.database.connection import writing
from wuya.inference.backends.fake import FakeEngine
from wuya.inference.backends.protocol import EngineLost, GenerationRequest
from wuya.web.chat import ledger
from wuya.web.chat.job import Job
from wuya.web.chat.jobs import GenerationHub
from wuya.web.chat.journal import Journal, apply_pieces, left_behind
from wuya.web.errors import ApiError


def test_a_lost_engine_is_told_and_the_text_stays(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, fail_after=6)) as w:
            job = w.job()
            w.hub.start(job)
            events = await w.watch(job)
            assert events[-1].name == "error"
            assert events[-1].data["code"] == "engine_lost" and events[-1].data["retryable"]
            row = w.message(job)
            assert row["status"] == "error" and row["error_code"] == "engine_lost" and row["content"]
            assert w.generation(job)["state"] == "failed"

    run(test)


def test_an_engine_that_starts_again_is_waited_for(tmp_path: Path) -> None:
    class Restarting(FakeEngine):
        refusals = 2

        async def submit(self, request: GenerationRequest) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise EngineLost("the engine starts again")
            async for event in super().submit(request):
                yield event

    async def test() -> None:
        async with world(tmp_path, Restarting(script=TEXT)) as w:
            job = w.job()
            w.hub.start(job)
            events = await w.watch(job)
            assert any(e.data.get("reason") == "engine_lost" for e in events if e.name == "state")
            assert drawn(events)[0] == TEXT

    run(test)


def test_nothing_takes_longer_than_the_limit(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=20), job_seconds=0.3) as w:
            job = w.job()
            w.hub.start(job)
            events = await w.watch(job)
            assert events[-1].name == "error" and events[-1].data["code"] == "timeout"
            await until(lambda: w.engine.slots_used == 0)

    run(test)


def test_a_bug_in_the_engine_ends_the_job(tmp_path: Path) -> None:
    class Broken(FakeEngine):
        async def submit(self, request: GenerationRequest) -> Any:
            async for event in super().submit(request):
                yield event
                raise ZeroDivisionError

    async def test() -> None:
        async with world(tmp_path, Broken(script=TEXT)) as w:
            job = w.job()
            w.hub.start(job)
            events = await w.watch(job)
            assert events[-1].data["code"] == "internal_error"
            assert job.task is not None and isinstance(job.task.exception(), ZeroDivisionError)

    run(test)


def test_closing_says_goodbye_and_keeps_the_text(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=60)) as w:
            job = w.job()
            w.hub.start(job)
            watching = asyncio.create_task(w.watch(job))
            await until(lambda: job.tokens >= 5)
            await w.hub.say_goodbye()
            events = await watching
            assert events[-1].name == "bye" and events[-1].data == {"retry_ms": 1500}
            await w.hub.close()
            row = w.message(job)
            assert row["status"] == "error" and row["error_code"] == "server_stopped" and row["content"]
            with pytest.raises(ApiError):
                w.hub.admit(w.user, 1)

    run(test)


def test_after_a_kill_nothing_streams_and_no_text_that_was_shown_is_lost(tmp_path: Path) -> None:
    async def first_life() -> tuple[World, Job, str]:
        w = World(tmp_path, FakeEngine(script=TEXT, tokens_per_second=100))
        job = w.job()
        w.hub.start(job)
        shown = ""
        async for event in w.hub.events(job.id, None):
            assert event is not None
            shown = event.data.get("text", shown) if event.name == "snapshot" else shown + event.data.get("t", "")
            if job.tokens >= 8:
                break
        for task in (job.task, w.hub._saver):  # killed: no task ends in order
            assert task is not None
            task.cancel()
        job.ended = True
        w.hub._finish = lambda job: asyncio.sleep(0)  # type: ignore[method-assign]
        await asyncio.sleep(0.05)
        return w, job, shown

    w, job, shown = asyncio.run(first_life())
    row = w.message(job)
    assert shown and row["status"] == "streaming" and row["content"] != shown, "the database is half a second behind"
    os.close(w.journal._file)  # the kernel does so, and with it the lock goes
    with left_behind(tmp_path / "journals") as pieces, writing(w.database) as connection:
        assert ledger.recover(connection, pieces, everything=True) == 1
    row = w.message(job)
    assert row["content"].startswith(shown) and (row["status"], row["error_code"]) == ("error", "engine_lost")
    assert w.generation(job)["state"] == "failed" and not list((tmp_path / "journals").glob("*"))
    with writing(w.database) as connection:
        assert ledger.recover(connection, {}, everything=True) == 0
    w.database.dispose()


def test_a_living_process_keeps_its_jobs_when_another_starts(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, prefill_seconds=30)) as w:
            job = w.job()
            w.hub.start(job)
            await until(lambda: w.engine.slots_used == 1)
            with left_behind(tmp_path / "journals") as pieces, writing(w.database) as connection:
                assert pieces == {} and ledger.recover(connection, pieces, everything=False) == 0
            assert w.message(job)["status"] == "streaming"

    run(test)


def test_another_process_shows_and_stops_a_job_through_the_database(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=20)) as w:
            job = w.job()
            w.hub.start(job)
            await until(lambda: job.tokens >= 3)
            other = GenerationHub(w.engine, w.database, Journal(tmp_path / "journals", "other"))
            events = []
            async for event in other.events(job.id, None):
                assert event is not None
                events.append(event)
                if event.name == "snapshot" and event.data["text"]:
                    await other.stop(job.id, by="me")
            assert events[-1].name == "final" and events[-1].data["finish_reason"] == "cancelled"
            assert TEXT.startswith(events[-1].data["message"]["content"])
            await other.close()

    run(test)


def test_a_late_save_does_not_undo_the_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as w:
            job = w.job()
            w.hub.start(job)
            await until(lambda: job.tokens > 3)
            late = replace(ledger.Progress.of(job), text="old", state="running")
            await until(lambda: job.ended)
            with writing(w.database) as connection:
                ledger.save(connection, [late], [job.id])
            assert w.message(job)["content"] == TEXT and w.generation(job)["state"] == "done"

    run(test)


def test_journal_pieces_join_on(tmp_path: Path) -> None:
    assert apply_pieces("abc", [(2, "cde"), (5, "f")]) == "abcdef"
    assert apply_pieces("abc", [(4, "x")]) == "abc", "a gap is not filled with a guess"
    assert apply_pieces("abc", [(0, "ab")]) == "abc"
    journal = Journal(tmp_path, "one")
    journal.append([("g", 0, "line\nand \u68af\u5ea6")])
    with left_behind(tmp_path) as pieces:
        assert pieces == {}, "its owner lives"
    journal.clear()
    journal.append([("g", 3, "x" * (1 << 17))])
    journal.rotate()
    journal.append([("g", 9, "y")])
    assert len(list(tmp_path.glob("*.journal"))) == 2
    journal.drop_old()
    assert len(list(tmp_path.glob("*.journal"))) == 1
    journal.close()
    assert not list(tmp_path.glob("*.journal"))
