"""Tool calls are found in text however it is cut, and text is never lost."""

import json
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wuya.web.api.tools import Call, ToolCallReader, parse_calls

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Suzhou"}}\n</tool_call>'


def read(text: str, cuts: list[int] | None = None, *, limit: int | None = None) -> tuple[str, list[Call]]:
    reader = ToolCallReader(["weather", "time"], limit=limit)
    shown, calls = "", []
    edges = sorted({0, len(text), *(cuts or [])})
    for start, end in pairwise(edges):
        more, found = reader.push(text[start:end])
        shown, calls = shown + more, calls + found
    more, found = reader.finish()
    return shown + more, calls + found


def named(calls: list[Call]) -> list[tuple[str, str]]:
    return [(call.name, json.loads(call.arguments).get("city", "")) for call in calls]


def test_a_call_between_marks() -> None:
    shown, calls = read("I look it up.\n" + CALL)
    assert shown == "I look it up."
    assert named(calls) == [("weather", "Suzhou")]
    assert calls[0].id.startswith("call_")


def test_several_calls_and_a_list_of_calls() -> None:
    both = CALL + "\n" + CALL.replace("weather", "time")
    assert named(read(both)[1]) == [("weather", "Suzhou"), ("time", "Suzhou")]
    listed = '<tool_call>[{"name": "weather", "arguments": {}}, {"name": "time", "arguments": {}}]</tool_call>'
    assert named(read(listed)[1]) == [("weather", ""), ("time", "")]
    assert named(read(listed, limit=1)[1]) == [("weather", "")]


def test_json_alone_is_a_call_too() -> None:
    assert named(read('{"name": "weather", "parameters": {"city": "Linz"}}')[1]) == [("weather", "Linz")]
    assert named(read(' [{"name": "time", "arguments": {"city": "Linz"}}]')[1]) == [("time", "Linz")]


def test_what_is_no_call_stays_text() -> None:
    for text in (
        '{"answer": 42}',
        '{"name": "unknown", "arguments": {}}',
        "<tool_call>not json</tool_call>",
        "<tool_call>",
        "a < b and <tool_",
        "[1, 2",
        "",
        "   ",
        'The object {"name": "weather", "arguments": {}} is an example.',
        '{"name": "weather", "arguments": {}} and more',
    ):
        assert read(text) == (text, []), text


def test_a_closing_mark_that_is_a_special_token_may_be_missing() -> None:
    assert named(read('<tool_call>{"name": "time", "arguments": {"city": "Graz"}}')[1]) == [("time", "Graz")]


def test_arguments_that_are_text_already_are_kept() -> None:
    [call] = parse_calls('{"name": "time", "arguments": "{\\"a\\": 1}"}', ["time"])
    assert call.arguments == '{"a": 1}'
    assert parse_calls("[" * 100_000, ["time"]) == []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 200), max_size=20))
def test_cuts_change_nothing(cuts: list[int]) -> None:
    text = "Let me see: <b> " + CALL + " then " + CALL + " <tool_cal"
    whole_text, whole_calls = read(text)
    shown, calls = read(text, [cut for cut in cuts if cut < len(text)])
    assert (shown, named(calls)) == (whole_text, named(whole_calls))
    assert len(calls) == 2
