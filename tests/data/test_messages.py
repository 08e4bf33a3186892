"""Messages keep what they mean: tool calls, reasoning, what is learned; or the row is bad and says why."""

import json
from pathlib import Path
from typing import Any

import pytest

from wuya.data.formats import (
    read_comparisons,
    read_demonstrations,
    read_prompts,
    read_rankings,
    write_demonstrations,
    write_prompts,
    write_rankings,
)
from wuya.data.messages import messages_key, parse_messages, parse_tools, plain_messages, prompt_key
from wuya.errors import DataError
from wuya.feedback.importers import import_rankings
from wuya.files import BadRows
from wuya.records import Candidate, Demonstration, Message, Prompt, Ranking, ToolCall

WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town":"Ghent"}'}}
ASKED = {"role": "user", "content": "Rain in Ghent?"}
TOOL_CHAT = [
    ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "dry"},
    {"role": "assistant", "content": "It is dry.", "reasoning_content": "dry means no rain"},
]
RECORDS = (
    Message("user", "Rain in Ghent?"),
    Message("assistant", "", (ToolCall("weather", '{"town":"Ghent"}', "c1"),)),
    Message("tool", "dry", tool_call_id="c1", name="weather"),
    Message("assistant", "It is dry.", reasoning="dry means no rain"),
)


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reason_of(tmp_path: Path, row: Any) -> str:
    with pytest.raises(DataError) as error:
        list(read_demonstrations(write(tmp_path, row)))
    return str(error.value)


def test_a_chat_with_tools_keeps_calls_results_reasoning_and_tools(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    [row] = read_demonstrations(write(tmp_path, {"messages": TOOL_CHAT, "tools": tools}))
    assert row.messages == RECORDS
    assert [json.loads(tool) for tool in row.prompt.tools] == tools
    assert row.answer.reasoning == "dry means no rain"


def test_an_answer_may_be_a_tool_call(tmp_path: Path) -> None:
    [row] = read_demonstrations(write(tmp_path, {"messages": TOOL_CHAT[:2]}))
    assert row.answer == RECORDS[1] and row.completion == ""
    [same] = read_demonstrations(write(tmp_path, {"prompt": [ASKED], "completion": TOOL_CHAT[1:2]}))
    assert same == row


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": {"town": "Ghent"}}}],
        [{"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"town": "Ghent"}}]}],
        [{"role": "assistant", "tool_calls": json.dumps([{"function": CALL["function"]}])}],
        [{"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"town": "Ghent"}, "id": None}]}],
        [{"from": "function_call", "value": '{"name": "weather", "arguments": {"town": "Ghent"}}'}],
    ],
    ids=["function_call", "flat", "text", "no id", "sharegpt"],
)
def test_every_spelling_of_a_call_is_the_same_call(turns: list[dict[str, Any]]) -> None:
    [message] = parse_messages(turns)
    assert message == Message("assistant", "", (ToolCall("weather", '{"town":"Ghent"}'),))


@pytest.mark.parametrize("tools", [[WEATHER], [{"type": "function", "function": WEATHER}], WEATHER], ids=repr)
def test_tools_in_every_spelling_are_openais(tools: Any) -> None:
    assert parse_tools(tools) == parse_tools(json.dumps(tools)) == parse_tools([{"function": WEATHER}])
    assert parse_tools(None) == parse_tools([]) == parse_tools("") == ()


def test_sharegpt_with_tools_as_text_and_observations(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Rain in Ghent?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"town":"Ghent"}}'},
            {"from": "observation", "value": "dry"},
            {"from": "gpt", "value": "It is dry."},
        ],
        "tools": json.dumps([WEATHER]),
    }
    [found] = read_demonstrations(write(tmp_path, row))
    assert [m.role for m in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert found.messages[1].tool_calls == (ToolCall("weather", '{"town":"Ghent"}'),)
    assert found.prompt.tools == parse_tools([WEATHER])


@pytest.mark.parametrize(
    ("key", "off"), [("weight", 0), ("weight", 0.0), ("train", False), ("training", False), ("loss", False)]
)
def test_a_turn_that_is_not_to_be_learned_is_context(tmp_path: Path, key: str, off: Any) -> None:
    rude, kind = {"role": "assistant", "content": "No."}, {"role": "assistant", "content": "Sorry, yes."}
    [row] = read_demonstrations(write(tmp_path, {"messages": [ASKED, {**rude, key: off}, ASKED, {**kind, key: 1}]}))
    assert [m.learn for m in row.messages] == [True, False, True, True]


def test_a_turn_counts_with_its_weight_and_with_its_rows(tmp_path: Path) -> None:
    half = {"role": "assistant", "content": "Maybe.", "weight": 0.5}
    chat = {"messages": [ASKED, half, ASKED, {"role": "assistant", "content": "Yes."}]}
    [row] = read_demonstrations(write(tmp_path, chat))
    assert [m.learn for m in row.messages] == [1, 0.5, 1, 1]
    [row] = read_demonstrations(write(tmp_path, {**chat, "weight": 3}))
    assert [m.learn for m in row.messages] == [1, 1.5, 1, 3]
    write_demonstrations(tmp_path / "again.jsonl", [row])
    assert [m.learn for m in next(read_demonstrations(tmp_path / "again.jsonl")).messages] == [1, 1.5, 1, 3]


def test_what_comes_after_the_last_learned_turn_is_left_out(tmp_path: Path) -> None:
    good, bad = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No!", "weight": 0}
    [row] = read_demonstrations(write(tmp_path, {"messages": [ASKED, good, ASKED, bad]}))
    assert row.completion == "Yes." and len(row.messages) == 2
    assert "no answer of the chat is learned" in reason_of(tmp_path, {"messages": [ASKED, bad]})


def test_an_empty_turn_is_context_when_it_is_not_learned(tmp_path: Path) -> None:
    empty, good = {"role": "assistant", "content": ""}, {"role": "assistant", "content": "Yes."}
    assert "message 2, an answer to learn, is empty" in reason_of(tmp_path, {"messages": [ASKED, empty, ASKED, good]})
    [row] = read_demonstrations(write(tmp_path, {"messages": [ASKED, {**empty, "weight": 0}, ASKED, good]}))
    assert row.messages[1] == Message("assistant", "", learn=False)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "assistant", "content": "x", "train": 0.5}, "is 0.5: a turn is learned (1) or not (0)"),
        ({"role": "assistant", "content": "x", "weight": -1}, "is -1: a turn counts with a number of at least 0"),
        ({"role": "assistant", "content": "x", "weight": float("inf")}, "a turn counts with a number"),
        ({"role": "assistant", "content": "x", "weight": "0"}, "a turn counts with a number"),
        ({"role": "assistant", "content": "x", "weight": 1, "train": False}, "contradict each other"),
        ({"role": "assistant", "content": None}, "is not text, found nothing"),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}, "not text: image_url"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "names no function"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{x"}]}, "not JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}, "not an object"),
        ({"role": "assistant", "tool_calls": ["f"]}, "not a list of objects"),
        ({"role": "assistant", "content": "x", "reasoning": ["a"]}, "reasoning of message 2 is not text"),
        ({"role": "tool", "content": {"rain": 1}}, "is not text, found dict"),
        ({"from": "function_call", "value": "weather()"}, "not JSON"),
    ],
)
def test_a_message_that_cannot_be_kept_whole_is_a_bad_row(tmp_path: Path, message: Any, reason: str) -> None:
    assert reason in reason_of(tmp_path, {"messages": [ASKED, message]})


def test_a_user_turn_has_no_calls_and_is_not_learned(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "x"}
    assert "its role is user" in reason_of(tmp_path, {"messages": [{**ASKED, "tool_calls": [CALL]}, answer]})
    assert "asks to learn" in reason_of(tmp_path, {"messages": [{**ASKED, "train": True}, answer]})
    assert list(read_demonstrations(write(tmp_path, {"messages": [{**ASKED, "weight": 1}, answer]})))


def test_parts_of_text_are_joined_and_thinking_is_reasoning() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, *({"type": "text", "text": text} for text in ("It is", " dry."))]
    assert parse_messages([{"role": "assistant", "content": parts}]) == (
        Message("assistant", "It is dry.", reasoning="hm"),
    )


def test_history_comes_before_the_instruction_and_behind_the_system_message(tmp_path: Path) -> None:
    row = {"instruction": "And Wales?", "output": "Cardiff.", "history": [["France?", "Paris."]]}
    [found] = read_demonstrations(write(tmp_path, row | {"system": "Be brief."}))
    assert [m.content for m in found.messages] == [
        "Be brief.",
        "France?",
        "Paris.",
        "And Wales?",
        "Cardiff.",
    ]
    [pair] = read_comparisons(
        write(tmp_path, {"instruction": "And Wales?", "chosen": "Cardiff.", "rejected": "?", "history": row["history"]})
    )
    assert [m.content for m in pair.prompt.messages] == ["France?", "Paris.", "And Wales?"]
    assert "`history` is not a list" in reason_of(tmp_path, row | {"history": [["one"]]})
    assert "`history` is not a list" in reason_of(tmp_path, row | {"history": "once"})


def test_a_system_prompt_beside_the_chat_is_kept_or_refused(tmp_path: Path) -> None:
    chat = [ASKED, {"role": "assistant", "content": "Yes."}]
    for key in ("system", "system_prompt"):
        [row] = read_demonstrations(write(tmp_path, {"messages": chat, key: "Be brief."}))
        assert row.messages[0] == Message("system", "Be brief.")
    clash = [{"role": "system", "content": "Be long."}, *chat]
    assert "differs from the system message" in reason_of(tmp_path, {"messages": clash, "system": "Be brief."})


def test_preferences_of_llama_factory_have_their_prompt_in_conversations(tmp_path: Path) -> None:
    row = {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello."},
        "rejected": {"from": "gpt", "value": "Go away."},
    }
    [pair] = read_comparisons(write(tmp_path, row))
    assert (pair.prompt.messages, pair.chosen) == ((Message("user", "Hi"),), "Hello.")


CALLING = (ToolCall("weather", '{"town":"Ghent"}', "c1"),)


@pytest.mark.parametrize(
    ("row", "first"),
    [
        (
            {"prompt": "Hi", "chosen": [{"role": "assistant", "tool_calls": [CALL]}], "rejected": "no"},
            Candidate("", tool_calls=CALLING),
        ),
        (
            {"prompt": "Hi", "chosen": [{"role": "assistant", "content": "a", "thinking": "b"}], "rejected": "no"},
            Candidate("a", reasoning="b"),
        ),
        (
            {"prompt": "Hi", "candidates": [{"text": "", "tool_calls": [CALL]}, "no"], "ranks": [1, 2]},
            Candidate("", tool_calls=CALLING),
        ),
    ],
    ids=["call", "reasoning", "candidate"],
)
def test_answers_that_are_ranked_keep_calls_and_reasoning_where_the_file_is_read(
    tmp_path: Path, row: dict[str, Any], first: Candidate
) -> None:
    [ranking] = read_rankings(write(tmp_path, row))
    assert ranking.candidates == (first, Candidate("no")) and ranking.ranks == (1, 2)
    write_rankings(tmp_path / "again.jsonl", [ranking])
    assert next(read_rankings(tmp_path / "again.jsonl")).candidates == ranking.candidates
    for reader in (read_comparisons, import_rankings):
        with pytest.raises(DataError, match=r"an answer has (tool calls|reasoning)"):
            list(reader(write(tmp_path, row)))


def test_one_call_is_not_another_and_not_the_text_alone(tmp_path: Path) -> None:
    other = {**CALL, "function": {"name": "weather", "arguments": "{}"}}
    answers = [{"text": "a", "tool_calls": [CALL]}, {"text": "a", "tool_calls": [other]}, "a"]
    row = {"prompt": "Hi", "candidates": answers, "ranks": [1, 2, 3]}
    assert next(read_rankings(write(tmp_path, row))).ranks == (1, 2, 3)
    twice = {"prompt": "Hi", "candidates": [answers[0], answers[0]], "ranks": [1, 2]}
    assert "the same" in "".join(bad_rankings(tmp_path, twice))


def bad_rankings(tmp_path: Path, row: dict[str, Any]) -> list[str]:
    bad = BadRows()
    with pytest.raises(DataError):
        list(read_rankings(write(tmp_path, row), bad))
    return bad.examples


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"label": False}, "a bad answer is no demonstration"),
        ({"weight": -0.5}, "`weight` must be a number of at least 0, found -0.5"),
        ({"weight": "much"}, "`weight` must be a number of at least 0"),
        ({"weight": 0}, "all have weight 0"),
        ({"images": ["a.png"]}, "`images` is given"),
        ({"tools": [{"type": "web_search"}]}, "a tool is no function: web_search"),
        ({"tools": "nonsense"}, "`tools` is not JSON"),
    ],
)
def test_a_row_that_says_more_than_can_be_learned_is_bad(tmp_path: Path, extra: dict[str, Any], reason: str) -> None:
    assert reason in reason_of(tmp_path, {"prompt": "Hi", "completion": "Caw!", **extra})


def test_keys_that_nobody_reads_are_named_once_per_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = [{**ASKED, "mood": "grim", "id": 4}, {"role": "assistant", "content": "Yes."}]
    row = {"messages": chat, "dataset": "mine", "context": "a page", "url": "x"}
    list(read_demonstrations(write(tmp_path, row, row, {"messages": chat, "input": "1"})))
    warning = capsys.readouterr().err
    assert "context (line 1), input (line 3), messages[].mood (line 1)" in warning and warning.count("warning") == 1
    list(read_demonstrations(write(tmp_path, {"messages": TOOL_CHAT, "tools": [WEATHER], "context": None})))
    assert capsys.readouterr().err == ""


def test_one_odd_row_spoils_itself_alone(tmp_path: Path) -> None:
    odd = [{"prompt": "no answer"}, {"foo": 1}, {"prompt": "Hi", "completion": "Caw!"}]
    bad = BadRows()
    found = list(read_demonstrations(write(tmp_path, *odd[:2], {"messages": TOOL_CHAT}, odd[2]), bad))
    assert [d.completion for d in found] == ["It is dry.", "Caw!"]
    assert bad.count == 2


def test_null_columns_of_parquet_do_not_hide_good_ones(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"prompt": None, "completion": None, "messages": TOOL_CHAT, "tools": None},
        {"prompt": "Hi", "completion": "Caw!", "messages": None, "tools": None},
        {"prompt": None, "completion": None, "messages": None, "tools": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    bad = BadRows()
    first, second = read_demonstrations(tmp_path / "rows.parquet", bad)
    assert first.messages == RECORDS and second.completion == "Caw!" and bad.count == 1


def test_columns_of_lists_are_messages() -> None:
    assert parse_messages({"role": ["user", "assistant"], "content": ["Hi", "Caw!"]}) == (
        Message("user", "Hi"),
        Message("assistant", "Caw!"),
    )


def test_line_separators_of_unicode_do_not_end_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    text = "one\u2028two\u2029three\x85four"
    row = json.dumps({"prompt": text, "completion": "x"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n{row}\r\n".encode())
    assert [d.prompt.messages[0].content for d in read_demonstrations(path)] == [text] * 2


# -- identity


def test_ids_are_names_and_messages_are_the_identity(tmp_path: Path) -> None:
    ids = (True, False, 1, "1", 2.0, "")
    prompts = list(read_prompts(write(tmp_path, *({"id": id, "prompt": f"text {n}"} for n, id in enumerate(ids)))))
    assert [p.id.partition("~")[0] for p in prompts[2:5]] == ["1", "1", "2"]
    assert len({p.id for p in prompts}) == 6
    assert len({p.id for p in (*prompts[:2], prompts[5])} & {"True", "False", ""}) == 0
    assert len({prompt_key(p) for p in prompts}) == 6


def test_tools_are_part_of_what_a_prompt_is() -> None:
    messages = (Message("user", "Hi"),)
    assert messages_key(messages) != messages_key(messages, parse_tools([WEATHER]))
    assert prompt_key(Prompt("a", messages)) == prompt_key(Prompt("b", messages, source="elsewhere"))


# -- round trips


CHATS = [
    RECORDS[:1],
    (Message("system", "Be\u2028brief"), *RECORDS[:3]),
    (Message("user", "a", name="Bo"), Message("assistant", "b", learn=False), Message("user", "\x85 \r\n<|x|>")),
    (
        Message("user", "a"),
        Message("assistant", "", (ToolCall("f", "{}"), ToolCall("g", '{"x": 1.0}', "z")), reasoning="r"),
        Message("tool", "", tool_call_id="z"),
    ),
]
ANSWERS = [Message("assistant", "Caw!"), RECORDS[1], Message("assistant", "x", reasoning="y", name="crow")]


@pytest.mark.parametrize("tools", [(), parse_tools([WEATHER, {"name": "now"}])], ids=["", "tools"])
@pytest.mark.parametrize("chat", CHATS, ids=["short", "tools", "unlearned", "calls"])
def test_every_record_comes_back_as_it_was_written(
    tmp_path: Path, chat: tuple[Message, ...], tools: tuple[str, ...]
) -> None:
    assert parse_messages(json.loads(json.dumps(plain_messages(chat)))) == chat
    prompt = Prompt("p 1", chat, source="s", author="a", tools=tools)
    demonstrations = [Demonstration(prompt, answer, "ann") for answer in ANSWERS]
    candidates = (Candidate("a", (5, 2), "m", False, 0.5), Candidate("b"))
    ranking = Ranking(prompt, candidates, (1, 1), "ann", 2, "edit", "2026-01-01", {"x": None}, 0.25)
    write_prompts(tmp_path / "p.jsonl", [prompt])
    write_demonstrations(tmp_path / "d.jsonl", demonstrations)
    write_rankings(tmp_path / "r.jsonl", [ranking])
    assert list(read_prompts(tmp_path / "p.jsonl")) == [prompt]
    assert list(read_demonstrations(tmp_path / "d.jsonl")) == demonstrations
    assert list(read_rankings(tmp_path / "r.jsonl")) == [ranking]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    for arguments in ("", None, {}, "{}"):
        [message] = parse_messages([{"role": "assistant", "tool_calls": [{"name": "now", "arguments": arguments}]}])
        assert message.tool_calls == (ToolCall("now", "{}"),)


def test_rows_one_to_a_line_may_be_called_json(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "Hi", "completion": "Caw!"})
    path = tmp_path / "rows.json"
    path.write_text(f"{row}\n{row}\n[1]\n")
    bad = BadRows()
    assert len(list(read_demonstrations(path, bad))) == 2 and bad.count == 1
    path.write_text("[" + row)
    with pytest.raises(DataError, match="is not JSON"):
        list(read_demonstrations(path))
