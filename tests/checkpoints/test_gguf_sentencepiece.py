"""SentencePiece tokenizers in GGUF files: the ids of llama.cpp on the same file, the texts they came from."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from gguf import GGUFWriter, TokenType

from tests.checkpoints.llama_cpp import AVAILABLE, text_ids
from tests.checkpoints.test_gguf_writer import IN_LLAMA_CPP
from tests.tokenizer.families import backends
from wuya.checkpoints import gguf_writer
from wuya.checkpoints.checkpoint import load_checkpoint
from wuya.checkpoints.gguf_writer import save_gguf
from wuya.errors import CheckpointError
from wuya.models.gpt import GPT
from wuya.tokenizer.bpe import Tokenizer

TEXTS = [
    "the crow sat on the wall and said caw", "a crow is a bird;  birds   sing", " caf\u00e9", "why?\n\nbecause", "",
    "\u6211\u662f\u4e4c\u9e26 \U0001f426", "<s>typed</s>", "crow<tool>crow", "thethethe onon", "\ttab  ", "<0x41>",
]  # fmt: skip


def pieces() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types as SentencePiece's trainer leaves them: merged pieces by rank, letters last."""
    spec = json.loads(backends()["llama 2"].to_str())["model"]
    ranks = {"".join(merge): n for n, merge in enumerate(spec["merges"])}
    tokens = sorted(spec["vocab"], key=spec["vocab"].__getitem__)
    scores = [-float(ranks.get(token, 10_000 + id)) for id, token in enumerate(tokens)]
    types = [
        TokenType.UNKNOWN if token == "<unk>" else TokenType.BYTE if token.startswith("<0x") else TokenType.NORMAL
        for token in tokens
    ]
    tokens += ["<s>", "</s>", "<tool>", "[PAD]"]
    types += [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED]
    return tokens, [*scores, 0.0, 0.0, 0.0, 0.0], types


def write(path: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Path:
    """A Llama model's file with such a tokenizer."""
    tokens, scores, types = pieces()

    def add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_unk_token_id(tokens.index("<unk>"))
        writer.add_bos_token_id(tokens.index("<s>"))
        writer.add_eos_token_id(int(str(changes.get("eos", tokens.index("</s>")))))
        if "space" in changes:
            writer.add_add_space_prefix(bool(changes["space"]))
        if "bos" in changes:
            writer.add_add_bos_token(bool(changes["bos"]))

    with monkeypatch.context() as patch:
        patch.setattr(gguf_writer, "_add_tokenizer", add_tokenizer)
        model = GPT(replace(IN_LLAMA_CPP["llama"], vocab_size=len(tokens)))
        save_gguf(path, model, cast(Tokenizer, SimpleNamespace(vocab_size=len(tokens))))
    return path


@pytest.mark.skipif(not AVAILABLE, reason="needs `pip install xllamacpp`")
@pytest.mark.parametrize("changes", [{}, {"space": False}, {"bos": False}], ids=["llama", "gemma", "no bos"])
def test_ids_are_those_of_llama_cpp_and_give_the_text_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    path = write(tmp_path / "m.gguf", monkeypatch, **changes)
    tokenizer = load_checkpoint(path)[1]
    theirs = text_ids(str(path), TEXTS)
    assert [tokenizer.encode_document(text) for text in TEXTS] == theirs
    for text in TEXTS:
        if "<tool>" in text:
            continue  # llama.cpp, too, begins anew with a space behind it
        assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.save(tmp_path / "folder")
    assert [Tokenizer.load(tmp_path / "folder").encode_document(text) for text in TEXTS] == theirs


def test_the_padding_token_is_none_and_control_tokens_are_not_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_checkpoint(write(tmp_path / "m.gguf", monkeypatch))[1]
    assert tokenizer.frame == ([tokenizer.bos_id], []) and tokenizer.eos_token == "</s>"
    assert tokenizer.bos_id not in tokenizer.encode("<s>")
    assert "[PAD]" not in json.loads(tokenizer.to_json())["model"]["vocab"]


def test_an_end_that_is_no_token_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id"):
        load_checkpoint(write(tmp_path / "m.gguf", monkeypatch, eos=10_000))
