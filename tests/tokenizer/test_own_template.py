"""Our own chat template: ChatML as ever for texts; tools, calls and reasoning as transformers renders it."""

import json
from pathlib import Path
from typing import Any

import pytest

from wuya.data.messages import parse_messages
from wuya.records import Message, Prompt, ToolCall
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import check_demonstration, encode_answer, encode_demonstration, encode_prompt
from wuya.tokenizer.rendering import render
from wuya.tokenizer.system_prompt import with_system_prompt
from wuya.tokenizer.templates import CHATML, CHATML_OF_TEXTS
from wuya.web.api.tools import ToolCallReader

TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}},
    {"type": "function", "function": {"name": "time", "parameters": {}}},
]
CALLS = [
    {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "K\u00f6ln"}}},
    {"type": "function", "id": "c2", "function": {"name": "time", "arguments": {}}},
]
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain in K\u00f6ln?"},
    {"role": "assistant", "content": "I look.", "reasoning_content": "A tool knows.", "tool_calls": CALLS},
    {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    {"role": "tool", "content": "noon", "tool_call_id": "c2"},
    {"role": "assistant", "content": "No."},
]
PLAIN_CHATS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi\n"}],
    [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))],
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat, and the crow said caw"] * 20, vocab_size=300)


@pytest.mark.parametrize("ask", [True, False])
@pytest.mark.parametrize("chat", PLAIN_CHATS)
def test_plain_messages_are_rendered_as_before(chat: list[dict[str, Any]], ask: bool) -> None:
    texts = {render(template, chat, add_generation_prompt=ask, variables={}) for template in (CHATML, CHATML_OF_TEXTS)}
    assert len(texts) == 1


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("stop", [2, 3, 4, 5, 6])
def test_tools_calls_results_and_reasoning_are_what_transformers_renders(
    tokenizer: Tokenizer, tmp_path: Path, tools: list[dict[str, Any]] | None, start: int, stop: int
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rows = CHAT[start:stop]
    ask = rows[-1]["role"] != "assistant"
    expected = theirs.apply_chat_template(rows, tools=tools, add_generation_prompt=ask, return_dict=False)
    messages = parse_messages(rows)
    offered = tuple(json.dumps(tool) for tool in tools or ())
    if ask:
        assert encode_prompt(tokenizer, Prompt("", messages, tools=offered)) == expected
    else:
        prompt = Prompt("", messages[:-1], tools=offered)
        ids = encode_prompt(tokenizer, prompt) + encode_answer(tokenizer, prompt, messages[-1])
        assert [*ids, *tokenizer.encode("\n")] == expected


def test_what_is_learned_is_transformers_mask_of_the_assistant(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template(CHAT, tools=TOOLS, return_dict=True, return_assistant_tokens_mask=True)
    messages = parse_messages(CHAT)
    chat = Prompt("", messages, tools=tuple(map(json.dumps, TOOLS)))
    check_demonstration(tokenizer, chat)
    [encoded] = encode_demonstration(tokenizer, chat)
    assert encoded.ids == expected["input_ids"] and encoded.mask == expected["assistant_masks"]


def test_the_calls_of_an_answer_are_read_back(tokenizer: Tokenizer) -> None:
    calls = (ToolCall("weather", '{"city": "Oslo"}'), ToolCall("time", "{}"))
    ids = encode_answer(tokenizer, (Message("user", "Rain?"),), Message("assistant", "", calls))
    reader = ToolCallReader({"weather", "time"})
    text, found = reader.push(tokenizer.decode(ids, skip_special=True))
    assert text == "" and reader.finish() == ("", [])
    assert [(call.name, json.loads(call.arguments)) for call in found] == [("weather", {"city": "Oslo"}), ("time", {})]


def test_a_system_prompt_stands_before_the_tools(tokenizer: Tokenizer) -> None:
    chat = Prompt("", (Message("user", "Rain?"),), tools=tuple(map(json.dumps, TOOLS)))
    text = tokenizer.decode(encode_prompt(with_system_prompt(tokenizer, "Be brief."), chat))
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n") and text.count("<|im_start|>system") == 1
