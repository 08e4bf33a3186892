"""Keys and usage: made, shown once, limited, rotated, revoked; one's own only, unless an admin asks."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import openai
import pytest
from sqlalchemy import insert, select

from tests.web.api.conftest import Api, Raw
from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import User, now, uuid7
from wuya.database.service_tables import ApiKey, AuditRow
from wuya.web import usage
from wuya.web.accounts.store import start_session
from wuya.web.api import store
from wuya.web.api.key_text import looks_like_ours, new_key, sha256_of
from wuya.web.operations.logs import redact
from wuya.web.operations.metrics import metrics_of

CHAT: Any = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


class Browser:
    """Somebody signed in."""

    def __init__(self, api: Api, role: str, user_id: str = "") -> None:
        self.api, self.user_id = api, user_id or uuid7()
        with writing(api.service.database) as connection:
            if not user_id:
                name = f"{role}-{self.user_id[-6:]}"
                connection.execute(insert(User).values(id=self.user_id, display_name=name, role=role))
            self.cookie = "wuya_session=" + start_session(connection, self.user_id, ip_prefix="", ua="")

    def __call__(self, method: str, path: str, body: Any = None) -> Raw:
        return self.api.send(path, body, method=method, headers={"cookie": self.cookie})


@pytest.fixture
def ann(keyed: Api) -> Browser:
    return Browser(keyed, "user")


@pytest.fixture
def admin(keyed: Api) -> Iterator[Browser]:
    found = Browser(keyed, "admin")
    yield found
    store.set_default_limits(keyed.service.database, {})


def test_a_key_from_birth_to_death(keyed: Api, ann: Browser) -> None:
    made = ann("POST", "/api/keys", {"name": "notebook", "rpm": 60, "monthly_tokens": 1000})
    assert made.status == 201
    key, secret = made.json()["key"], made.json()["secret"]
    assert looks_like_ours(secret) and secret.startswith(key["prefix"])
    assert keyed.client(secret).chat.completions.create(**CHAT, max_tokens=20).choices
    keyed.settle()
    [listed] = ann("GET", "/api/keys").json()["items"]
    assert (listed["name"], listed["used_tokens"], bool(listed["last_used_at"])) == ("notebook", 19, True)
    assert secret not in ann("GET", "/api/keys").text, "shown once"

    changed = ann("PATCH", f"/api/keys/{key['id']}", {"name": "paper", "scopes": ["embeddings"]}).json()["key"]
    assert (changed["name"], changed["rpm"]) == ("paper", None)
    with pytest.raises(openai.PermissionDeniedError):
        keyed.client(secret).chat.completions.create(**CHAT)

    rotated = ann("POST", f"/api/keys/{key['id']}/rotate").json()
    assert rotated["secret"] != secret and rotated["key"]["used_tokens"] == 19
    with pytest.raises(openai.AuthenticationError):
        keyed.client(secret).embeddings.create(model="fake", input="x")
    assert keyed.client(rotated["secret"]).embeddings.create(model="fake", input="x").data

    assert ann("DELETE", f"/api/keys/{key['id']}").status == 204
    assert ann("DELETE", f"/api/keys/{key['id']}").status == 404
    assert ann("GET", "/api/keys").json()["items"] == []
    with pytest.raises(openai.AuthenticationError):
        keyed.client(rotated["secret"]).embeddings.create(model="fake", input="x")


def test_only_a_hash_is_kept_and_the_audit_log_has_no_secret(keyed: Api, ann: Browser) -> None:
    made = ann("POST", "/api/keys", {"name": "k"}).json()
    with reading(keyed.service.database) as connection:
        row = connection.execute(select(ApiKey.__table__).where(ApiKey.id == made["key"]["id"])).mappings().one()
        notes = connection.execute(select(AuditRow.__table__).where(AuditRow.object_id == row["id"])).mappings().all()
    assert row["secret_sha256"] == sha256_of(made["secret"])
    assert made["secret"][12:] not in json.dumps(dict(row) | {"a": [dict(n) for n in notes]}, default=str)
    assert [note["action"] for note in notes] == ["key.create"]


def test_other_peoples_keys_are_not_there(keyed: Api, ann: Browser, admin: Browser) -> None:
    key = ann("POST", "/api/keys", {"name": "k"}).json()["key"]
    eve = Browser(keyed, "user")
    assert eve("GET", "/api/keys").json()["items"] == []
    assert eve("PATCH", f"/api/keys/{key['id']}", {"name": "mine"}).status == 404
    assert eve("POST", f"/api/keys/{key['id']}/rotate").status == 404
    assert eve("DELETE", f"/api/keys/{key['id']}").status == 404
    assert eve("GET", "/api/keys?everyone=true").status == 403
    assert eve("GET", "/api/usage?everyone=true").status == 403
    assert eve("PUT", "/api/keys/limits", {}).status == 403
    assert key["id"] in [item["id"] for item in admin("GET", "/api/keys?everyone=true").json()["items"]]
    assert admin("POST", f"/api/keys/{key['id']}/rotate").status == 404, "an admin may end a key, never read one"
    assert admin("DELETE", f"/api/keys/{key['id']}").status == 204


def test_nobody_without_a_session_or_with_a_key(keyed: Api) -> None:
    assert keyed.send("/api/keys").status == 401
    bearer = keyed.send("/api/keys", headers={"authorization": f"Bearer {keyed.key()}"})
    assert bearer.status == 403, "a key makes no keys"


def test_limits_for_all(keyed: Api, ann: Browser, admin: Browser) -> None:
    assert admin("PUT", "/api/keys/limits", {"rpm": 100, "monthly_tokens": 5000}).status == 200
    made = ann("POST", "/api/keys", {"name": "k", "rpm": 10}).json()["key"]
    assert (made["rpm"], made["tpm"], made["monthly_tokens"]) == (10, None, 5000)
    refused = ann("POST", "/api/keys", {"name": "k", "rpm": 101})
    assert (refused.status, refused.json()["param"]) == (422, "rpm")
    assert admin("POST", "/api/keys", {"name": "k", "rpm": 1000}).json()["key"]["monthly_tokens"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "k", "scopes": []},
        {"name": "k", "scopes": ["everything"]},
        {"name": "k", "scopes": ["runs:write"]},
        {"name": "k", "rpm": 0},
        {"name": "k", "monthly_tokens": 1 << 31},
        {"name": "k", "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "k", "expires_at": "2030-01-01T00:00:00"},
        {"name": "k", "secret": "sk-mine"},
    ],
)
def test_what_a_key_can_not_be(ann: Browser, body: dict[str, Any]) -> None:
    refused = ann("POST", "/api/keys", body)
    assert refused.status == 422 and refused.json()["code"] == "invalid_value"


def test_a_person_has_so_many_keys(ann: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wuya.web.api.manage.MAX_KEYS", 1)
    assert ann("POST", "/api/keys", {"name": "a"}).status == 201
    assert ann("POST", "/api/keys", {"name": "b"}).json()["code"] == "too_many_keys"


def test_usage_by_day_key_and_model(keyed: Api, ann: Browser) -> None:
    made = ann("POST", "/api/keys", {"name": "k"}).json()
    client = keyed.client(made["secret"])
    client.chat.completions.create(**CHAT)
    client.embeddings.create(model="fake", input=["one", "two words"])
    keyed.settle()
    old = now().date() - timedelta(days=40)
    counts: Any = {"user_id": ann.user_id, "key_id": None, "model": "fake", "prompt_tokens": 5}
    for _ in range(2):
        usage.add_usage(keyed.service.database, day=old, completion_tokens=1, **counts)
    [today] = ann("GET", "/api/usage").json()["items"]
    assert (today["key_name"], today["model"], today["requests"]) == ("k", "fake", 2)
    assert (today["prompt_tokens"], today["completion_tokens"]) == (10, 12)
    [_, before] = ann("GET", "/api/usage?days=41").json()["items"]
    assert (before["day"], before["requests"], before["prompt_tokens"]) == (old.isoformat(), 2, 10)
    assert ann("GET", "/api/usage?days=0").status == 422


def test_a_laptop_counts_without_keys_and_honours_those_it_has(api: Api) -> None:
    api.client("whatever").chat.completions.create(**CHAT)
    key = api.key(monthly_tokens=1)
    with pytest.raises(openai.RateLimitError):
        api.client(key).chat.completions.create(**CHAT)
    api.settle()
    rows = api.send("/api/usage").json()["items"]
    assert any(row["key_id"] == "" and row["requests"] for row in rows)
    [own] = [item for item in api.send("/api/keys").json()["items"] if item["monthly_tokens"] == 1]
    assert api.send(f"/api/keys/{own['id']}", method="DELETE").status == 204
    with pytest.raises(openai.AuthenticationError):
        api.client(key).chat.completions.create(**CHAT)


def test_metrics_name_models_and_no_keys(keyed: Api) -> None:
    key = keyed.key(rpm=1)
    keyed.client(key).chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError):
        keyed.client(key).chat.completions.create(**CHAT)
    text = metrics_of(keyed.service).text().decode()
    assert 'wuya_tokens_total{kind="completion",model="fake"}' in text
    assert "wuya_rate_limited_total" in text and "wuya_time_to_first_token_seconds_count" in text
    assert key[:11] not in text


def test_the_logs_filter_cuts_our_keys() -> None:
    key, _ = new_key()
    assert key[15:] not in redact(f"Authorization: Bearer {key}, again {key}.")
