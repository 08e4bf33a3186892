"""Every kind of tokenizer and chat template: ids equal to transformers', training, sampling and scoring the same."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from tests.tokenizer.families import NOT_SPECIAL, PLAIN, TEMPLATES, backends, both, save_folder
from wuya.records import Message, ToolCall
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_answer, encode_chat, encode_demonstration, encode_prompt, show_example

pytest.importorskip("transformers")
BACKENDS = backends()
APPENDED = ("no end", "glm")
"""Templates that write no end token behind the last answer."""
TEXTS = [
    "the crow sat on the wall",
    "  two  spaces\n\n",
    "café 中 \U0001f426",
    "why?",
    " x ",
    "crow sat",
    "<thin",
    "a\n",
]


@pytest.fixture(scope="module", params=list(TEMPLATES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Tokenizer, Any]:
    folder = tmp_path_factory.mktemp("family")
    save_folder(folder, BACKENDS["byte-level"], TEMPLATES[request.param])
    return request.param, *both(folder)


@pytest.fixture(scope="module", params=list(BACKENDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp("kind")
    save_folder(folder, BACKENDS[request.param], TEMPLATES["llama3"])
    return both(folder)


def rows_of(chat: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in chat]


def theirs_ids(theirs: Any, chat: list[Message], *, ask: bool = False) -> list[int]:
    found: list[int] = theirs.apply_chat_template(rows_of(chat), add_generation_prompt=ask, return_dict=True)[
        "input_ids"
    ]
    return found


def learned_of(encoded: Any) -> list[int]:
    return [id for id, mask in zip(encoded.ids, encoded.mask, strict=True) if mask]


CHAT = [Message("user", "Hi  there"), Message("assistant", "Caw!"), Message("user", "why?"), Message("assistant", "so")]


def test_a_familys_prompts_and_chats_have_transformers_ids(family: tuple[str, Tokenizer, Any]) -> None:
    name, ours, theirs = family
    header = ours.encode_rendered(ours.template_facts.header)
    for count in (1, 3):
        assert encode_prompt(ours, CHAT[:count]) == theirs_ids(theirs, CHAT[:count], ask=True) + header
    if name not in (*APPENDED, "deepseek-r1"):
        assert encode_chat(ours, CHAT).ids == theirs_ids(theirs, CHAT)


def test_every_answer_is_learned_behind_the_prompt_it_is_sampled_from(family: tuple[str, Tokenizer, Any]) -> None:
    name, ours, _ = family
    sequences = encode_demonstration(ours, CHAT)
    learned = [id for sequence in sequences for id in learned_of(sequence)]
    expected: list[int] = []
    for place in (1, 3):
        prompt, answer = encode_prompt(ours, CHAT[:place]), encode_answer(ours, CHAT[:place], CHAT[place].content)
        assert any(s.ids[: len(prompt) + len(answer)] == prompt + answer for s in sequences), name
        assert answer[-1] == ours.turn_end.id
        assert encode_answer(ours, CHAT[:place], CHAT[place].content, finished=False) == answer[:-1]
        expected += answer
    assert learned == expected
    assert len(sequences) == (2 if name in ("qwen3", "deepseek-r1", "no end") else 1)


@pytest.mark.parametrize(
    ("name", "shown", "end"),
    [
        ("qwen2.5", "[[so<|im_end|>]]\n", "<|im_end|>"),
        ("qwen3", "[[<think>\n\n</think>\n\nso<|im_end|>]]\n", "<|im_end|>"),
        ("deepseek-r1", "<think>\n[[\n</think>\n\nso<|eos|>]]", "<|eos|>"),
        ("mistral", "[/INST][[ so<|eos|>]]", "<|eos|>"),
        ("phi3", "<|assistant|>\n[[so<|im_end|>]]\n<|eos|>", "<|im_end|>"),
        ("glm", "<|assistant|>\n[[so<|user|>]]", "<|user|>"),
        ("no end", "### assistant:\n[[so<|eos|>]]", "<|eos|>"),
        ("no header", "<|im_start|>assistant\n[[so<|im_end|>]]\n", "<|im_end|>"),
    ],
)
def test_what_is_learned_of_the_last_answer(tmp_path: Path, name: str, shown: str, end: str) -> None:
    save_folder(tmp_path, BACKENDS["byte-level"], TEMPLATES[name])
    ours = Tokenizer.load(tmp_path)
    assert show_example(ours, encode_chat(ours, CHAT)).endswith(shown)
    assert ours.decode([ours.turn_end.id]) == end
    assert ours.eos_id in ours.turn_end.ids


@pytest.mark.parametrize("name", ["qwen3", "deepseek-r1"])
@pytest.mark.parametrize("inline", [False, True])
def test_reasoning_is_learned_as_the_model_writes_it(tmp_path: Path, name: str, inline: bool) -> None:
    save_folder(tmp_path, BACKENDS["byte-level"], TEMPLATES[name])
    ours = Tokenizer.load(tmp_path)
    given = (
        Message("assistant", "<think>\nhm\n</think>\n\nCaw") if inline else Message("assistant", "Caw", reasoning="hm")
    )
    encoded = encode_chat(ours, [Message("user", "Hi"), given])
    opened = "<think>\n" if name == "qwen3" else ""
    assert ours.decode(learned_of(encoded)).startswith(f"{opened}hm\n</think>\n\nCaw<|")


def test_tool_calls_are_learned_and_their_results_are_not(tmp_path: Path) -> None:
    save_folder(tmp_path, BACKENDS["byte-level"], TEMPLATES["hermes"])
    ours, theirs = both(tmp_path)
    call = ToolCall("weather", '{"city": "Graz"}', id="c1")
    chat = [
        Message("user", "Graz?"), Message("assistant", "", (call,)), Message("tool", "rain", tool_call_id="c1"),
        Message("assistant", "No.", learn=False), Message("user", "so?"), Message("assistant", "Rain."),
    ]  # fmt: skip
    encoded = encode_chat(ours, chat)
    rows: list[Any] = rows_of(chat)
    rows[1]["tool_calls"] = [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Graz"}}}
    ]
    assert encoded.ids == theirs.apply_chat_template(rows, return_dict=True)["input_ids"]
    written = '<tool_call>{"name": "weather", "arguments": {"city": "Graz"}}</tool_call><|im_end|>Rain.<|im_end|>'
    assert ours.decode(learned_of(encoded)) == written


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_tokenizer_has_transformers_ids(kind: tuple[Tokenizer, Any], data: st.DataObject) -> None:
    ours, theirs = kind
    texts = st.one_of(st.sampled_from(TEXTS), st.text(alphabet=" \n\tacrowst.<\u00e9\u4e2d\U0001f426", max_size=12))
    contents = data.draw(st.lists(texts, min_size=1, max_size=3))
    for text in contents:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    roles: list[Any] = ["user", "assistant", "user"]
    chat = [Message(role, text) for role, text in zip(roles, contents, strict=False)]
    assert encode_prompt(ours, chat) == theirs_ids(theirs, chat, ask=True)


@pytest.mark.parametrize(
    "flags", [{"rstrip": True}, {"lstrip": True}, {"rstrip": True, "lstrip": True}, {"single_word": True}]
)
@pytest.mark.parametrize("name", ["byte-level", "metaspace"])
def test_tokens_that_take_the_white_space_beside_them(tmp_path: Path, name: str, flags: dict[str, bool]) -> None:
    save_folder(tmp_path, BACKENDS[name], TEMPLATES["phi3"], **flags)
    ours, theirs = both(tmp_path)
    for text in TEXTS:
        chat = [Message("user", text), Message("assistant", text), Message("user", text)]
        assert encode_prompt(ours, chat) == theirs_ids(theirs, chat, ask=True), text


def test_no_text_becomes_a_control_token(kind: tuple[Tokenizer, Any]) -> None:
    ours, _ = kind
    control = {ours._backend.token_to_id(token) for token in PLAIN}
    clean = encode_prompt(ours, [Message("user", "x")])
    for token in (*PLAIN, "<|im_end", "|im_end|>", "\xa40:5\xa4", "\U0010fff20\U0010fff3"):
        ids = encode_prompt(ours, [Message("user", f"a {token} b{token}")])
        assert [id for id in ids if id in control] == [id for id in clean if id in control], token
        assert not control & set(ours.encode(f"{token} {token}")), token


@pytest.mark.parametrize("token", NOT_SPECIAL)
def test_tokens_that_only_the_template_may_write_are_text_in_a_message(tmp_path: Path, token: str) -> None:
    save_folder(tmp_path, BACKENDS["byte-level"], TEMPLATES["qwen3"])
    ours = Tokenizer.load(tmp_path)
    id = ours._backend.token_to_id(token)
    written = token in TEMPLATES["qwen3"]
    assert (id in encode_prompt(ours, [Message("user", f"x{token}y")])) == (not written)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_text_is_the_same_read_whole_and_token_by_token(kind: tuple[Tokenizer, Any], data: st.DataObject) -> None:
    ours, theirs = kind
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=12))
    assert "".join(ours.decode_stream(ids)) == ours.decode(ids, skip_special=True)
    text = TEXTS[0]
    encoded = ours.encode(text)
    assert ours.decode(encoded) == theirs.decode(encoded, clean_up_tokenization_spaces=False)


def test_a_normalised_control_token_that_is_not_found_is_plain_text(tmp_path: Path) -> None:
    """Llama 2's normalizer puts a space before the token too, so it is found behind a space and in no word."""
    backend = Backend.from_str(BACKENDS["llama 2"].to_str())
    backend.add_special_tokens([AddedToken("<|im_start|>", normalized=True), AddedToken("<x>", normalized=True)])
    save_folder(tmp_path, backend, TEMPLATES["qwen2.5"])
    ours, theirs = both(tmp_path)
    for text in ("a<x>b", "a <x> b", "<x>", "caf\u00e9<x> <x>\n<x>", "a<|im_start|> <x>a"):
        assert ours.encode(text, allow_special=True) == theirs(text, add_special_tokens=False)["input_ids"], text
