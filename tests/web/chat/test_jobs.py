"""Generations as jobs: watched or not, stopped, reloaded, killed; the text is the same and nothing stays streaming."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as Database
from sqlalchemy import select

from wuya.feedback.base import uuid7
from wuya.feedback.database import open_engine, reading, writing
from wuya.inference.backends.fake import FakeEngine
from wuya.inference.backends.protocol import EngineLost, GenerationParams, GenerationRequest
from wuya.web.accounts.store import ensure_single_user
from wuya.web.chat import ledger, messages, store
from wuya.web.chat.job import Job, ServerEvent
from wuya.web.chat.jobs import GenerationHub
from wuya.web.chat.journal import Journal, apply_pieces, left_behind
from wuya.web.errors import ApiError
from wuya.web.markdown.nodes import render
from wuya.web.tables import ChatMessage, Generation

TEXT = (
    "# Title\n\nSome **bold** text.\n\n```py\nx = 1\n```\n\n" + " ".join(f"word{i}" for i in range(40)) + "\n\nThe end."
)


DATABASE: list[str | Path] = []


@pytest.fixture(autouse=True)
def _database(database: str | Path) -> Iterator[None]:
    DATABASE.append(database)
    yield
    DATABASE.clear()


class World:
    """A hub with its database, without HTTP."""

    def __init__(self, folder: Path, engine: FakeEngine, **values: Any) -> None:
        self.folder, self.engine = folder, engine
        self.database: Database = open_engine(DATABASE[0])
        self.journal = Journal(folder / "journals", uuid7())
        self.hub = GenerationHub(engine, self.database, self.journal, **values)
        with writing(self.database) as connection:
            self.user = ensure_single_user(connection, f"user {uuid7()}")

    def job(self, user: str = "") -> Job:
        """Rows of a question and an empty answer, and the job that shall write it."""
        request = GenerationRequest(
            job=uuid7(), model="fake", prompt_ids=(1, 2, 3), params=GenerationParams(max_tokens=500)
        )
        with writing(self.database) as connection:
            owner = user or self.user
            chat = store.create(connection, owner)
            asked = messages.add(connection, chat, None, "user", "hello")
            id = messages.add(
                connection,
                chat,
                asked,
                "assistant",
                "",
                status="streaming",
                generation_id=request.job,
                model_alias="fake",
            )
            row = {"id": request.job, "conversation_id": chat, "message_id": id, "user_id": owner, "state": "queued"}
            ledger.begin(connection, [row])
        return Job(request, chat, id, owner)

    def message(self, job: Job) -> Any:
        with reading(self.database) as connection:
            return (
                connection.execute(select(ChatMessage.__table__).where(ChatMessage.id == job.message_id))
                .mappings()
                .one()
            )

    def generation(self, job: Job) -> Any:
        with reading(self.database) as connection:
            return connection.execute(select(Generation.__table__).where(Generation.id == job.id)).mappings().one()

    async def watch(self, job: Job, last: int | None = None, *, most: int = 10_000) -> list[ServerEvent]:
        """Events up to the end, or the first few of them."""
        found: list[ServerEvent] = []
        async for event in self.hub.events(job.id, last):
            if event is not None:
                found.append(event)
            if len(found) >= most:
                break
        return found


@asynccontextmanager
async def world(folder: Path, engine: FakeEngine | None = None, **values: Any) -> AsyncIterator[World]:
    found = World(folder, engine or FakeEngine(script=TEXT), **values)
    await found.engine.start()
    try:
        yield found
    finally:
        await found.hub.close()
        await found.engine.close()
        found.database.dispose()


def drawn(events: list[ServerEvent]) -> tuple[str, list[Any]]:
    """Text and blocks as a page has them after these events."""
    text, nodes = "", []
    for event in events:
        if event.name == "snapshot":
            text, nodes = event.data["text"], event.data["nodes"]
        elif event.name == "delta":
            text += event.data["t"]
            if "nodes" in event.data:
                nodes = nodes[: event.data["from"]] + event.data["nodes"]
        elif event.name in ("final", "error"):
            text, nodes = event.data["message"]["content"], event.data["message"]["nodes"]
    return text, nodes


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        await asyncio.sleep(0.005)


def test_a_viewer_sees_the_text_grow_and_the_end_is_in_the_database(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as w:
            job = w.job()
            w.hub.start(job)
            events = await w.watch(job)
            assert drawn(events) == (TEXT, render(TEXT))
            assert drawn([e for e in events if e.name != "final"])[0] == TEXT, "also without the last event"
            assert [e.seq for e in events] == sorted({e.seq for e in events})
            final = events[-1]
            assert final.name == "final" and final.data["finish_reason"] == "stop"
            row, generation = w.message(job), w.generation(job)
            assert (row["content"], row["status"], row["finish_reason"]) == (TEXT, "complete", "stop")
            assert generation["state"] == "done" and generation["ended_at"] >= generation["first_token_at"]
            assert w.engine.slots_used == 0

    run(test)


def test_an_answer_is_written_to_its_end_without_any_viewer(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=400)) as w:
            job = w.job()
            w.hub.start(job)
            await until(lambda: job.ended)
            assert w.message(job)["content"] == TEXT
            late = await w.watch(job)
            assert drawn(late) == (TEXT, render(TEXT))

    run(test)


@pytest.mark.parametrize("cuts", [[3], [1, 2, 3], [5, 20, 7]])
def test_a_reload_anywhere_ends_with_the_same_page(tmp_path: Path, cuts: list[int]) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=300)) as w:
            job = w.job()
            w.hub.start(job)
            seen: list[ServerEvent] = []
            for most in cuts:  # the page leaves and comes back with the number of the last event it got
                seen += await w.watch(job, seen[-1].seq if seen else None, most=most)
                await asyncio.sleep(0.05)
            seen += await w.watch(job, seen[-1].seq)
            assert drawn(seen) == (TEXT, render(TEXT))
            deltas = [e for e in seen if e.name in ("delta", "snapshot")]
            assert drawn(deltas)[0] == TEXT
            assert [e.seq for e in seen] == sorted({e.seq for e in seen}), "nothing lost, nothing twice"
            assert drawn(await w.watch(job)) == (TEXT, render(TEXT)), "and a page that remembers nothing, too"

    run(test)


def test_viewers_who_come_and_go_agree_on_the_blocks(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=150)) as w:
            job = w.job()
            w.hub.start(job)

            async def viewer(delay: float) -> list[ServerEvent]:
                await asyncio.sleep(delay)
                return await w.watch(job)

            pages = await asyncio.gather(*(viewer(delay) for delay in (0, 0.05, 0.1, 0.2)))
            for events in pages:
                before_the_end = [e for e in events if e.name in ("snapshot", "delta")]
                text, nodes = drawn(before_the_end)
                assert text == TEXT
                assert nodes == render(TEXT)[: len(nodes)] or nodes[:-1] == render(TEXT)[: len(nodes) - 1]

    run(test)


def test_who_missed_too_much_gets_a_snapshot(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path) as w:
            job = w.job()
            w.hub.start(job)
            await until(lambda: job.ended)
            job.events.popleft()
            events = await w.watch(job, 0)
            assert [e.name for e in events] == ["final"] and drawn(events) == (TEXT, render(TEXT))
            assert (await w.watch(job, 10_000))[0].name == "final", "a number of another life of the server"

    run(test)


def test_who_missed_too_much_of_a_running_answer_gets_a_snapshot(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=60)) as w:
            job = w.job()
            w.hub.start(job)
            await until(lambda: job.tokens >= 5)
            job.events.popleft()
            events = await w.watch(job, 0)
            assert events[0].name == "snapshot" and drawn(events) == (TEXT, render(TEXT))

    run(test)


def test_stop_before_the_first_token_frees_the_slot_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, prefill_seconds=30)) as w:
            job = w.job()
            w.hub.start(job)
            await until(lambda: w.engine.slots_used == 1)
            start = time.monotonic()
            await w.hub.stop(job.id, by="me")
            await w.hub.stop(job.id, by="me")
            await until(lambda: w.engine.slots_used == 0)
            assert time.monotonic() - start < 0.5
            events = await w.watch(job)
            assert events[-1].name == "final" and events[-1].data["finish_reason"] == "cancelled"
            row, generation = w.message(job), w.generation(job)
            assert (row["status"], row["content"]) == ("stopped", "")
            assert (generation["state"], generation["cancelled_by"], generation["error_code"]) == (
                "stopped",
                "me",
                None,
            )
            await w.hub.stop(job.id, by="other")
            assert w.generation(job)["cancelled_by"] == "me", "stopping what has ended changes nothing"

    run(test)


def test_stop_keeps_what_was_written(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, tokens_per_second=60)) as w:
            job = w.job()
            w.hub.start(job)
            await until(lambda: job.tokens >= 5)
            await w.hub.stop(job.id, by="me")
            await until(lambda: job.ended)
            content = w.message(job)["content"]
            assert content and TEXT.startswith(content) and content != TEXT
            assert w.engine.slots_used == 0

    run(test)


def test_two_answers_at_a_time_for_one_person_and_the_rest_waits(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script=TEXT, prefill_seconds=30)) as w:
            jobs = [w.job() for _ in range(4)]
            for job in jobs:
                w.hub.start(job)
            other = w.job(user=_another(w))
            w.hub.start(other)
            await until(lambda: w.engine.slots_used == 3)
            await w.hub.stop(jobs[3].id, by="me")  # it waits, and never reached the engine
            await until(lambda: jobs[3].ended)
            assert w.generation(jobs[3])["state"] == "stopped" and len(w.engine.requests) == 3
            w.hub.admit(w.user, 3)
            with pytest.raises(ApiError) as refused:
                w.hub.admit(w.user, 4)
            assert refused.value.status == 429
            await w.hub.stop(jobs[0].id, by="me")
            await until(lambda: len(w.engine.requests) == 4)

    run(test)


def _another(w: World) -> str:
    with writing(w.database) as connection:
        return ensure_single_user(connection, f"other {uuid7()}")


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
    assert row["content"] == shown and row["status"] == "error" and row["error_code"] == "engine_lost"
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
