"""The system prompt of a checkpoint, in the chat template itself."""

from pathlib import Path

import pytest

from tests.tokenizer.families import TEMPLATES, backends, both, save_folder
from wuya.errors import ConfigError
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.tokenizer.system_prompt import with_system_prompt

PROMPT = 'Say "yes"\n\\ or \u4e2d \U0001f426 {{ no }}'
USER, SYSTEM = Message("user", "Hi"), Message("system", PROMPT)


@pytest.mark.parametrize("name", ["generation", "qwen2.5", "llama3", "phi3"])
def test_a_chat_without_a_system_message_gets_the_checkpoints(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    save_folder(tmp_path / "raw", backends()["byte-level"], TEMPLATES[name])
    plain = Tokenizer.load(tmp_path / "raw")
    ours = with_system_prompt(plain, PROMPT)
    assert plain.system_prompt == ("I am Vendor." if name == "qwen2.5" else "")
    assert ours.system_prompt == PROMPT
    assert encode_prompt(ours, [USER]) == encode_prompt(plain, [SYSTEM, USER])
    given = [Message("system", "Other."), USER]
    assert encode_prompt(ours, given) == encode_prompt(plain, given)
    again = with_system_prompt(ours, "New.")
    assert again.system_prompt == "New." and again.chat_template.count("New.") == 1
    assert with_system_prompt(ours, "").chat_template == ours.chat_template
    ours.save(tmp_path / "saved")  # whoever reads the folder uses it, too
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    rows = [{"role": "user", "content": "Hi"}]
    found = theirs.apply_chat_template(rows, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert found == encode_prompt(Tokenizer.load(tmp_path / "saved"), [USER])


def test_a_template_without_a_place_for_it_is_named(tmp_path: Path) -> None:
    save_folder(tmp_path, backends()["byte-level"], TEMPLATES["gemma"])
    ours, _ = both(tmp_path)
    with pytest.raises(ConfigError, match=r"chat_template\.jinja` has no place for a system message"):
        with_system_prompt(ours, "Be kind.")
