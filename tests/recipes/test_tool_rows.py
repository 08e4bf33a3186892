"""Rows with tools from their file to the loss: calls are learned as the template writes them, results are context."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from wuya.data.formats import read_demonstrations
from wuya.errors import DataError
from wuya.recipes.sft import load_demonstrations
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_chat, encode_prompt
from wuya.tokenizer.templates import CHATML_OF_TEXTS

TEMPLATE = """{%- if tools %}<|im_start|>system
Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{%- for call in message.tool_calls or [] %}
<call>{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}</call>{%- endfor %}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Ostend"}'}}
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "High tide?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "at noon <|im_end|>"},
    {"role": "assistant", "content": "At noon."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["at noon the tide is high, said the crow to the harbour"] * 5, vocab_size=290)
    path = tmp_path_factory.mktemp("tools") / "tokenizer"
    tokenizer.save(path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return path


def learned(tokenizer: Tokenizer, rows: Path) -> str:
    [demonstration] = read_demonstrations(rows)
    encoded = encode_chat(tokenizer, demonstration)
    return tokenizer.decode([id for id, mask in zip(encoded.ids, encoded.mask, strict=True) if mask])


def write(tmp_path: Path, row: dict[str, Any]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


def test_the_ids_are_those_of_transformers_and_calls_are_learned_but_not_results(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    quiet = [*CHAT[:2], {**CHAT[2], "content": "at noon"}, CHAT[3]]  # typed end tokens are theirs to trip over
    as_objects = [dict(message) for message in quiet]
    as_objects[1] = {
        **quiet[1],
        "tool_calls": [{**CALL, "function": {"name": "tide", "arguments": {"port": "Ostend"}}}],
    }
    [demonstration] = read_demonstrations(write(tmp_path, {"messages": quiet, "tools": TOOLS}))
    text = theirs.apply_chat_template(as_objects, tools=TOOLS, tokenize=False)
    assert tokenizer.decode(encode_chat(tokenizer, demonstration).ids) == text
    said = learned(tokenizer, write(tmp_path, {"messages": CHAT, "tools": TOOLS}))
    assert said.count("<|im_end|>") == 2 and "noon <|im_end|>" not in said
    assert '<call>{"name": "tide", "arguments": {"port": "Ostend"}}</call><|im_end|>' in said and "At noon." in said


def test_sampling_sees_the_tools_and_the_results_that_training_saw(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    [demonstration] = read_demonstrations(write(tmp_path, {"messages": CHAT, "tools": TOOLS}))
    prompt = encode_prompt(tokenizer, demonstration.prompt)
    assert encode_chat(tokenizer, demonstration).ids[: len(prompt)] == prompt
    assert '"name": "tide"' in tokenizer.decode(prompt)


def test_a_turn_of_weight_0_that_calls_a_tool_is_context(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    chat = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
    assert learned(tokenizer, write(tmp_path, {"messages": chat})) == "At noon.<|im_end|>"


def test_our_own_template_learns_calls_and_masks_results(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["at noon the tide is high"] * 5, vocab_size=280)
    said = learned(tokenizer, write(tmp_path, {"messages": CHAT, "tools": TOOLS}))
    call = '<tool_call>\n{"name": "tide", "arguments": {"port": "Ostend"}}\n</tool_call>'
    assert said == f"{call}<|im_end|>At noon.<|im_end|>"


def test_a_template_that_drops_calls_or_tools_makes_the_row_bad_and_names_it(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["at noon the tide is high"] * 5, vocab_size=280).with_template(CHATML_OF_TEXTS)
    good = {"messages": [CHAT[0], CHAT[3]]}
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": CHAT}, good, {**good, "tools": TOOLS}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_demonstrations(path, tokenizer, last_only=False)) == 1
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match="drops a tool call"):
        load_demonstrations(path, tokenizer, last_only=False)
