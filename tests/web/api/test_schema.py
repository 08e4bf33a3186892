"""Requests: what is accepted, what is refused and which field is blamed."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from wuya.inference.backends.protocol import ModelInfo
from wuya.web.api import params
from wuya.web.api.refusals import of_validation
from wuya.web.api.schema import ChatRequest, CompletionRequest, EmbeddingRequest, depth, ignored
from wuya.web.errors import ApiError

HELLO = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
MODEL = ModelInfo(alias="fake", context_length=100, fingerprint="f")


def chat(**more: Any) -> ChatRequest:
    return ChatRequest.model_validate({**HELLO, **more})


def refusal(model: type[BaseModel], body: Any) -> tuple[str | None, str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    error = of_validation([{**e, "loc": ("body", *e["loc"])} for e in caught.value.errors()])
    assert error.status == 400
    return error.param, error.code


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": "0.5"}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "invalid_value"),
        ({"seed": 1 << 63}, "seed", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
        ({"stop": "x" * 65}, "stop", "invalid_value"),
        ({"logit_bias": {"five": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"presence_penalty": 2.01}, "presence_penalty", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text",
         "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content",
         "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"audio": {"voice": "alloy"}}, "audio", "unsupported_parameter"),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
    ],
)  # fmt: skip
def test_the_field_at_fault_is_named(more: dict[str, Any], param: str, code: str) -> None:
    assert refusal(ChatRequest, {**HELLO, **more}) == (param, code)


def test_bodies_that_are_no_objects_are_refused() -> None:
    for body in ([], "x", 5, None):
        assert refusal(ChatRequest, body)[1] == "invalid_value"
    assert refusal(ChatRequest, {"messages": HELLO["messages"]}) == ("model", "invalid_value")


def test_deep_schemas_are_refused_without_recursion() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"properties": deep}
    body = {**HELLO, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}}
    assert refusal(ChatRequest, body) == ("response_format.json_schema.schema", "invalid_value")
    assert (depth(5), depth([[]]), depth({"a": [1, {"b": 2}]})) == (0, 2, 3)


def test_unknown_fields_are_kept_aside_and_nulls_are_nothing() -> None:
    body = chat(store=True, reasoning_effort="low", service_tier=None, temperature=None)
    assert ignored(body) == ["reasoning_effort", "store"]


def test_text_parts_are_joined_and_developer_is_system() -> None:
    body = chat(messages=[
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "5", "tool_call_id": "1"},
    ])  # fmt: skip
    system, user, assistant, tool = params.engine_messages(body.messages)
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == "a\nb"
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert tool == {"role": "tool", "content": "5", "tool_call_id": "1"}


def test_sampling_is_translated() -> None:
    body = chat(temperature=0, top_p=0, top_k=-1, stop="\n", logit_bias={"7": -100}, seed=5, n=2, logprobs=True)
    found = params.chat_params(body, prompt_tokens=40, model=MODEL)
    assert (found.max_tokens, found.n, found.logprobs, found.stop) == (60, 2, 0, ("\n",))
    assert (found.temperature, found.top_p, found.top_k) == (0, 1.0, 1)
    assert (dict(found.logit_bias), found.seed, found.json_schema) == ({7: -100.0}, 5, None)


def test_max_completion_tokens_wins_and_the_context_is_kept() -> None:
    body = chat(max_tokens=5, max_completion_tokens=7)
    assert params.chat_params(body, prompt_tokens=40, model=MODEL).max_tokens == 7
    with pytest.raises(ApiError) as caught:
        params.chat_params(chat(max_tokens=61), prompt_tokens=40, model=MODEL)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(ApiError):
        params.chat_params(chat(), prompt_tokens=100, model=MODEL)


def test_a_tool_that_must_be_called_constrains_the_text() -> None:
    tools = [{"type": "function", "function": {"name": n, "parameters": {"type": "object"}}} for n in ("a", "b")]
    required = params.output_schema(chat(tools=tools, tool_choice="required"))
    assert required is not None and len(required["anyOf"]) == 2
    one = params.output_schema(chat(tools=tools, tool_choice={"type": "function", "function": {"name": "b"}}))
    assert one is not None and one["properties"]["name"]["enum"] == ["b"]
    assert params.output_schema(chat(tools=tools)) is None
    assert params.output_schema(chat(response_format={"type": "json_object"})) == {}
    assert params.called_tools(chat(tools=tools, tool_choice="none")) == ()


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts_come_in_four_forms(prompt: Any) -> None:
    assert CompletionRequest.model_validate({"model": "m", "prompt": prompt}).prompt == prompt
    assert EmbeddingRequest.model_validate({"model": "m", "input": prompt}).input == prompt


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"best_of": 1, "n": 2}, "best_of", "invalid_value"),
        ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt[0]", "invalid_value"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt[1]", "invalid_value"),
    ],
)
def test_the_legacy_endpoint_has_its_own_rules(more: dict[str, Any], param: str, code: str) -> None:
    found, kind = refusal(CompletionRequest, {"model": "m", "prompt": "x", **more})
    assert (found or "").startswith(param.split("[")[0]) and kind == code
