"""`wuya export`: the run's newest checkpoint as a Hugging Face folder, or the reason why there is none."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.architectures import random_ids, random_model
from wuya.checkpoints.checkpoint import load_checkpoint, load_scalar_model, save_checkpoint
from wuya.errors import ConfigError
from wuya.models.reward_model import ScalarModel
from wuya.recipes.export_model import ExportConfig, run
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["a b c"], vocab_size=260)


def test_a_run_is_exported_from_its_newest_step(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for step, name in (("step_000001", "llama"), ("step_000002", "qwen3")):
        save_checkpoint(tmp_path / "run" / "checkpoints" / step, random_model(name), tokenizer)
    (tmp_path / "run" / "checkpoints" / "step_000002" / "resume").mkdir()
    out = run(ExportConfig(checkpoint=tmp_path / "run", out=tmp_path / "out", dtype="bfloat16"))
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert not (out / "resume").exists()


def test_the_speedrun_preset_is_refused_with_the_reason(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_checkpoint(tmp_path / "model", random_model("speedrun"), tokenizer)
    with pytest.raises(ConfigError, match="softcap"):
        run(ExportConfig(checkpoint=tmp_path / "model", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_name_that_ends_in_gguf_makes_one_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_checkpoint(tmp_path / "model", random_model("qwen3"), tokenizer)
    out = run(ExportConfig(checkpoint=tmp_path / "model", out=tmp_path / "a" / "model.gguf", dtype="q8_0"))
    assert load_checkpoint(out)[0].config.qk_norm
    with pytest.raises(ConfigError, match="exists already"):
        run(ExportConfig(checkpoint=tmp_path / "model", out=out))
    with pytest.raises(ConfigError, match="only GGUF"):
        run(ExportConfig(checkpoint=tmp_path / "model", out=tmp_path / "b", dtype="q8_0"))
    save_checkpoint(tmp_path / "reward", ScalarModel(random_model("qwen3")), tokenizer)
    with pytest.raises(ConfigError, match="reward model"):
        run(ExportConfig(checkpoint=tmp_path / "reward", out=tmp_path / "reward.gguf"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gpt1", "gpt2", "qwen3", "gemma3"])
def test_a_reward_model_scores_in_transformers_as_here(
    name: str,
    tmp_path: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With LayerNorm at once; with RMSNorm after the line that the folder's README.md gives, which a warning names."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    model = ScalarModel(random_model(name)).eval()
    model.bias.fill_(0.5)
    save_checkpoint(tmp_path / "reward", model, tokenizer)
    run(ExportConfig(checkpoint=tmp_path / "reward", out=tmp_path / "out"))
    logging.enable_propagation()
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    if name in ("qwen3", "gemma3"):
        assert "README.md" in capsys.readouterr().err and "score.bias" in caplog.text
        line = next(line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if "Parameter" in line)
        exec(line, {"model": theirs, "torch": torch})
    ids_BT = random_ids(model.trunk.config, 3, 20).clamp(min=1)
    again, _ = load_scalar_model(tmp_path / "out")
    with torch.no_grad():
        expected_B = model.scores(ids_BT, torch.tensor([19] * 3))
        torch.testing.assert_close(theirs(ids_BT).logits[:, 0], expected_B, atol=1e-4, rtol=0)
        torch.testing.assert_close(again.eval().scores(ids_BT, torch.tensor([19] * 3)), expected_B, atol=1e-4, rtol=0)


def test_the_bias_of_a_reward_model_is_said(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScalarModel(random_model("qwen3"))
    model.bias.fill_(0.5)
    save_checkpoint(tmp_path / "reward", model, tokenizer)
    run(ExportConfig(checkpoint=tmp_path / "reward", out=tmp_path / "out", json=True))
    captured = capsys.readouterr()
    assert "+0.5000" in captured.err
    assert json.loads(captured.out)["architecture"] == "Qwen3ForSequenceClassification"
