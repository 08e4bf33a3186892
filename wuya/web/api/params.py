"""From OpenAI's names and defaults to the engine's: the only place that translates."""

from collections.abc import Mapping, Sequence
from typing import Any

from wuya.inference.backends.protocol import GenerationParams, ModelInfo
from wuya.web.api import refusals
from wuya.web.api.schema import ChatRequest, CompletionRequest, Message, NamedTool, SamplingBody, Tool

DEFAULT_COMPLETION_TOKENS = 16
"""What the legacy endpoint writes unless told otherwise; OpenAI's figure."""


def chat_params(body: ChatRequest, *, prompt_tokens: int, model: ModelInfo) -> GenerationParams:
    """How to sample the answers of a chat."""
    max_tokens = _fitting(body.wanted_tokens, prompt_tokens=prompt_tokens, model=model, param="messages")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return GenerationParams(
        max_tokens=max_tokens,
        n=body.n or 1,
        logprobs=logprobs,
        json_schema=output_schema(body),
        continues=body.messages[-1].role == "assistant",
        **_sampling(body),
    )


def completion_params(
    body: CompletionRequest, *, prompt_tokens: int, model: ModelInfo, logprobs: int | None
) -> GenerationParams:
    """How to continue one prompt of the legacy endpoint."""
    wanted = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    max_tokens = _fitting(wanted, prompt_tokens=prompt_tokens, model=model, param="prompt")
    # Evaluation harnesses score a text by echoing it with one token more, and drop that token's entry: let there be one
    # also where the model would end.
    scoring = bool(body.echo) and body.logprobs is not None and max_tokens == 1
    return GenerationParams(
        max_tokens=max_tokens,
        n=body.best_of or body.n or 1,
        logprobs=logprobs,
        continues=True,
        ignore_eos=scoring,
        **_sampling(body),
    )


def _sampling(body: SamplingBody) -> dict[str, Any]:
    given: dict[str, Any] = {
        name: value
        for name in (
            "temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed",
        )
        if (value := getattr(body, name)) is not None
    }  # fmt: skip
    if body.top_k is not None:
        given["top_k"] = max(0, body.top_k)  # others spell "all" as -1
    if body.top_p == 0:  # the smallest set of tokens with any probability at all: the likeliest one
        given |= {"top_p": 1.0, "top_k": 1}
    if body.logit_bias:
        given["logit_bias"] = {int(token): float(bias) for token, bias in body.logit_bias.items()}
    return given | {"stop": body.stops}


def _fitting(wanted: int | None, *, prompt_tokens: int, model: ModelInfo, param: str) -> int:
    room = model.context_length - prompt_tokens
    if wanted is None:
        wanted = max(1, room)
    if wanted > room:
        raise refusals.context_too_long(prompt_tokens, wanted, model.context_length, param=param)
    return wanted


def output_schema(body: ChatRequest) -> Mapping[str, Any] | None:
    """The JSON schema that the answer must keep, from `response_format` or from a tool that must be called."""
    tools = called_tools(body)
    if tools and (body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)):
        calls = [_call_schema(tool) for tool in tools]
        return calls[0] if len(calls) == 1 else {"anyOf": calls}
    if body.response_format is None or body.response_format.type == "text":
        return None
    if body.response_format.type == "json_object":
        return {}
    assert body.response_format.json_schema is not None
    return body.response_format.json_schema.schema_ or {}


def called_tools(body: ChatRequest) -> Sequence[Tool]:
    """The tools that this answer may call."""
    if body.tool_choice == "none":
        return ()
    if isinstance(body.tool_choice, NamedTool):
        return [tool for tool in body.tools or () if tool.function.name == body.tool_choice.function.name]
    return body.tools or ()


def _call_schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [tool.function.name]},
            "arguments": tool.function.parameters or {"type": "object"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def engine_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A chat as engines and chat templates know it; `developer` is OpenAI's newer word for `system`."""
    return [_engine_message(message) for message in messages]


def _engine_message(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.text,
    }
    if message.tool_calls:
        result["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}}
            for c in message.tool_calls
        ]
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        result["name"] = message.name
    return result


def engine_tools(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Tools as chat templates print them."""
    if not tools:
        return None
    return [
        {
            "type": "function",
            "function": {
                "name": tool.function.name,
                "description": tool.function.description or "",
                "parameters": tool.function.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
    ]
