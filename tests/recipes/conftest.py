"""A tokenizer, shards and chats so small that a whole training run takes a second."""

import json
from pathlib import Path

import numpy as np
import pytest

from wuya.data.shards import write_shards
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

TEXT = "the cat sat on the mat and the dog sat on the log while the bird sang a song to the sun. "
ANSWERS = {"cat": "mat", "dog": "log", "bird": "song", "sun": "sky"}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT * 20], vocab_size=300)


@pytest.fixture
def corpus(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """`train` and `validation` shards, `tokenizer` and `demonstrations.jsonl` in one folder."""
    tokenizer.save(tmp_path / "tokenizer")
    for name, copies in (("train", 60), ("validation", 8)):
        ids = np.array([*tokenizer.encode(TEXT), tokenizer.document_end_id] * copies)
        write_shards(tmp_path / name, [ids], vocab_size=tokenizer.vocab_size)
    rows = [
        {"messages": [{"role": "user", "content": f"the {word}"}, {"role": "assistant", "content": f"the {answer}"}]}
        for word, answer in ANSWERS.items()
    ]
    (tmp_path / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    return tmp_path


@pytest.fixture
def tiny_model() -> dict[str, int]:
    """Fields of a model of 28,000 parameters."""
    return {"num_layers": 2, "model_dim": 32, "mlp_dim": 64, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
