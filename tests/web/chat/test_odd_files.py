"""Files of chats with one value that is none of its kind, anywhere in them: read or refused, never a bug."""

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.web.chat.test_transfer import CHATGPT

ODD: list[Any] = [None, True, -1, 1e308, 10**400, "", "x", "\ud800", "9" * 5000, [], [1], [[]], [{}], {}, {"a": 1}]
TURNS = [{"id": "1", "role": "user", "content": "q"}, {"id": "2", "parent_id": "1", "role": "assistant"}]
TURNS[1] |= {"content": "a", "created_at": "2026-01-01T00:00:00Z", "feedback": {"value": 1, "reasons": ["x"]}}
CHAT = {"id": "c", "title": "t", "params": {"temperature": 1}, "active_leaf_id": "1", "messages": TURNS}
OURS = {"format": "wuya.conversations", "version": 1, "conversations": [CHAT]}
PARTS = [{"type": "text", "text": "a"}]
NODES = {"a": {"role": "user", "content": "q"}, "b": {"parentId": "a", "role": "assistant", "content": PARTS}}
INSIDE = {"title": "t", "models": ["m"], "params": {"system": "s"}, "history": {"currentId": "b", "messages": NODES}}
OPEN_WEBUI = [{"id": "w", "created_at": 1700000000, "chat": INSIDE}]


def variants(value: Any) -> Iterator[Any]:
    """`value` with each value in it replaced by each odd one; the file's frame itself stays."""
    places: list[tuple[Any, ...]] = [()]
    while places:
        place = places.pop()
        found = value
        for key in place:
            found = found[key]
        keys = list(found) if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
        places += [(*place, key) for key in keys]
        if len(place) < 2:
            continue
        for odd in ODD:
            copied = copy.deepcopy(value)
            inside = copied
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = odd
            yield copied


@pytest.mark.parametrize(("file", "every"), [(OURS, 1), (OPEN_WEBUI, 1), (CHATGPT, 7)])
def test_an_odd_value_anywhere_is_no_bug(client: TestClient, file: Any, every: int) -> None:
    for variant in itertools.islice(variants(file), 0, None, every):
        answer = client.post("/api/import", content=json.dumps(variant), headers={"content-type": "application/json"})
        assert answer.status_code in (201, 400), (answer.status_code, answer.text, variant)
    assert client.get("/api/export").status_code == 200
