"""`wuya import`: what comes in is a checkpoint of ours, and nothing is overwritten."""

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoints.test_gguf import write_gguf
from tests.models.architectures import random_ids, random_model
from wuya.checkpoints.checkpoint import load_checkpoint, load_scalar_model, save_checkpoint
from wuya.errors import CheckpointError, ConfigError
from wuya.files import sha256_file
from wuya.models.reward_model import ScalarModel
from wuya.recipes.import_model import ImportConfig, run
from wuya.tokenizer.bpe import train_tokenizer


def test_a_gguf_file_becomes_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model("llama")
    source = write_gguf(tmp_path / "model.gguf", model, "llama")
    out = run(ImportConfig(source=source, out=tmp_path / "out"))
    again, _ = load_checkpoint(out)
    ids_BT = random_ids(model.config, 1, 20)
    torch.testing.assert_close(again.eval()(ids_BT), model(ids_BT))
    assert json.loads((out / "wuya.json").read_text())["parents"]["source"]["sha256"] == sha256_file(source)
    assert f"language model: {model.config.num_parameters:,} parameters" in capsys.readouterr().out


def test_a_reward_model_stays_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ScalarModel(random_model("qwen3"))
    model.bias.fill_(2.0)
    save_checkpoint(tmp_path / "reward", model, train_tokenizer(["a b c"], vocab_size=260))
    run(ImportConfig(source=tmp_path / "reward", out=tmp_path / "out", json=True))
    assert json.loads(capsys.readouterr().out)["kind"] == "reward model"
    assert load_scalar_model(tmp_path / "out")[0].bias.item() == 2.0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        run(ImportConfig(source=tmp_path / "x", out=tmp_path / "out"))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        run(ImportConfig(source=tmp_path / "x", out=tmp_path / "new"))
    assert not (tmp_path / "new").exists()
