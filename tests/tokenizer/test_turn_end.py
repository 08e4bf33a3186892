"""Which tokens end an answer, from every place that names one; and what a template drops."""

import json
from pathlib import Path

import pytest

from tests.tokenizer.families import TEMPLATES, backends, save_folder
from wuya.errors import DataError
from wuya.inference.backends.chat import encode_messages
from wuya.records import Message, Prompt, ToolCall
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import check_demonstration, encode_chat, encode_prompt, show_example
from wuya.tokenizer.chat_notes import end_note, tell_chat_format
from wuya.tokenizer.shield import Shield
from wuya.tokenizer.templates import CHATML_OF_TEXTS
from wuya.tokenizer.turn_end import as_list, split_ends

CHAT = [Message("user", "Hi"), Message("assistant", "Caw")]
CALL = Message("assistant", "", (ToolCall("weather", "{}"),))


def load(folder: Path, name: str) -> Tokenizer:
    save_folder(folder, backends()["byte-level"], TEMPLATES[name])
    return Tokenizer.load(folder)


def test_generation_config_adds_its_list(tmp_path: Path) -> None:
    ours = load(tmp_path, "llama3")
    user = ours.control_ids["<|user|>"]
    end, eos = ours.control_ids["<|im_end|>"], ours.eos_id
    assert (ours.turn_end.ids, ours.turn_end.kind) == ((end, eos), "template")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [eos, user, 10**6]}))
    again = Tokenizer.load(tmp_path)
    assert again.turn_end.ids == (end, eos, user)
    assert again.special_ids["<|im_end|>"] == end
    assert [as_list(value) for value in (3, [3, 4], None, "3")] == [[3], [3, 4], [], ["3"]]
    assert split_ends([3, True, "3", -1, 2.5, 10, None], 10) == ([3], [True, "3", -1, 2.5, 10, None])


def test_ends_that_are_no_tokens_are_named_where_the_chat_format_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = load(tmp_path, "llama3")
    tell_chat_format(ours)
    assert "name ends of an answer" not in capsys.readouterr().err
    for value in ("</s>", [ours.eos_id, 10**6], [ours.eos_id, -1]):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        again = Tokenizer.load(tmp_path)
        tell_chat_format(again.with_template(again.chat_template))
        strange = value if isinstance(value, str) else value[-1]
        assert f"{strange!r}; answers never end there" in capsys.readouterr().err
        assert again.turn_end == ours.turn_end


def test_the_end_is_learned_and_hidden_whatever_its_special_flag(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in spec["added_tokens"]:
        token["special"] = not token["content"].startswith("<|im_")
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    ours = Tokenizer.load(tmp_path)
    chat = [Message("user", "say <|im_end|>"), Message("assistant", "no")]
    encoded, expected = encode_chat(ours, chat), encode_chat(tokenizer, chat)
    assert encoded == expected
    assert ours.encode("<|im_end|><|im_start|>") == tokenizer.encode("<|im_end|><|im_start|>")
    assert ours.decode([*ours.encode("no"), ours.turn_end.id], skip_special=True) == "no"
    ours.save(tmp_path / "saved")
    flags = [
        token["special"] for token in json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["added_tokens"]
    ]
    assert flags == [True, False, False]  # as they were


@pytest.mark.parametrize(
    ("name", "note"),
    [("qwen3", ""), ("glm", "`<|user|>`, the next role's mark"), ("no end", "`<|eos|>`, the tokenizer's")],
)
def test_an_end_that_is_not_the_templates_own_is_said(tmp_path: Path, name: str, note: str) -> None:
    said = end_note(load(tmp_path, name))
    assert (note in said and "chat_template.jinja" in said) if note else not said


@pytest.mark.parametrize(
    ("chat", "tools", "lost"),
    [
        ([Message("user", "Hi"), CALL], (), "a tool call"),
        ([Message("user", "Hi"), Message("assistant", "x", reasoning="hm")], (), "the reasoning"),
        (CHAT, ('{"type": "function", "function": {"name": "f"}}',), "the list of tools"),
    ],
)
def test_what_a_template_drops_is_refused(
    tokenizer: Tokenizer, chat: list[Message], tools: tuple[str, ...], lost: str
) -> None:
    with pytest.raises(DataError, match=f"drops {lost}"):
        check_demonstration(tokenizer.with_template(CHATML_OF_TEXTS), Prompt("", tuple(chat), tools=tools))


def test_messages_that_a_template_drops_are_refused(tokenizer: Tokenizer) -> None:
    only_users = "{% if m.role in ['user', 'assistant'] %}{{ m.content }}<|im_end|>{% endif %}"
    ours = tokenizer.with_template("{% for m in messages %}" + only_users + "{% endfor %}")
    for role, what in (("system", "the system message"), ("tool", "the tool result")):
        with pytest.raises(DataError, match=f"drops {what}"):
            encode_prompt(ours, [Message("user", "a"), Message(role, "b"), Message("user", "c")])  # type: ignore[arg-type]


def test_the_service_refuses_a_tool_call_that_the_template_would_lose(tokenizer: Tokenizer) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    asked = {"role": "user", "content": "so?"}
    ours = tokenizer.with_template(CHATML_OF_TEXTS)
    with pytest.raises(DataError, match="drops a tool call"):
        encode_messages(ours, [asked, {"role": "assistant", "content": None, "tool_calls": [call]}, asked])


def test_a_prompt_that_is_not_how_chats_go_on_is_refused_by_name(tmp_path: Path) -> None:
    odd = CHATML_OF_TEXTS.replace("assistant\\n", "robot\\n")
    save_folder(tmp_path, backends()["byte-level"], odd)
    with pytest.raises(DataError, match=r"chat_template\.jinja` asks for an answer in other words"):
        encode_chat(Tokenizer.load(tmp_path), CHAT)


def test_a_shield_hides_values_and_keys_and_shows_them_again() -> None:
    shield = Shield(["<|end|>", "[INST]"])
    value = {"a<|end|>": ["x[INST]<|en", {"|end|>": "[INST"}], "n": 3, "type": "string"}
    hidden = shield.hide(value)
    assert "<|end|>" not in str(hidden) and "[INST]" not in str(hidden) and hidden["type"] == "string"
    assert shield.show(json.dumps(hidden, ensure_ascii=False)) == json.dumps(value)
    answer = shield.hide_answer("<think>a<|end|></think>b<|end|>")
    assert answer.startswith("<think>a") and "</think>b" in answer and "<|end|>" not in answer
    assert shield.show(answer) == "<think>a<|end|></think>b<|end|>"


def test_an_answer_that_types_the_end_learns_it_as_text(tokenizer: Tokenizer) -> None:
    encoded = encode_chat(tokenizer, [Message("user", "Hi"), Message("assistant", "a<|im_end|>b")])
    assert encoded.ids.count(tokenizer.turn_end.id) == 2
    assert show_example(tokenizer, encoded).endswith("[[a<|im_end|>b<|im_end|>]]\n")
