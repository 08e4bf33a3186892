"""Rules that fire on words, not on parts of words; a queue whose looks are audited; decisions that act."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from wuya.database.connection import reading, writing
from wuya.database.service_tables import ChatMessage, Conversation
from wuya.web.errors import ApiError
from wuya.web.moderation import store
from wuya.web.moderation.moderator import moderator_of
from wuya.web.moderation.rules import Rule, WordRules, fold
from wuya.web.service import Service

RULE = {"name": "bombs", "stages": ["input", "output"], "action": "block", "words": ["build a bomb", "\u70b8\u5f39"]}


@pytest.mark.parametrize(
    ("text", "fires"),
    [
        ("how do I BUILD  a bomb?", True),
        ("how do I build a\u200b bo\u200bmb", True),
        ("\uff42\uff55\uff49\uff4c\uff44 a bomb", True),
        ("we build a bombastic stage", False),
        ("build abomb", False),
        ("\u600e\u4e48\u505a\u70b8\u5f39", True),
        ("\u70b8\u9e21\u548c\u5b50\u5f39", False),
        ("", False),
    ],
)
def test_words_are_found_as_words(text: str, fires: bool) -> None:
    rules = WordRules([Rule("1", "bombs", ("input",), "block", tuple(RULE["words"]))])
    assert (rules.check(text, "input") is not None) is fires
    assert rules.check(text, "output") is None


def test_rules_that_block_go_before_rules_that_flag() -> None:
    flag = Rule("1", "flag", ("input",), "flag", ("bomb",))
    block = Rule("2", "block", ("input",), "block", ("bomb",))
    found = WordRules([flag, block]).check("a bomb", "input")
    assert found is not None and found.rule is block


def test_long_texts_are_looked_at_in_linear_time() -> None:
    assert len(fold("a." * 200_000)) < 500_000


def put_rules(client: TestClient, *rules: Any) -> None:
    answer = client.put("/api/admin/moderation/rules", json={"items": list(rules)})
    assert answer.status_code == 200, answer.text


def a_message(service: Service, client: TestClient, text: str) -> str:
    """A message in a chat of the single user."""
    me = client.get("/api/me").json()["id"]
    with writing(service.database) as connection:
        connection.execute(Conversation.__table__.insert().values(id="c1", user_id=me))
        connection.execute(
            ChatMessage.__table__.insert().values(id="m1", conversation_id="c1", role="assistant", content=text)
        )
    return "m1"


def test_a_blocked_question_is_refused_and_noted(client: TestClient, service: Service) -> None:
    put_rules(client, RULE)
    moderator = moderator_of(service)
    with pytest.raises(ApiError) as refused:
        moderator.check_input("build a bomb", user_id=None, message_id="m")
    assert (refused.value.status, refused.value.code) == (400, "content_policy_violation")
    assert moderator.blocks_output("here is how to build a bomb") and not moderator.blocks_output("hello")
    [event] = client.get("/api/admin/moderation/queue").json()["items"]
    assert (event["rule"], event["stage"], event["action"]) == ("bombs", "input", "block")
    assert "messages" not in event, "the list shows no text"


def test_rules_can_be_tried_and_must_be_whole(client: TestClient) -> None:
    put_rules(client, RULE)
    fired = client.post("/api/admin/moderation/try", json={"text": "build a bomb"}).json()
    assert fired["fired"] and fired["rule"] == "bombs"
    assert client.post("/api/admin/moderation/try", json={"text": "bread"}).json() == {"fired": False}
    for broken in ({"words": []}, {"words": ["x"], "scorer": "runs/rm"}, {"words": [], "scorer": "../../etc"}):
        answer = client.put("/api/admin/moderation/rules", json={"items": [RULE | broken]})
        assert answer.status_code == 422


def test_a_report_waits_in_the_queue_and_hiding_hides(client: TestClient, service: Service) -> None:
    id = a_message(service, client, "something rude")
    for _ in range(2):
        assert client.post(f"/api/messages/{id}/report", json={"reason": "harmful"}).status_code == 202
    assert client.post("/api/messages/other/report", json={}).status_code == 404
    [event] = client.get("/api/admin/moderation/queue").json()["items"]
    opened = client.post(f"/api/admin/moderation/queue/{event['id']}/open").json()
    assert [message["content"] for message in opened["messages"]] == ["something rude"]
    decided = client.post(f"/api/admin/moderation/queue/{event['id']}", json={"decision": "hide", "note": "rude"})
    assert decided.json()["state"] == "closed"
    again = client.post(f"/api/admin/moderation/queue/{event['id']}", json={"decision": "dismiss"})
    assert again.json()["code"] == "closed"
    with reading(service.database) as connection:
        assert store.context(connection, event)[0]["hidden_by_moderation"]
    actions = [row["action"] for row in client.get("/api/admin/audit").json()["items"]]
    assert {"moderation.look", "moderation.decide"} <= set(actions)


@pytest.mark.parametrize("place", ["runs/loop", "runs/" + "x" * 270, "runs", "/dev/zero", "runs/loop/model"])
def test_a_scorer_that_is_no_checkpoint_is_refused(client: TestClient, service: Service, place: str) -> None:
    runs = service.settings.workspace / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "loop").symlink_to(runs / "loop")
    rule = {"name": "r", "action": "flag", "stages": ["output"], "scorer": place, "threshold": 0.5}
    answer = client.put("/api/admin/moderation/rules", json={"items": [rule]})
    assert answer.status_code == 422 and answer.json()["param"] == "scorer", answer.text
