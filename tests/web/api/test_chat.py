"""`/v1/chat/completions` through the official client, unmodified."""

import json
import threading
from typing import Any

import pytest

from tests.web.api.conftest import Api
from wuya.web.api import bodies

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Suzhou"]}},
            "required": ["city"],
        },
    },
}
CALL = '{"name": "weather", "arguments": {"city": "Suzhou"}}'


def test_a_chat(api: Api) -> None:
    api.engine.script = "Hello there, reader."
    answer = api.client().chat.completions.create(model="fake", messages=HELLO)
    bodies.ChatCompletion.model_validate(answer.model_dump(exclude_unset=True))
    [choice] = answer.choices
    assert choice.message.content == "Hello there, reader."
    assert (choice.finish_reason, choice.message.role, choice.logprobs) == ("stop", "assistant", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    assert answer.id.startswith("chatcmpl-") and answer.system_fingerprint and answer.created


def test_a_stream_is_role_content_end_usage_done(api: Api) -> None:
    api.engine.script = "One two three."
    body = {"model": "fake", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    raw = api.send("/v1/chat/completions", body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    chunks = raw.events()
    for chunk in chunks:
        bodies.ChatChunk.model_validate(chunk)
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == "One two three."
    assert (chunks[-2]["choices"][0]["delta"], chunks[-2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_without_include_usage_no_chunk_speaks_of_it(api: Api) -> None:
    for chunk in api.client().chat.completions.create(model="fake", messages=HELLO, stream=True):
        assert chunk.usage is None and len(chunk.choices) == 1


def test_three_answers_come_interleaved_and_the_prompt_counts_once(api: Api) -> None:
    client = api.client()
    stream = client.chat.completions.create(
        model="fake", messages=HELLO, n=3, stream=True, stream_options={"include_usage": True}
    )
    texts, order, usage = ["", "", ""], [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            order.append(choice.index)
    assert order[:9] == [0, 1, 2] * 3
    assert len(set(texts)) == 3 and all(texts)
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (7, 36)
    whole = client.chat.completions.create(model="fake", messages=HELLO, n=3, seed=4)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]


def test_streamed_and_blocking_answers_are_the_same_text(api: Api) -> None:
    client = api.client()
    whole = client.chat.completions.create(model="fake", messages=HELLO, seed=5)
    again = client.chat.completions.create(model="fake", messages=HELLO, seed=5)
    other = client.chat.completions.create(model="fake", messages=HELLO, seed=6)
    stream = client.chat.completions.create(model="fake", messages=HELLO, seed=5, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert whole.choices[0].message.content == again.choices[0].message.content == text
    assert other.choices[0].message.content != text
    assert whole.system_fingerprint == again.system_fingerprint


def test_logprobs(api: Api) -> None:
    api.engine.script = "Ja 梯度."
    client = api.client()
    answer = client.chat.completions.create(model="fake", messages=HELLO, logprobs=True, top_logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    joined = b"".join(bytes(token.bytes or []) for token in logprobs.content)
    assert joined.decode() == answer.choices[0].message.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in logprobs.content)
    bodies.ChatCompletion.model_validate(answer.model_dump(exclude_unset=True))
    streamed = []
    for chunk in client.chat.completions.create(
        model="fake", messages=HELLO, logprobs=True, top_logprobs=3, stream=True
    ):
        found = chunk.choices[0].logprobs
        streamed += found.content or [] if found else []
    assert [token.token for token in streamed] == [token.token for token in logprobs.content]
    bare = client.chat.completions.create(model="fake", messages=HELLO, logprobs=True).choices[0].logprobs
    assert bare is not None and bare.content is not None and bare.content[0].top_logprobs == []


def test_stop_strings_never_appear_also_across_tokens(api: Api) -> None:
    api.engine.script = "one two three four"
    client = api.client()
    answer = client.chat.completions.create(model="fake", messages=HELLO, stop=["two th", "x"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one ", "stop")
    stream = client.chat.completions.create(model="fake", messages=HELLO, stop="two th", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "one "


def test_max_tokens_ends_with_length(api: Api) -> None:
    answer = api.client().chat.completions.create(model="fake", messages=HELLO, max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 2


def test_json_schema_and_parse(api: Api) -> None:
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    client = api.client()
    parsed = client.chat.completions.parse(model="fake", messages=HELLO, response_format=Person)
    assert parsed.choices[0].message.parsed == Person(name="text", age=1)
    free = client.chat.completions.create(model="fake", messages=HELLO, response_format={"type": "json_object"})
    assert json.loads(free.choices[0].message.content or "") == {}
    assert api.engine.requests[-1].params.json_schema == {}


def test_tools_are_called_in_both_ways_of_answering(api: Api) -> None:
    api.engine.script = f"I will look.\n<tool_call>\n{CALL}\n</tool_call>"
    client = api.client()
    tools: list[Any] = [WEATHER]
    answer = client.chat.completions.create(model="fake", messages=HELLO, tools=tools)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I will look.")
    [call] = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Suzhou"}
    bodies.ChatCompletion.model_validate(answer.model_dump(exclude_unset=True))
    text, names, reasons = "", [], []
    for chunk in client.chat.completions.create(model="fake", messages=HELLO, tools=tools, stream=True):
        text += chunk.choices[0].delta.content or ""
        names += [c.function.name for c in chunk.choices[0].delta.tool_calls or [] if c.function]
        reasons += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
    assert (text, names, reasons) == ("I will look.", ["weather"], ["tool_calls"])


def test_a_chat_goes_on_with_the_tools_answer(api: Api) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Suzhou"}'}}
    messages: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    tools: list[Any] = [WEATHER]
    assert api.client().chat.completions.create(model="fake", messages=messages, tools=tools).choices


def test_a_tool_that_must_be_called_is_called(api: Api) -> None:
    tools: list[Any] = [WEATHER]
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = api.client().chat.completions.create(
            model="fake",
            messages=HELLO,
            tools=tools,
            tool_choice=choice,  # type: ignore[arg-type]
        )
        [call] = answer.choices[0].message.tool_calls or []
        assert call.type == "function" and json.loads(call.function.arguments) == {"city": "Suzhou"}
        assert answer.choices[0].message.content is None
    api.engine.script = CALL
    none = api.client().chat.completions.create(model="fake", messages=HELLO, tools=tools, tool_choice="none")
    assert none.choices[0].message.content == CALL


def test_unknown_fields_are_named_in_a_header(api: Api) -> None:
    raw = api.client().chat.completions.with_raw_response.create(
        model="fake", messages=HELLO, store=True, extra_body={"mirostat": 2, "bad\nname": 1}
    )
    assert raw.headers["x-ignored-params"] == "mirostat, store"
    assert raw.headers["x-request-id"]
    streamed = api.client().chat.completions.with_raw_response.create(
        model="fake", messages=HELLO, stream=True, extra_body={"mirostat": 2}
    )
    assert streamed.headers["x-ignored-params"] == "mirostat"


def test_extra_sampling_parameters_reach_the_engine(api: Api) -> None:
    api.client().chat.completions.create(
        model="fake", messages=HELLO, temperature=0.5, top_p=0.9, presence_penalty=1, logit_bias={"7": 5},
        extra_body={"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.2},
    )  # fmt: skip
    found = api.engine.requests[-1].params
    assert (found.temperature, found.top_p, found.top_k, found.min_p) == (0.5, 0.9, 40, 0.1)
    assert (found.presence_penalty, found.repetition_penalty, dict(found.logit_bias)) == (1, 1.2, {7: 5.0})


def test_leaving_a_stream_frees_its_slots(api: Api) -> None:
    api.engine.tokens_per_second, api.engine.num_words = 50, 4000
    stream = api.client().chat.completions.create(model="fake", messages=HELLO, n=2, stream=True, max_tokens=4000)
    next(iter(stream))
    api.wait(lambda: api.engine.slots_used == 2)
    stream.close()
    assert api.wait(lambda: api.engine.slots_used == 0) < 0.5
    assert len(api.engine.cancelled) == 1


@pytest.mark.parametrize("stage", ["prefill", "queue", "writing"])
def test_leaving_a_blocking_request_frees_its_slot(api: Api, stage: str) -> None:
    api.engine.tokens_per_second, api.engine.num_words = 50, 4000
    api.engine.prefill_seconds = 30 if stage == "prefill" else 0
    holder = None
    if stage == "queue":
        holder = api.client().chat.completions.create(model="fake", messages=HELLO, n=8, stream=True)
        next(iter(holder))
    client = api.client()

    def ask() -> None:
        with pytest.raises(Exception, match=r"onnection|closed|imed"):
            client.chat.completions.create(model="fake", messages=HELLO, timeout=0.3)

    thread = threading.Thread(target=ask)
    thread.start()
    api.wait(lambda: len(api.engine.requests) == (2 if holder else 1))
    thread.join()
    assert api.wait(lambda: api.engine.info().queue_length == 0 and len(api.engine._running) == bool(holder)) < 0.5
    if holder is not None:
        holder.close()
    api.wait(lambda: api.engine.slots_used == 0)
