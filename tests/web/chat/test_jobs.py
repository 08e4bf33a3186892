"""Generations as jobs: watched or not, stopped, reloaded; the text is the same."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.web.chat.hub import TEXT, World, _database, drawn, run, until, world  # noqa: F401
from wuya.database.base import uuid7
from wuya.database.connection import writing
from wuya.inference.backends.fake import FakeEngine
from wuya.web.accounts.store import ensure_single_user
from wuya.web.chat.job import ServerEvent
from wuya.web.errors import ApiError
from wuya.web.markdown.nodes import render


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


def test_a_model_that_writes_nul_is_kept_by_every_database(tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, FakeEngine(script="one\0two three", tokens_per_second=400)) as w:
            job = w.job()
            w.hub.start(job)
            events = await w.watch(job)
            assert drawn(events)[0] == w.message(job)["content"] == "one\ufffdtwo three"

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
