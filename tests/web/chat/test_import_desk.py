"""Imports take turns, say how far they are, and take the memory of one chat."""

import asyncio
import json
import tracemalloc
from io import BytesIO
from typing import Any

import pytest
from starlette.requests import Request

from tests.web.chat.test_transfer import node, said
from wuya.errors import DataError
from wuya.web.chat.chat_files import MESSAGES, look_through, read_chats
from wuya.web.chat.import_desk import ImportDesk
from wuya.web.errors import ApiError


def request(body: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "path": "/api/import", "headers": []}, receive)


def test_one_is_read_the_others_know_their_place_and_nobody_has_two() -> None:
    async def story() -> None:
        desk, go_on = ImportDesk(), asyncio.Event()
        order: list[str] = []

        async def load(person: str) -> None:
            async with desk.take(request(person.encode()), person) as ticket:
                assert ticket.file.seek(0) == 0 and ticket.file.read() == person.encode()
                order.append(person)
                await go_on.wait()

        jobs = []
        for person in ("ann", "bob", "eve"):
            jobs.append(asyncio.create_task(load(person)))
            await asyncio.sleep(0.01)
        states = {person: desk.status(person) for person in ("ann", "bob", "eve", "nobody")}
        assert [states[p]["state"] for p in states] == ["reading", "waiting", "waiting", "none"]
        assert [states[p]["before"] for p in states] == [0, 1, 2, 0]
        with pytest.raises(ApiError) as refused:
            await load("bob")
        assert (refused.value.status, refused.value.code) == (409, "import_running")
        go_on.set()
        await asyncio.gather(*jobs)
        assert order == ["ann", "bob", "eve"] and not desk.tickets

    asyncio.run(story())


def test_an_import_that_fails_lets_the_next_one_in() -> None:
    async def story() -> None:
        desk = ImportDesk()
        for _ in range(2):
            with pytest.raises(DataError):
                async with desk.take(request(b"[1"), "ann") as ticket:
                    look_through(ticket.file)
        assert not desk.tickets and not desk.turn.locked()

    asyncio.run(story())


def chats(count: int, turns: int) -> bytes:
    def chain(chat: int) -> dict[str, Any]:
        places = [f"{chat}-{n}" for n in range(turns)]
        return dict(
            [node(id, before, "user", said("word " * 200)) for before, id in zip([None, *places], places, strict=False)]
        )

    return json.dumps([{"id": str(c), "title": "t", "mapping": chain(c)} for c in range(count)]).encode()


def test_memory_is_that_of_a_chat_not_of_the_file() -> None:
    peaks = []
    for count in (20, 400):
        file = BytesIO(chats(count, 10))
        tracemalloc.start()
        found = look_through(file)
        assert sum(len(chat.messages) for chat in read_chats(file, found)) == found.messages == count * 10
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 1 << 20


def test_more_messages_than_a_file_may_have_are_refused_before_anything_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wuya.web.chat.chat_files.MESSAGES", 25)
    assert MESSAGES == 200_000
    with pytest.raises(DataError, match="too many chats or messages"):
        look_through(BytesIO(chats(3, 10)))


def test_damage_at_the_end_of_a_file_keeps_nothing_of_its_beginning() -> None:
    with pytest.raises(DataError, match="not JSON"):
        look_through(BytesIO(chats(3, 2)[:-20]))
