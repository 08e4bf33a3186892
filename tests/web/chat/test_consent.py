"""Nothing of a chat reaches training without its owner's consent, and all of it leaves when they withdraw."""

import itertools
import json
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from tests.web.chat.conftest import Chat, new_chat, ok
from wuya.database.connection import reading, writing
from wuya.database.service_tables import ChatMessage
from wuya.feedback import exports
from wuya.feedback.reading import Selection
from wuya.feedback.snapshot import KINDS
from wuya.inference.backends.fake import FakeEngine
from wuya.web import consent
from wuya.web.accounts.auth import Viewer
from wuya.web.accounts.store import anonymise
from wuya.web.service import Service

SECRET = "zebra"
_count = itertools.count()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(script=lambda request, index: f"{SECRET} answer {next(_count)}", models=("one", "two"))


def exported(service: Service) -> str:
    """Everything that any kind of export holds, and every table that training reads."""
    texts = []
    with reading(service.database) as connection:
        for kind in KINDS:
            rows = exports.content(connection, kind, Selection(), better_answers=True) if kind == "sft" \
                else exports.content(connection, kind, Selection())  # fmt: skip
            texts += [json.dumps(row) for row in rows]
        for table in ("prompts", "comparisons", "message_feedback", "demonstrations"):
            texts += [str(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}").all()]
    return "\n".join(texts)


def use_everything(chat: Chat) -> dict[str, Any]:
    """Say, regenerate, rate, correct, compare, go on: all that could become training data."""
    client = chat.client
    first = chat.ask(f"{SECRET} question")
    second = chat.generate(first["id"])["messages"][0]
    ok(client.put(f"/api/messages/{first['id']}/feedback",
                  json={"value": -1, "reasons": ["style"], "comment": f"{SECRET} comment",
                        "better_answer": f"{SECRET} better"}))  # fmt: skip
    ok(client.put(f"/api/messages/{second['id']}/feedback", json={"value": 1}))
    third = chat.ask(f"{SECRET} follow-up", second["id"])
    assert [m["status"] for m in (first, second, third)] == ["complete"] * 3, "else there is nothing to compare"
    ok(client.post(f"/api/messages/{third['id']}/edit", json={"content": f"{SECRET} corrected"}), 201)
    pair = chat.say(f"{SECRET} compare", third["id"], {"models": ["one", "two"]})
    ok(
        client.post(
            "/api/comparisons", json={"comparison_id": pair["comparison"]["id"], "outcome": "right", "strength": 2}
        )
    )
    return {"first": first, "second": second, "third": third, "pair": pair}


def test_without_consent_nothing_leaves_the_chat(client: TestClient, service: Service) -> None:
    chat = new_chat(client)
    assert chat.get()["data_use"] is False, "off by default"
    use_everything(chat)
    assert SECRET not in exported(service)


def test_with_consent_everything_is_given_and_withdrawing_takes_it_back(client: TestClient, service: Service) -> None:
    chat = new_chat(client)
    said = use_everything(chat)
    chat.patch(data_use=True)
    with reading(service.database) as connection:
        pairs = list(exports.content(connection, "rm_pairs", Selection()))
        feedback = list(exports.content(connection, "feedback", Selection()))
        assert list(exports.content(connection, "prompts", Selection())) == [], "a lead approves prompts first"
    by_source = {row["comparison_source"]: row for row in pairs}
    assert set(by_source) == {"compare", "regenerate", "edit", "better_answer", "thumbs"}
    left, right = said["pair"]["comparison"]["left"], said["pair"]["comparison"]["right"]
    texts = {m["id"]: m["content"] for m in said["pair"]["messages"]}
    assert (by_source["compare"]["chosen"], by_source["compare"]["rejected"]) == (texts[right], texts[left])
    assert by_source["regenerate"]["chosen"] == said["second"]["content"]
    assert by_source["edit"]["chosen"] == f"{SECRET} corrected"
    assert by_source["edit"]["rejected"] == said["third"]["content"]
    assert by_source["better_answer"]["chosen"] == f"{SECRET} better"
    assert by_source["thumbs"]["chosen"] == said["second"]["content"]
    assert by_source["compare"]["prompt"][0]["content"] == f"{SECRET} question", "with the turns before it"
    assert {row["value"] for row in feedback} == {-1, 1}
    chat.patch(data_use=False)
    assert SECRET not in exported(service)


def test_new_acts_in_a_consenting_chat_are_given_at_once(client: TestClient, service: Service) -> None:
    chat = new_chat(client, data_use=True)
    use_everything(chat)
    with reading(service.database) as connection:
        sources = sorted(row["comparison_source"] for row in exports.content(connection, "rm_pairs", Selection()))
    assert sources == ["better_answer", "compare", "edit", "regenerate", "thumbs"]


def test_taking_a_thumb_back_takes_it_out(client: TestClient, service: Service) -> None:
    chat = new_chat(client, data_use=True)
    answer = chat.ask("hello")
    ok(client.put(f"/api/messages/{answer['id']}/feedback", json={"value": 1}))
    assert SECRET in exported(service)
    assert client.delete(f"/api/messages/{answer['id']}/feedback").status_code == 204
    assert SECRET not in exported(service)


def test_deleting_for_good_takes_everything_out(client: TestClient, service: Service) -> None:
    chat, other = new_chat(client, data_use=True), new_chat(client, data_use=True)
    use_everything(chat)
    use_everything(other)
    for one in (chat, other):
        assert SECRET in exported(service)
        assert client.delete(f"/api/conversations/{one.id}?permanent=true").status_code == 204
    assert SECRET not in exported(service)


def test_withdrawing_everywhere_at_once(client: TestClient, service: Service) -> None:
    for _ in range(2):
        use_everything(new_chat(client, data_use=True))
    assert ok(client.put("/api/conversations/data_use", json={"data_use": False})) == {"changed": 2}
    assert SECRET not in exported(service)


def test_an_imported_chat_brings_no_consent(client: TestClient, service: Service) -> None:
    chat = new_chat(client, data_use=True)
    use_everything(chat)
    file = client.get(f"/api/conversations/{chat.id}/export").content
    assert client.delete(f"/api/conversations/{chat.id}?permanent=true").status_code == 204
    file = file.replace(b'"conversations"', b'"data_use": true, "conversations"').replace(
        b'"archived"', b'"data_use": true, "archived"'
    )
    [new] = ok(client.post("/api/import", content=file, headers={"content-type": "application/json"}), 201)[
        "conversations"
    ]
    assert ok(client.get(f"/api/conversations/{new['id']}"))["data_use"] is False
    assert SECRET not in exported(service)


def test_a_snapshot_holds_no_name_of_the_person(client: TestClient, service: Service) -> None:
    use_everything(new_chat(client, data_use=True))
    user = ok(client.get("/api/me")) if client.get("/api/me").status_code == 200 else {"id": "me"}
    texts = exported(service)
    assert str(user.get("id", "me")) not in texts
    for kind in KINDS:
        with reading(service.database) as connection:
            for row in exports.content(connection, kind, Selection()):
                assert row.get("labeler", "") == ""


def test_hidden_and_unfinished_answers_are_not_given(client: TestClient, service: Service) -> None:
    chat = new_chat(client, data_use=True)
    answer = chat.ask("hello")
    ok(client.put(f"/api/messages/{answer['id']}/feedback", json={"value": 1}))
    with writing(service.database) as connection:
        connection.execute(update(ChatMessage).where(ChatMessage.id == answer["id"]).values(hidden_by_moderation=True))
        consent.publish(connection, chat.id, secret=service.settings.secret)
    assert SECRET not in exported(service)
    assert ok(client.get(f"/api/messages/{answer['id']}"))["content"] == ""


def test_a_vote_is_blind_until_it_is_cast(client: TestClient) -> None:
    chat = new_chat(client)
    answer = chat.say("hello", None, {"models": ["one", "two"]})
    comparison = answer["comparison"]
    assert comparison["models"] is None and comparison["outcome"] is None
    assert {m["model"] for m in answer["messages"]} == {None}
    assert {comparison["left"], comparison["right"]} == {m["id"] for m in answer["messages"]}
    body = {"comparison_id": comparison["id"], "outcome": "left", "strength": 1, "reasons": ["clear"]}
    voted = ok(client.post("/api/comparisons", json=body))
    assert voted["outcome"] == "left" and set(voted["models"].values()) == {"one", "two"}
    assert ok(client.get(f"/api/messages/{comparison['left']}"))["model"] == voted["models"]["left"]
    assert chat.get()["active_leaf_id"] == comparison["left"]
    again = ok(client.post("/api/comparisons", json=body | {"outcome": "right"}))
    assert again["outcome"] == "right" and chat.get()["active_leaf_id"] == comparison["right"]


def test_no_vote_while_an_answer_is_being_written(client: TestClient, engine: FakeEngine) -> None:
    engine.prefill_seconds = 30
    chat = new_chat(client)
    body = {"content": "hello", "generate": {"compare": True}}
    answer = ok(client.post(f"/api/conversations/{chat.id}/messages", json=body), 201)
    vote = {"comparison_id": answer["comparison"]["id"], "outcome": "tie"}
    early = client.post("/api/comparisons", json=vote)
    assert early.status_code == 409 and early.json()["code"] == "still_streaming"
    for generation in answer["generations"]:
        assert client.post(f"/api/generations/{generation['id']}/stop").status_code == 202
    chat.settle(answer)
    assert ok(client.post("/api/comparisons", json=vote))["outcome"] == "tie"


def test_sides_are_drawn_by_chance(client: TestClient) -> None:
    chat = new_chat(client)
    first = chat.say("hello", None, {"compare": True})
    lefts = {first["comparison"]["left"] == first["messages"][0]["id"]}
    for _ in range(20):
        answer = chat.generate(first["message"]["id"], compare=True)
        lefts.add(answer["comparison"]["left"] == answer["messages"][0]["id"])
        if len(lefts) == 2:
            return
    pytest.fail("the first model was always on the same side")


def test_what_cannot_be_rated(client: TestClient) -> None:
    chat = new_chat(client)
    answer = chat.say("hello", None, {})
    question, reply = answer["message"]["id"], answer["messages"][0]["id"]
    assert client.put(f"/api/messages/{question}/feedback", json={"value": 1}).status_code == 422
    for body in ({"value": 0}, {"value": 1, "reasons": ["Bad Tag!"]}, {"value": 1, "comment": "x" * 4001}, {}):
        assert client.put(f"/api/messages/{reply}/feedback", json=body).status_code == 422
    given = {"value": -1, "reasons": ["too_long"], "comment": "c", "better_answer": "b"}
    assert ok(client.put(f"/api/messages/{reply}/feedback", json=given)) == given
    assert chat.get()["messages"][1]["feedback"] == given


def rules(client: TestClient, **rule: Any) -> None:
    body = {
        "items": [{"name": "no zebras", "stages": ["input", "output"], "action": "block", "words": ["zebra"]} | rule]
    }
    ok(client.put("/api/admin/moderation/rules", json=body))


def test_what_a_moderator_hides_leaves_training(client: TestClient, service: Service) -> None:
    chat = new_chat(client, data_use=True)
    answer = chat.ask("hello")
    ok(client.put(f"/api/messages/{answer['id']}/feedback", json={"value": 1}))
    assert SECRET in exported(service)
    ok(client.post(f"/api/messages/{answer['id']}/report", json={}), 202)
    [event] = ok(client.get("/api/admin/moderation/queue"))["items"]
    ok(client.post(f"/api/admin/moderation/queue/{event['id']}", json={"decision": "hide"}))
    assert SECRET not in exported(service)
    assert ok(client.get(f"/api/messages/{answer['id']}"))["hidden"]


def test_a_blocked_question_is_not_written(client: TestClient) -> None:
    rules(client, stages=["input"])
    chat = new_chat(client)
    answer = chat.ask("a horse")
    for path in (f"/api/conversations/{chat.id}/messages", f"/api/messages/{answer['parent_id']}/edit"):
        refused = client.post(path, json={"content": "a Zebra!", "generate": {}})
        assert refused.status_code == 400 and refused.json()["code"] == "content_policy_violation"
    assert [m["content"] for m in chat.get()["messages"]] == ["a horse", answer["content"]]


def test_an_answer_ends_before_a_blocked_word(client: TestClient, engine: FakeEngine) -> None:
    engine.script, engine.tokens_per_second = "It is a ZEBRA , not a horse. " + "More words. " * 50, 50
    rules(client, stages=["output"])
    answer = new_chat(client).ask("what is it?")
    assert (
        answer["content"].startswith("It is") and "ZEBRA" not in answer["content"] and "More" not in answer["content"]
    )
    assert (answer["status"], answer["finish_reason"], answer["hidden"]) == ("complete", "content_filter", False)
    assert engine.slots_used == 0
    [event] = ok(client.get("/api/admin/moderation/queue"))["items"]
    assert event["stage"] == "output" and event["subject_id"] == answer["id"]


def test_deleting_ones_account_takes_everything_out(client: TestClient, service: Service) -> None:
    use_everything(new_chat(client, data_use=True))
    assert SECRET in exported(service)
    with writing(service.database) as connection:
        anonymise(connection, service.get(Viewer).user_id)
    assert SECRET not in exported(service)
