"""A text that stands alone is encoded as transformers encodes it: with the BOS token where the tokenizer adds one."""

import asyncio
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from tests.tokenizer.families import TEMPLATES, backends, both, save_folder
from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.checkpoints.gguf import load_gguf
from wuya.checkpoints.gguf_writer import save_gguf
from wuya.evals.likelihood import score_texts
from wuya.inference.backends.local import LocalEngine
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.tokenizer.texts import bos_processor

TEXTS = ["the crow sat on the wall", "", " caf\u00e9", "why?\n\nbecause", "<|bos|>", "a " * 5000]


def framed(name: str, folder: Path) -> Path:
    """A published folder whose post-processor writes BOS."""
    save_folder(folder, backends()[name], TEMPLATES["llama3"])
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = bos_processor("<|bos|>", backend.token_to_id("<|bos|>"))
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", list(backends()))
def test_ids_of_raw_texts_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    save_folder(tmp_path / "plain", backends()[name], TEMPLATES["llama3"])
    for folder in (tmp_path / "plain", framed(name, tmp_path / "framed")):
        ours, theirs = both(folder)
        texts = [text for text in TEXTS if text != "<|bos|>"]  # a text that spells a control token stays a text here
        assert [ours.encode_document(text) for text in texts] == [theirs(text).input_ids for text in texts]
        assert ours.encode_document("<|bos|>")[1:].count(ours.bos_id) == 0


def test_a_frame_has_two_sides_and_our_own_tokenizer_none(tmp_path: Path) -> None:
    folder = framed("byte-level", tmp_path)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    bos, eos = backend.token_to_id("<|bos|>"), backend.token_to_id("<|eos|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A <|eos|>", special_tokens=[("<|bos|>", bos), ("<|eos|>", eos)]
    )
    backend.save(str(folder / "tokenizer.json"))
    ours, theirs = both(folder)
    assert ours.frame == ([bos], [eos]) and ours.encode_document("caw") == theirs("caw").input_ids
    own = train_tokenizer(["the cat sat"] * 5, vocab_size=262)
    assert own.frame == ([], []) and own.document_start == [own.document_end_id]


def test_a_template_that_writes_bos_writes_it_once(tmp_path: Path) -> None:
    ours, theirs = both(framed("byte-level", tmp_path))
    chat = [{"role": "user", "content": "why?"}]
    ids = encode_prompt(ours, (Message("user", "why?"),))
    assert ids == theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids.count(ours.bos_id) == 1


def model_of(tokenizer: Tokenizer) -> GPT:
    torch.manual_seed(0)
    return GPT(preset("tiny", num_layers=1, model_dim=32, mlp_dim=64, num_heads=2, num_kv_heads=1, head_dim=16,
                      vocab_size=tokenizer.vocab_size, context_length=32)).eval()  # fmt: skip


def test_bits_per_byte_are_those_of_the_text_after_bos(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(framed("byte-level", tmp_path))
    model, text = model_of(tokenizer), "the crow sat on the wall"
    ids = torch.tensor([tokenizer.encode_document(text)])
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model.logits(model(ids[:, :-1]))[0], ids[0, 1:], reduction="sum")
    [score] = score_texts(model, tokenizer, [text], context_length=32)
    assert score.num_bytes == len(text) and score.nats == pytest.approx(float(expected), rel=1e-4)


def test_gguf_files_say_whether_texts_begin_with_bos(tmp_path: Path) -> None:
    save_folder(tmp_path / "plain", backends()["byte-level"], TEMPLATES["llama3"])
    for folder in (tmp_path / "plain", framed("byte-level", tmp_path / "framed")):
        backend = Backend.from_file(str(folder / "tokenizer.json"))
        own = train_tokenizer(["the crow sat"] * 5, vocab_size=262)
        spec = Backend.from_str(own.to_json())
        backend.pre_tokenizer = spec.pre_tokenizer
        backend.save(str(folder / "tokenizer.json"))
        tokenizer = Tokenizer.load(folder)
        save_gguf(folder / "m.gguf", model_of(tokenizer), tokenizer)
        again = load_gguf(folder / "m.gguf")[1]
        assert again.frame == tokenizer.frame
        assert again.encode_document("the crow") == tokenizer.encode_document("the crow")


def test_what_the_api_continues_begins_with_bos(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(framed("byte-level", tmp_path / "tokenizer"))
    save_checkpoint(tmp_path / "m", model_of(tokenizer), tokenizer, recipe="test")

    async def ids_of(text: str) -> list[int]:
        engine = LocalEngine({"m": str(tmp_path / "m")})
        await engine.start()
        try:
            return await engine.tokenize("m", text)
        finally:
            await engine.close()

    assert asyncio.run(ids_of("caw")) == [tokenizer.bos_id, *tokenizer.encode("caw")]
