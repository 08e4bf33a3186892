"""Every row of the error table: the client's exception, its code, how often the client tried, and the shape."""

import asyncio
import http.client
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import openai
import pytest
from sqlalchemy import update

from tests.web.api.conftest import Api
from wuya.database.connection import writing
from wuya.database.labeling_tables import User, now
from wuya.inference.backends.protocol import EngineLost, GenerationRequest, Overloaded
from wuya.web.api import bodies, store
from wuya.web.api.key_text import sha256_of

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
CHAT = {"model": "fake", "messages": HELLO}


def chat(api: Api, key: str = "none", **more: Any) -> Any:
    options = {name: more.pop(name) for name in ("max_retries",) if name in more}
    return api.client(key, **options).chat.completions.create(**{**CHAT, **more})


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"n": "two"}, "n", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content", "unsupported_parameter"),
        ({"max_tokens": 4096}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "messages", "context_length_exceeded"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(api: Api, more: dict[str, Any], param: str, code: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(api, **more, stream=stream)
    assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")
    assert api.engine.requests == []


def test_bodies_that_cannot_be_read(api: Api) -> None:
    for body in (b"{", b"[]", b"null", b"", b'{"model": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000):
        raw = api.send("/v1/chat/completions", body)
        assert raw.status == 400, (body[:20], raw)
        assert raw.json()["error"]["code"] == "invalid_value"
    plain = api.send("/v1/chat/completions", b"{}", headers={"content-type": "text/plain"})
    assert (plain.status, plain.json()["error"]["code"]) == (400, "invalid_value")


def test_unknown_model_path_and_method(api: Api) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        chat(api, model="gpt-4o")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as missing:
        api.client().post("/images/generations", cast_to=object, body={})
    assert missing.value.code == "model_not_found"
    raw = api.send("/v1/chat/completions", method="GET")
    assert (raw.status, raw.json()["error"]["code"]) == (405, "method_not_allowed")


def test_too_large(api: Api) -> None:
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            chat(api, messages=[{"role": "user", "content": "x" * 1_100_000}], stream=stream)
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    connection = http.client.HTTPConnection(api.url.removeprefix("http://"))
    connection.request(  # without a content-length
        "POST", "/v1/chat/completions", iter([b" " * 65536] * 20), {"content-type": "application/json"}
    )
    answer = connection.getresponse()
    assert answer.status == 413 and b"request_too_large" in answer.read()
    connection.close()


def test_without_a_good_key(keyed: Api) -> None:
    good = keyed.key()
    for key in ("none", "sk-" + "a" * 8 + "-" + "b" * 43, good[:-1] + ("a" if good[-1] != "a" else "b"), good + "x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            chat(keyed, key)
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")
    bare = keyed.send("/v1/chat/completions", CHAT)
    assert (bare.status, bare.json()["error"]["code"]) == (401, "invalid_api_key")
    assert keyed.send("/v1/models").status == 401
    assert chat(keyed, good).choices


def test_expired_revoked_and_suspended(keyed: Api) -> None:
    expired = keyed.key(expires_at=now() - timedelta(seconds=1))
    revoked = keyed.key()
    record = store.find_key(keyed.service.database, sha256_of(revoked))
    assert record is not None and store.revoke_key(keyed.service.database, record.id, keyed.user_id)
    for key in (expired, revoked):
        with pytest.raises(openai.AuthenticationError):
            chat(keyed, key)
    key = keyed.key()
    try:
        with writing(keyed.service.database) as connection:
            connection.execute(update(User).where(User.id == keyed.user_id).values(status="suspended"))
        with pytest.raises(openai.AuthenticationError):
            chat(keyed, key)
    finally:
        with writing(keyed.service.database) as connection:
            connection.execute(update(User).where(User.id == keyed.user_id).values(status="active"))


def test_scope_or_model_denied(keyed: Api) -> None:
    with pytest.raises(openai.PermissionDeniedError) as scope:
        chat(keyed, keyed.key(scopes=("embeddings",)))
    with pytest.raises(openai.PermissionDeniedError) as model:
        chat(keyed, keyed.key(models=("other",)))
    for caught in (scope, model):
        assert (caught.value.code, caught.value.type) == ("model_not_allowed", "permission_error")
    assert keyed.client(keyed.key(models=("other",))).models.list().data == []


def attempts(client: openai.OpenAI) -> list[str]:
    """Notes every try of a client; it then sleeps no longer than a moment between them."""
    tries: list[str] = []
    client._client.event_hooks["request"].append(lambda request: tries.append(str(request.url)))
    client._sleep_for_retry = lambda **options: None  # type: ignore[method-assign]
    return tries


def test_rate_limits_are_tried_again_and_say_when(keyed: Api) -> None:
    client = keyed.client(keyed.key(rpm=1), max_retries=2)
    first = client.chat.completions.with_raw_response.create(**CHAT)  # type: ignore[call-overload]
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    tries = attempts(client)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
    assert (caught.value.code, caught.value.type, len(tries)) == ("rate_limit_exceeded", "rate_limit_error", 3)
    headers = caught.value.response.headers
    assert 55 <= int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-remaining-requests"] == "0" and headers["x-ratelimit-reset-requests"]


def test_tokens_a_minute_count_what_was_written(keyed: Api) -> None:
    keyed.engine.num_words = 60
    key = keyed.key(tpm=50)
    assert chat(keyed, key).usage.completion_tokens == 60
    with pytest.raises(openai.RateLimitError) as caught:
        chat(keyed, key)
    assert "tokens a minute" in caught.value.message


def test_a_spent_budget_is_not_tried_again(keyed: Api) -> None:
    key = keyed.key(monthly_tokens=40)
    client = keyed.client(key, max_retries=2)
    tries = attempts(client)
    body: dict[str, Any] = {**CHAT, "max_tokens": 10}
    for _ in range(2):
        assert client.chat.completions.create(**body).usage.total_tokens == 17
        keyed.settle()
    tries.clear()
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**body)
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
    assert len(tries) == 1
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_requests_at_the_same_time_cannot_overdraw_a_budget(keyed: Api) -> None:
    keyed.engine.tokens_per_second, keyed.engine.num_words = 200, 20
    key = keyed.key(monthly_tokens=40)
    stream = chat(keyed, key, max_tokens=20, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError):
        chat(keyed, key, max_tokens=20)
    stream.close()
    keyed.wait(lambda: keyed.engine.slots_used == 0)
    keyed.settle()
    assert chat(keyed, key, max_tokens=5).choices, "what was reserved and not used comes back"


def test_a_full_queue(api: Api) -> None:
    api.engine.tokens_per_second, api.engine.num_words = 20, 1000
    holder = chat(api, n=8, stream=True)
    next(iter(holder))
    api.engine.queue_limit = 0
    for stream in (False, True):
        client = api.client(max_retries=2)
        tries = attempts(client)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**CHAT, stream=stream)  # type: ignore[call-overload]
        assert (caught.value.status_code, caught.value.code, caught.value.type) == (503, "overloaded", "server_error")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert len(tries) == 3
    holder.close()
    api.wait(lambda: api.engine.slots_used == 0)


def test_a_later_prompt_that_is_refused_frees_the_first(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = api.engine.submit

    def twice(request: GenerationRequest) -> Any:
        if len(api.engine.requests) == 2:
            raise Overloaded
        return submit(request)

    monkeypatch.setattr(api.engine, "submit", twice)
    with pytest.raises(openai.InternalServerError):
        api.client().completions.create(model="fake", prompt=["a", "b", "c"])
    assert len(api.engine.requests) == 2
    api.wait(lambda: not api.engine._running)
    api.wait(lambda: api.engine.slots_used == 0)


def test_an_engine_that_is_down(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*args: Any, **more: Any) -> Any:
        raise EngineLost("the engine is not there")

    monkeypatch.setattr(api.engine, "encode_chat", lost)
    with pytest.raises(openai.InternalServerError) as caught:
        chat(api)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")


def test_a_failure_before_the_first_byte_is_a_status(api: Api) -> None:
    api.engine.fail_after = 3
    with pytest.raises(openai.InternalServerError) as caught:
        chat(api)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")


def test_a_failure_in_the_middle_of_a_stream(api: Api) -> None:
    api.engine.fail_after = 3
    text = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in chat(api, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert len(text.split()) == 3, "what came before the failure is kept"
    assert (caught.value.code, type(caught.value)) == ("engine_lost", openai.APIError)
    raw = api.send("/v1/chat/completions", {**CHAT, "stream": True})
    assert raw.status == 200
    bodies.ErrorBody.model_validate(raw.events()[-1])
    completion = api.send("/v1/completions", {"model": "fake", "prompt": "x", "stream": True})
    bodies.ErrorBody.model_validate(completion.events()[-1])


def test_a_bug_is_an_internal_error_without_a_traceback(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: Any, **more: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(api.engine, "encode_chat", broken)
    raw = api.send("/v1/chat/completions", CHAT)
    assert (raw.status, raw.json()["error"]["code"]) == (500, "internal_error")
    assert raw.headers["x-request-id"] in raw.json()["error"]["message"]
    assert "secret" not in raw.text and "Traceback" not in raw.text


def test_a_bug_in_the_middle_of_a_stream_is_said_too(api: Api) -> None:
    def script(request: Any, index: int) -> str:
        raise ZeroDivisionError("secret detail")

    api.engine.script = script
    events = api.send("/v1/chat/completions", {**CHAT, "stream": True})
    assert events.events()[-1]["error"]["code"] == "internal_error"
    assert "secret" not in events.text
    with pytest.raises(openai.InternalServerError):
        chat(api)
    api.wait(lambda: api.engine.slots_used == 0)


REFUSED: list[Callable[[Api], Any]] = [
    lambda api: api.send("/v1/nothing"),
    lambda api: api.send("/v1"),
    lambda api: api.send("/v1/chat/completions", b"{"),
    lambda api: api.send("/v1/models/none"),
    lambda api: api.send("/v1/models", method="DELETE"),
    lambda api: api.send("/v1/chat/completions", CHAT, headers={"host": "evil.example"}),
    lambda api: api.send("/v1/chat/completions", CHAT, headers={"sec-fetch-site": "cross-site"}),
    lambda api: api.send("/v1/chat/completions", CHAT, headers={"origin": "https://evil.example"}),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_every_refusal_has_openais_shape_and_a_request_id(api: Api, number: int) -> None:
    raw = REFUSED[number](api)
    assert 400 <= raw.status < 500
    bodies.ErrorBody.model_validate(raw.json())
    assert raw.headers["x-request-id"] and "detail" not in raw.json()
    assert api.engine.requests == []


def test_a_client_that_reads_no_more_loses_its_stream(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from wuya.web.api import sse

    monkeypatch.setattr(sse, "SEND_SECONDS", 0.2)
    api.engine.script = lambda request, index: ("x" * 20_000 + " ") * 1000
    api.engine.context_length = 1_000_000
    api.engine._models["fake"] = api.engine._model("fake", "")
    connection = http.client.HTTPConnection(api.url.removeprefix("http://"))
    try:
        connection.request(
            "POST",
            "/v1/chat/completions",
            b'{"model": "fake", "stream": true, "messages": [{"role": "user", "content": "x"}]}',
            {"content-type": "application/json"},
        )
        api.wait(lambda: len(api.engine.requests) == 1)
        api.wait(lambda: len(api.engine.cancelled) == 1, seconds=10)
    finally:
        connection.close()
        api.engine.context_length = 4096
        api.engine._models["fake"] = api.engine._model("fake", "")


def test_streams_end_cleanly_when_the_server_stops(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wuya.web.api.desk.GRACE_SECONDS", 0.2)
    api.engine.tokens_per_second, api.engine.num_words = 20, 1000
    stream = iter(chat(api, stream=True))
    next(stream)
    asyncio.run_coroutine_threadsafe(api.service.begin_shutdown(), api.loop).result(10)
    try:
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.code == "overloaded"
        with pytest.raises(openai.InternalServerError) as refused:
            chat(api)
        assert refused.value.status_code == 503
    finally:
        api.service.closing = False
    api.wait(lambda: api.engine.slots_used == 0)
