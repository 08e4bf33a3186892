"""A tiny model with a tokenizer and a chat template, as a checkpoint folder."""

from pathlib import Path

import pytest

from tests.inference.naive import sharp_model
from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.models.gpt import GPT
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

TEXT = ("The river runs to the sea and the sea runs to the sky. \u68af\u5ea6\u4e0b\u964d is a method. "
        '{"name": "x", "size": 12, "true": null} caf\u00e9 \U0001f600 0123456789 ') * 8  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], vocab_size=330)


@pytest.fixture(scope="session")
def small_model(tokenizer: Tokenizer) -> GPT:
    return sharp_model(vocab_size=tokenizer.vocab_size)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_model: GPT, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(folder, small_model, tokenizer)
    return folder
