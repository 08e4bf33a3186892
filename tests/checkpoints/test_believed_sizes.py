"""Sizes in a file are claims: one that its bytes cannot bear is refused before memory is taken for it."""

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.errors import WuyaError
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

HUGE = (10**9, 2**31 - 1, 2**40)


def change(file: Path, edit: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))


def saved(folder: Path, name: str = "tiny") -> Path:
    tokenizer = train_tokenizer(["the cat sat on the mat"], vocab_size=270)
    model = GPT(preset(name, vocab_size=tokenizer.vocab_size, num_layers=2, model_dim=32, context_length=16))
    save_checkpoint(folder, model, tokenizer)
    return folder


def refused(folder: Path) -> str:
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(WuyaError) as caught:
        load_checkpoint(folder)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - begun < 10 and most < 200 << 20
    return str(caught.value)


SIZES = ("num_hidden_layers", "max_position_embeddings", "vocab_size", "hidden_size", "intermediate_size",
         "num_attention_heads", "num_key_value_heads", "head_dim")  # fmt: skip


@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize("field", SIZES)
def test_a_size_of_config_json_beyond_the_file_is_refused(field: str, huge: int, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    assert field in json.loads((folder / "config.json").read_text())
    change(folder / "config.json", {field: huge})
    refused(folder)


def test_a_context_of_millions_beside_a_small_model_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    change(folder / "config.json", {"max_position_embeddings": 2**24})
    assert "tables of rotary positions" in refused(folder)


@pytest.mark.parametrize("value", [*HUGE, "many", None, True])
@pytest.mark.parametrize("field", ["num_layers", "context_length", "vocab_size", "model_dim", "mlp_dim"])
def test_a_size_of_our_own_form_beyond_the_file_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "speedrun")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "wuya"
    change(folder / "config.json", {field: value})
    refused(folder)


def test_a_token_with_an_id_of_a_billion_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last] = 10**9
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WuyaError, match="far beyond their number"):
        Tokenizer.load(folder)
