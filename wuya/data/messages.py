"""Messages and tools as JSON, in OpenAI's form and in those that training tools write; and back in OpenAI's.

Everything that changes what a message means is read (tool calls, reasoning, whether it is learned) or the row is bad:
nothing is dropped in silence.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wuya.data.values import BadRowError, either, kind_of, whole_text
from wuya.files import sha256_json, to_json
from wuya.records import ROLES, Message, Prompt, Role, ToolCall

KNOWN_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""Roles as data sets spell them: sharegpt's, OpenAI's older and newer names, LLaMA-Factory's."""
REASONING = ("reasoning_content", "reasoning", "thinking")
LEARN = ("weight", "train", "training", "loss")
TEXT_PARTS = ("text", "input_text", "output_text")


def parse_messages(value: object) -> tuple[Message, ...]:
    """[{role, content, ...}, ...] or sharegpt's [{from, value}, ...]."""
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        lengths = {len(column) for column in value.values()}  # a list of structs as `datasets` gives it: columns
        if len(lengths) == 1:
            value = [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not value:
        raise BadRowError(f"expected a list of messages, found {'an empty one' if value == [] else kind_of(value)}")
    return tuple(_message(item, number) for number, item in enumerate(value, start=1))


def _message(item: object, number: int) -> Message:
    if not isinstance(item, Mapping):
        raise BadRowError(f"message {number} is not an object {{role, content}}, found {kind_of(item)}")
    given = item.get("from") if item.get("role") is None else item["role"]  # parquet joins columns: null beside a name
    if len(item) == 2 and isinstance(given, str) and given in ROLES and isinstance(item.get("content"), str):
        return Message(given, whole_text(item["content"], f"message {number}"))  # nearly all messages of large files
    role = KNOWN_ROLES.get(given, given) if isinstance(given, str) else given
    if role not in ROLES:
        raise BadRowError(f"message {number} has an unknown role {given!r} (known: {', '.join(ROLES)})")
    source = item.get("from")
    if isinstance(source, str) and source in KNOWN_ROLES and KNOWN_ROLES[source] != role:
        raise BadRowError(f"`role` and `from` of message {number} differ: {given!r} and {source!r}")
    content = next((item[key] for key in ("content", "value") if item.get(key) is not None), None)
    content = either(item, "content", "value") or content
    calls = _tool_calls(item, number)
    if given == "function_call":  # LLaMA-Factory: the text of the turn is the call
        calls, content = _calls_of(content, number), ""
    if content is None and calls:
        content = ""
    reasoning = either(item, *REASONING) or ""
    content, thought = _text(content, number)
    if reasoning and thought and reasoning != thought:
        raise BadRowError(f"the reasoning of message {number} differs from the thinking in its content")
    if (calls or reasoning or thought) and role != "assistant":
        raise BadRowError(f"message {number} has tool calls or reasoning, but its role is {role}")
    if not isinstance(reasoning, str):
        raise BadRowError(f"the reasoning of message {number} is not text, found {kind_of(reasoning)}")
    return Message(
        role,
        content,
        calls,
        tool_call_id=_name(item, "tool_call_id", number),
        name=_name(item, "name", number),
        reasoning=whole_text(reasoning or thought, f"message {number}"),
        learn=_learn(item, role, number),
    )


def _text(content: object, number: int) -> tuple[str, str]:
    """(text, reasoning) of a content: a text, or OpenAI's parts of text, joined without a gap as templates do."""
    if isinstance(content, str):
        return whole_text(content, f"message {number}"), ""
    if not isinstance(content, list):
        raise BadRowError(f"the content of message {number} is not text, found {kind_of(content)}")
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text", part.get("thinking")) if isinstance(part, Mapping) else part
        if kind not in (*TEXT_PARTS, "thinking") or not isinstance(text, str):
            raise BadRowError(
                f"message {number} has a part that is not text: {kind if text is None else kind_of(text)}"
            )
        (thoughts if kind == "thinking" else texts).append(text)
    return whole_text("".join(texts), f"message {number}"), "".join(thoughts)


def _name(item: Mapping[str, Any], key: str, number: int) -> str:
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRowError(f"`{key}` of message {number} is not text, found {kind_of(value)}")
    return whole_text(value, f"`{key}` of message {number}")


def _learn(item: Mapping[str, Any], role: Role, number: int) -> float:
    """How much a turn counts in the loss: OpenAI's and Mistral's `weight`, axolotl's `train`, ms-swift's `loss`."""
    given: dict[str, float] = {}
    for key in LEARN:
        value = item.get(key)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or not 0 <= value < float("inf"):
            raise BadRowError(f"`{key}` of message {number} is {value!r}: a turn counts with a number of at least 0")
        if key != "weight" and value not in (0, 1):
            raise BadRowError(f"`{key}` of message {number} is {value!r}: a turn is learned (1) or not (0)")
        if role == "assistant":
            given[key] = float(value)
        elif value and key != "weight":
            raise BadRowError(f"`{key}` of message {number} asks to learn a turn of the {role}")
    if any(given.values()) and not all(given.values()):
        raise BadRowError(f"{' and '.join(f'`{key}`' for key in given)} of message {number} contradict each other")
    return given.get("weight", next(iter(given.values()), 1.0))


def _tool_calls(item: Mapping[str, Any], number: int) -> tuple[ToolCall, ...]:
    """`tool_calls`, or OpenAI's older `function_call`."""
    calls = item.get("tool_calls") or ()
    if not calls and item.get("function_call"):
        calls = [item["function_call"]]
    return _calls_of(calls, number) if calls else ()


def _calls_of(value: object, number: int) -> tuple[ToolCall, ...]:
    """[{id, function: {name, arguments}}], [{name, arguments}] or one of them, also as JSON text."""
    where = f"message {number}"
    value = _from_json(value, f"the tool call of {where}") if isinstance(value, str) else value
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, list) or not calls or not all(isinstance(call, Mapping) for call in calls):
        raise BadRowError(f"the tool calls of {where} are not a list of objects, found {kind_of(value)}")
    return tuple(_call(call, where) for call in calls)


def _call(call: Mapping[str, Any], where: str) -> ToolCall:
    function = call["function"] if isinstance(call.get("function"), Mapping) else call
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise BadRowError(f"a tool call of {where} names no function")
    arguments = {} if arguments in (None, "") else arguments  # OpenAI's API writes "" for none
    parsed = arguments
    if isinstance(parsed, str):
        parsed = _from_json(parsed, f"the arguments of `{name}` in {where}")
    if not isinstance(parsed, Mapping):
        raise BadRowError(f"the arguments of `{name}` in {where} are not an object, found {kind_of(parsed)}")
    text = arguments if isinstance(arguments, str) else to_json(parsed)
    id = call.get("id")
    return ToolCall(whole_text(name, where), whole_text(text, where), id if isinstance(id, str) else "")


def parse_tools(value: object) -> tuple[str, ...]:
    """`tools` of a row (a list, or its JSON text) as `Prompt.tools` has them: each a text in OpenAI's form."""
    value = _from_json(value, "`tools`") if isinstance(value, str) and value.strip() else value
    if not value:
        return ()
    tools = [value] if isinstance(value, Mapping) else value
    if not isinstance(tools, list):
        raise BadRowError(f"`tools` is not a list, found {kind_of(value)}")
    return tuple(_tool(tool) for tool in tools)


def _tool(tool: object) -> str:
    tool = _from_json(tool, "a tool") if isinstance(tool, str) else tool
    if isinstance(tool, Mapping) and "function" not in tool and isinstance(tool.get("name"), str):
        tool = {"type": "function", "function": tool}
    if not isinstance(tool, Mapping) or not isinstance(tool.get("function"), Mapping):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        raise BadRowError(f"a tool is no function: {kind or kind_of(tool)}")
    return whole_text(to_json({"type": "function", **tool}), "`tools`")


def _from_json(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"{name} is not JSON: {error}") from error


# -- writing


def plain_message(message: Message) -> dict[str, Any]:
    """A message as OpenAI's API writes it; what is empty is left out, so plain text stays {role, content}."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    given = {"tool_call_id": message.tool_call_id, "name": message.name, "reasoning_content": message.reasoning}
    row |= {key: value for key, value in given.items() if value}
    return row if message.learn == 1 else row | {"weight": message.learn or 0}


def plain_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as OpenAI's API writes them; `parse_messages` reads them back."""
    return [plain_message(message) for message in messages]


def plain_tools(tools: Sequence[str]) -> list[Any]:
    """`Prompt.tools` as objects."""
    return [json.loads(tool) for tool in tools]


def messages_key(messages: Sequence[Message], tools: Sequence[str] = ()) -> str:
    """What a prompt is, 16 hexadecimal digits: equal messages and tools are the same prompt, whatever id they have."""
    plain = plain_messages(messages)
    return sha256_json({"messages": plain, "tools": plain_tools(tools)} if tools else plain)[:16]


def prompt_key(prompt: Prompt) -> str:
    """The identity of a prompt: its messages and tools. Ids come from outside, and files share them by accident."""
    return messages_key(prompt.messages, prompt.tools)
