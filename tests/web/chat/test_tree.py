"""A conversation is a tree; nothing is overwritten."""

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from tests.web.chat.conftest import Chat, new_chat, ok
from wuya.database.base import now, uuid7
from wuya.database.connection import writing
from wuya.database.service_tables import Conversation, Generation
from wuya.web.chat import ledger, messages
from wuya.web.service import Service
from wuya.web.tree import Tree


def test_paths_siblings_and_leaves() -> None:
    tree = Tree.of([("a", None), ("b", "a"), ("c", "a"), ("d", "b"), ("e", None)])
    assert tree.path("d") == ["a", "b", "d"] and tree.path(None) == [] and tree.path("x") == []
    assert tree.siblings("c") == ["b", "c"] and tree.siblings("e") == ["a", "e"]
    assert tree.newest_leaf("a") == "c" and tree.last_leaf() == "e"
    assert Tree().last_leaf() is None


def test_an_answer_is_the_child_of_its_question_and_the_title_is_its_beginning(chat: Chat) -> None:
    answer = chat.say("What is a crow?  " + "x" * 100, None, {})
    question, [reply] = answer["message"], answer["messages"]
    assert reply["parent_id"] == question["id"] and reply["status"] == "complete" and reply["model"] == "fake"
    assert reply["content"] and reply["nodes"] and reply["finish_reason"] == "stop"
    assert reply["prompt_tokens"] > 0 and reply["completion_tokens"] == 41 - 1
    shown = chat.get()
    assert [m["id"] for m in shown["messages"]] == [question["id"], reply["id"]]
    assert shown["title"].startswith("What is a crow? xxx") and len(shown["title"]) == 60
    assert shown["active_leaf_id"] == reply["id"]


def test_an_edited_question_is_a_sibling_and_the_old_branch_stays(chat: Chat) -> None:
    first = chat.say("one", None, {})
    edited = chat.settle(
        ok(
            chat.client.post(f"/api/messages/{first['message']['id']}/edit", json={"content": "uno", "generate": {}}),
            201,
        )
    )
    both = [first["message"]["id"], edited["message"]["id"]]
    assert edited["message"]["siblings"] == both and edited["message"]["parent_id"] is None
    assert chat.get()["messages"][0]["content"] == "uno"
    back = ok(chat.client.post(f"/api/messages/{both[0]}/select"))
    assert [m["id"] for m in back["messages"]] == [both[0], first["messages"][0]["id"]]
    assert chat.get()["active_leaf_id"] == first["messages"][0]["id"]


def test_a_regenerated_answer_is_a_sibling(chat: Chat) -> None:
    first = chat.ask("hello")
    second = chat.generate(first["id"])["messages"][0]
    third = chat.generate(first["parent_id"])["messages"][0]
    assert third["siblings"] == [first["id"], second["id"], third["id"]]
    assert len({first["content"], second["content"], third["content"]}) > 1, "each has a seed of its own"
    assert chat.get()["active_leaf_id"] == third["id"]


def test_an_edited_answer_is_written_by_a_person(chat: Chat) -> None:
    answer = chat.ask("hello")
    edited = ok(chat.client.post(f"/api/messages/{answer['id']}/edit", json={"content": "Hi."}), 201)
    assert edited["message"]["model"] is None and edited["message"]["siblings"] == [
        answer["id"],
        edited["message"]["id"],
    ]
    assert edited["generations"] == [] and chat.get()["active_leaf_id"] == edited["message"]["id"]


def test_several_answers_at_once(chat: Chat) -> None:
    answer = chat.say("hello", None, {"n": 3})
    assert len({m["id"] for m in answer["messages"]}) == 3
    assert answer["messages"][0]["siblings"] == [m["id"] for m in answer["messages"]]


def test_sending_the_same_message_again_gives_what_is_there(chat: Chat) -> None:
    id = "01890000-0000-7000-8000-000000000001"
    first = chat.say("hello", None, {}, id=id)
    again = chat.say("hello", None, {}, id=id)
    assert again["message"]["id"] == id == first["message"]["id"]
    assert [m["id"] for m in again["messages"]] == [m["id"] for m in first["messages"]]
    assert len(chat.get()["messages"]) == 2
    other = chat.client.post(f"/api/conversations/{chat.id}/messages", json={"content": "other", "id": id})
    assert other.status_code == 409 and other.json()["code"] == "duplicate_id"


def test_long_chats_come_forty_messages_at_a_time(chat: Chat) -> None:
    parent = None
    for index in range(45):
        parent = chat.say(f"message {index}", parent)["message"]["id"]
    shown = chat.get()
    assert [m["content"] for m in shown["messages"]] == [f"message {i}" for i in range(5, 45)]
    above = ok(
        chat.client.get(f"/api/conversations/{chat.id}/messages", params={"before": shown["before"], "limit": 3})
    )
    assert [m["content"] for m in above["items"]] == ["message 2", "message 3", "message 4"]
    rest = ok(chat.client.get(f"/api/conversations/{chat.id}/messages", params={"before": above["next"]}))
    assert [m["content"] for m in rest["items"]] == ["message 0", "message 1"] and rest["next"] is None


def test_a_fork_is_a_chat_of_its_own(chat: Chat) -> None:
    answer = chat.ask("hello")
    chat.ask("more", answer["id"])
    fork = ok(chat.client.post(f"/api/conversations/{chat.id}/fork", json={"leaf_id": answer["id"]}), 201)
    assert fork["id"] != chat.id and [m["content"] for m in fork["messages"]] == ["hello", answer["content"]]
    assert not {m["id"] for m in fork["messages"]} & {m["id"] for m in chat.get()["messages"]}


def test_parameters_live_on_the_chat_and_reach_the_engine(chat: Chat, engine: object) -> None:
    params = {"temperature": 0.3, "stop": ["END"], "seed": 5, "max_tokens": 7}
    assert chat.patch(params=params, system_prompt="Be brief.")["params"] == params
    answer = chat.ask("hello")
    assert answer["completion_tokens"] == 7 and answer["finish_reason"] == "length"
    sent = engine.requests[-1].params  # type: ignore[attr-defined]
    assert (sent.temperature, sent.stop, sent.seed, sent.max_tokens) == (0.3, ("END",), 5, 7)
    chat.say("again", answer["id"], {"params": {"temperature": 0.0}})
    assert engine.requests[-1].params.temperature == 0.0 and chat.get()["params"] == params  # type: ignore[attr-defined]


def test_an_answer_that_was_cut_goes_on_in_the_same_message(chat: Chat) -> None:
    chat.patch(params={"max_tokens": 5})
    cut = chat.ask("hello")
    assert cut["finish_reason"] == "length"
    more = chat.settle(ok(chat.client.post(f"/api/messages/{cut['id']}/continue"), 202))["messages"][0]
    assert more["id"] == cut["id"] and more["content"].startswith(cut["content"]) and more["content"] != cut["content"]
    assert more["completion_tokens"] == 10


def test_lists_archive_trash_and_delete_for_good(client: TestClient) -> None:
    chats = [new_chat(client, title=f"chat {i}") for i in range(5)]

    def listed(state: str = "active", **query: object) -> list[str]:
        return [c["title"] for c in ok(client.get("/api/conversations", params={"state": state, **query}))["items"]]

    assert listed() == ["chat 4", "chat 3", "chat 2", "chat 1", "chat 0"]
    first = ok(client.get("/api/conversations", params={"limit": 2}))
    second = ok(client.get("/api/conversations", params={"limit": 2, "cursor": first["next"]}))
    assert [c["title"] for c in second["items"]] == ["chat 2", "chat 1"]
    chats[0].patch(archived=True)
    assert listed("archived") == ["chat 0"]
    assert client.delete(f"/api/conversations/{chats[1].id}").status_code == 204
    assert listed("trash") == ["chat 1"] and listed() == ["chat 4", "chat 3", "chat 2"]
    chats[1].patch(trashed=False)
    assert listed("trash") == []
    ids = [chats[1].id, chats[2].id, "unknown"]
    assert ok(client.post("/api/conversations/bulk", json={"ids": ids, "action": "trash"})) == {"changed": 2}
    assert client.delete(f"/api/conversations/{chats[2].id}").status_code == 204, "the second time is for good"
    assert client.get(f"/api/conversations/{chats[2].id}").status_code == 404
    assert ok(client.post("/api/conversations/bulk", json={"ids": ids, "action": "delete"})) == {"changed": 1}
    assert listed("trash") == []


def test_chats_are_filtered_by_rating_and_time(client: TestClient) -> None:
    good, bad, plain = (new_chat(client, title=name) for name in ("good", "bad", "plain"))
    for chat, value in ((good, 1), (bad, -1)):
        answer = chat.ask("hello")
        ok(client.put(f"/api/messages/{answer['id']}/feedback", json={"value": value}))
    plain.ask("hello")
    for rated in ("good", "bad"):
        items = ok(client.get("/api/conversations", params={"rated": rated}))["items"]
        assert [c["title"] for c in items] == [rated]
    assert ok(client.get("/api/conversations", params={"from": "2999-01-01T00:00:00Z"}))["items"] == []
    assert client.get("/api/conversations", params={"from": "2999-01-01T00:00:00"}).status_code == 422
    assert client.get("/api/conversations", params={"cursor": "nonsense"}).status_code == 422


def test_other_peoples_ids_answer_404(client: TestClient, become: Callable[[str], None]) -> None:
    mine = new_chat(client)
    answer = mine.say("secret words", None, {"compare": True})
    message, generation = answer["message"]["id"], answer["generations"][0]["id"]
    share = ok(client.post(f"/api/conversations/{mine.id}/share", json={}), 201)["id"]
    become("somebody else")
    c, m, g = f"/api/conversations/{mine.id}", f"/api/messages/{message}", f"/api/generations/{generation}"
    requests = [
        ("GET", c, None), ("PATCH", c, {"title": "x"}), ("DELETE", c, None), ("GET", f"{c}/messages", None),
        ("POST", f"{c}/messages", {"content": "x"}), ("POST", f"{c}/messages", {"content": "x", "generate": {}}),
        ("POST", f"{c}/fork", {}), ("POST", f"{c}/share", {}), ("GET", f"{c}/export", None),
        ("GET", m, None), ("POST", f"{m}/edit", {"content": "x"}), ("POST", f"{m}/generate", {}),
        ("POST", f"{answer['messages'][0]['id'] and '/api/messages/' + answer['messages'][0]['id']}/continue", None),
        ("POST", f"{m}/select", None), ("PUT", f"{m}/feedback", {"value": 1}), ("DELETE", f"{m}/feedback", None),
        ("GET", g, None), ("GET", f"{g}/events", None), ("POST", f"{g}/stop", None),
        ("POST", "/api/comparisons", {"comparison_id": answer["comparison"]["id"], "outcome": "tie"}),
        ("POST", "/api/tokenize", {"conversation_id": mine.id, "text": "x"}),
        ("DELETE", f"/api/shares/{share}", None),
    ]  # fmt: skip
    for method, path, body in requests:
        response = client.request(method, path, json=body)
        assert response.status_code == 404, (method, path, response.text)
        assert response.json()["code"] == "not_found"
    assert ok(client.get("/api/conversations"))["items"] == []
    assert ok(client.get("/api/search", params={"q": "secret"}))["items"] == []
    assert ok(client.post("/api/conversations/bulk", json={"ids": [mine.id], "action": "delete"})) == {"changed": 0}
    own = new_chat(client)
    for body in ({"content": "x", "parent_id": message}, {"content": "x", "parent_id": message, "generate": {}}):
        assert client.post(f"/api/conversations/{own.id}/messages", json=body).status_code == 404
    assert client.patch(f"/api/conversations/{own.id}", json={"active_leaf_id": message}).status_code == 404


def test_limits(chat: Chat) -> None:
    post = chat.client.post
    url = f"/api/conversations/{chat.id}/messages"
    assert post(url, json={"content": " \n"}).json()["code"] == "empty_message"
    assert post(url, json={"content": "\u5b57" * 90_000}).json()["code"] == "message_too_long"
    assert post(url, json={"content": "a\x00b"}).status_code == 422
    assert post(url, json={"content": "x", "id": "not-a-uuid"}).status_code == 422
    assert post(url, json={"content": "x", "more": 1}).status_code == 422
    assert post(url, json={"content": "x", "generate": {"n": 5}}).status_code == 422
    assert post(url, json={"content": "x", "generate": {"model": "nobody"}}).json()["code"] == "model_not_found"
    assert post(url, json={"content": "word " * 5000, "generate": {}}).json()["code"] == "context_length_exceeded"
    assert chat.get()["messages"] == [], "nothing was written by any of these"
    for params in ({"temperature": 3}, {"stop": ["x"] * 5}, {"stop": ["x" * 65]}, {"top_p": 0}, {"nonsense": 1}):
        assert chat.client.patch(f"/api/conversations/{chat.id}", json={"params": params}).status_code == 422
    assert chat.client.patch(f"/api/conversations/{chat.id}", json={"title": "x" * 201}).status_code == 422
    assert chat.client.get("/api/search", params={"q": "x" * 101}).status_code == 422


def test_answers_that_another_process_writes_count_too(chat: Chat, service: Service) -> None:
    """A person has six at once, over all web processes; those of a dead process don't count."""
    asked = chat.say("hello")["message"]["id"]

    def written_elsewhere() -> str:
        with writing(service.database) as connection:
            id, user = uuid7(), connection.execute(select(Conversation.user_id)).scalar()
            answer = messages.add(connection, chat.id, asked, "assistant", "", status="streaming", generation_id=id)
            row = {"id": id, "conversation_id": chat.id, "message_id": answer, "user_id": user, "state": "running"}
            ledger.begin(connection, [row])
            return id

    ids = [written_elsewhere() for _ in range(6)]
    refused = chat.client.post(f"/api/messages/{asked}/generate", json={})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_generations")
    with writing(service.database) as connection:
        connection.execute(update(Generation).where(Generation.id == ids[0]).values(heartbeat_at=now() - timedelta(1)))
    chat.generate(asked)


@pytest.mark.parametrize("text", ["\\ud800", "a\\u0000b", "\\udfff\\ud800"])
def test_characters_that_are_no_text_never_break_the_server(chat: Chat, text: str) -> None:
    headers = {"content-type": "application/json"}
    url = f"/api/conversations/{chat.id}"
    bodies = [
        ("PATCH", url, '{"title": "%s"}'), ("PATCH", url, '{"system_prompt": "%s"}'), ("PATCH", url, '{"model": "%s"}'),
        ("PATCH", url, '{"params": {"stop": ["%s"]}}'), ("POST", f"{url}/messages", '{"content": "%s"}'),
        ("POST", f"{url}/messages", '{"content": "x", "parent_id": "%s"}'), ("POST", "/api/tokenize", '{"text": "%s"}'),
        ("POST", "/api/conversations/bulk", '{"ids": ["%s"], "action": "trash"}'),
    ]  # fmt: skip
    for method, path, body in bodies:
        response = chat.client.request(method, path, content=(body % text).encode(), headers=headers)
        assert response.status_code < 500, (path, body, response.text)
    assert chat.client.get(url).status_code == 200


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00"])
def test_times_beyond_all_calendars(chat: Chat, moment: str) -> None:
    assert chat.client.get("/api/conversations", params={"from": moment}).status_code == 422
    cursor = base64.urlsafe_b64encode(json.dumps([moment, "x"]).encode()).decode()
    for path in ("/api/conversations", "/api/shares"):
        assert chat.client.get(path, params={"cursor": cursor}).status_code == 422


def test_the_meter_counts_the_whole_prompt_and_says_what_drops(chat: Chat) -> None:
    assert ok(chat.client.post("/api/tokenize", json={"text": "a b c"}))["tokens"] == 3
    parent, ids = None, []
    for index in range(6):
        answer = chat.say(f"{index} " + "word " * 500, parent)
        parent = answer["message"]["id"]
        ids.append(parent)
    counted = ok(chat.client.post("/api/tokenize", json={"conversation_id": chat.id, "text": "more " * 500}))
    assert counted["tokens"] > 3500 and counted["context_length"] == 4096 and counted["reserved"] == 1024
    assert counted["truncated"] and counted["dropped"] == ids[: len(counted["dropped"])] and counted["dropped"]
    chat.ask("more " * 500, parent)
    request = chat.client.app.state.service.engine.requests[-1]  # type: ignore[attr-defined]
    assert len(request.prompt_ids) + request.params.max_tokens <= 4096


def test_the_meter_of_a_full_chat_never_asks_below_an_answer(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = chat.client.app.state.service.engine  # type: ignore[attr-defined]
    encode = engine.encode_chat

    async def strict(model: str, turns: list[dict[str, str]], **options: Any) -> list[int]:
        assert turns[-1]["role"] == "user" and turns[0]["role"] != "assistant", "what chat templates refuse"
        return list(await encode(model, turns, **options))

    chat.ask("word " * 3900)
    monkeypatch.setattr(engine, "encode_chat", strict)
    counted = ok(chat.client.post("/api/tokenize", json={"conversation_id": chat.id}))
    assert counted["truncated"] and counted["dropped"]


def test_no_path_is_longer_than_five_hundred(chat: Chat, monkeypatch: object) -> None:
    from wuya.web.chat import messages

    monkeypatch.setattr(messages, "PATH_MESSAGES", 2)  # type: ignore[attr-defined]
    answer = chat.ask("hello")
    full = chat.client.post(f"/api/conversations/{chat.id}/messages", json={"content": "x", "parent_id": answer["id"]})
    assert full.status_code == 422 and full.json()["code"] == "conversation_full"
