"""Chats as the objects that chat templates read, with every text a person controls made safe.

The form is that of `transformers`: tool calls as `{"type": "function", "id": ..., "function": {"name", "arguments"}}`
with the arguments as an object, reasoning as `reasoning_content`.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from wuya.errors import DataError
from wuya.records import ROLES, Message, ToolCall
from wuya.tokenizer.shield import Shield

Row = dict[str, Any]


def check_roles(messages: Sequence[Message]) -> None:
    """Refuse what no template can render: no message, an unknown role, a content that is not text."""
    if not messages:
        raise DataError("a chat needs at least one message")
    for number, message in enumerate(messages, start=1):
        if message.role not in ROLES:
            raise DataError(
                f"message {number} has an unknown role",
                found=repr(message.role),
                hint=f"use one of: {', '.join(ROLES)}",
            )
        if not isinstance(message.content, str):
            raise DataError(f"the content of message {number} is not text", found=type(message.content).__name__)


def template_row(message: Message, shield: Shield) -> Row:
    """One message as templates know it."""
    hide = shield.hide_answer if message.role == "assistant" else shield.hide
    row: Row = {"role": message.role, "content": hide(message.content)}
    if message.reasoning:
        row["reasoning_content"] = shield.hide(message.reasoning)
    if message.tool_calls:
        row["tool_calls"] = [_call(call, shield) for call in message.tool_calls]
    if message.tool_call_id:
        row["tool_call_id"] = shield.hide(message.tool_call_id)
    if message.name:
        row["name"] = shield.hide(message.name)
    return row


def template_tools(tools: Sequence[str], shield: Shield) -> list[Row]:
    """Tools, given as JSON text, as objects."""
    return [shield.hide(_object(tool, "a tool")) for tool in tools]


def _call(call: ToolCall, shield: Shield) -> Row:
    arguments = _object(call.arguments or "{}", f"the arguments of the tool call `{call.name}`")
    row: Row = {"type": "function", "function": {"name": shield.hide(call.name), "arguments": shield.hide(arguments)}}
    return {"id": shield.hide(call.id), **row} if call.id else row


def _object(text: str, what: str) -> Row:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{what} is not JSON", found=text[:100]) from error
    if not isinstance(value, dict):
        raise DataError(f"{what} is not a JSON object", found=text[:100])
    return value


def traced(rows: Sequence[Row], tools: Sequence[Row]) -> tuple[list[Row], list[Row], dict[str, str]]:
    """The rows and tools with a unique mark behind each text that must not get lost, and what each mark stands for."""
    marks: dict[str, str] = {}

    def mark(text: str, what: str) -> str:
        if not text.strip():
            return text
        name = f"\U0010ffb0{len(marks)}\U0010ffb1"
        marks[name] = what
        return text + name

    rows = [_traced_row(row, number, mark) for number, row in enumerate(rows, start=1)]
    return rows, [_traced_tool(tool, mark) for tool in tools], marks


def _traced_row(row: Row, number: int, mark: Callable[[str, str], str]) -> Row:
    what = {"tool": "the tool result", "system": "the system message"}.get(row["role"], "the content")
    traced = row | {"content": mark(row["content"], f"{what} (message {number}, {row['role']})")}
    if "tool_calls" in row:
        traced["tool_calls"] = [
            call
            | {
                "function": call["function"]
                | {"name": mark(call["function"]["name"], f"a tool call (message {number})")}
            }
            for call in row["tool_calls"]
        ]
    return traced


def _traced_tool(tool: Row, mark: Callable[[str, str], str]) -> Row:
    function = tool.get("function")
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return tool | {"function": function | {"name": mark(function["name"], "the list of tools")}}
    return tool | {"name": mark(tool["name"], "the list of tools")} if isinstance(tool.get("name"), str) else tool
