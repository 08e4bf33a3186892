"""Folders of other architectures: what is refused, in words, and what is written back."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Tokenizer

from tests.models.wrapped_zoo import random_wrapped
from wuya.checkpoints.checkpoint import load_checkpoint, load_scalar_model, save_checkpoint
from wuya.errors import CheckpointError, DataError, UnsupportedModel
from wuya.models.reward_model import ScalarModel
from wuya.models.wrapped import TransformersModel
from wuya.tokenizer.bpe import Tokenizer, train_tokenizer

TEXT = "the cat sat on the mat, and the dog sang: caf\u00e9 \u4f60\u597d"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT] * 20, vocab_size=300)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    random_wrapped("gpt_neox").save_pretrained(tmp_path / "neox")
    tokenizer.save(tmp_path / "neox")
    return tmp_path / "neox"


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@torch.no_grad()
def test_a_saved_model_and_its_reward_model_come_back(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_checkpoint(folder)
    assert isinstance(model, TransformersModel) and model.config.family == "gpt_neox"
    save_checkpoint(tmp_path / "again", model, tokenizer, recipe="test", parents={"base": folder})
    again, _ = load_checkpoint(tmp_path / "again")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    provenance = json.loads((tmp_path / "again" / "wuya.json").read_text())
    assert provenance["recipe"] == "test" and len(provenance["parents"]["base"]["sha256"]) == 64
    scalar = ScalarModel(model)
    scalar.bias.fill_(0.25)
    save_checkpoint(tmp_path / "rm", scalar, tokenizer)
    loaded, _ = load_scalar_model(tmp_path / "rm")
    ids, last = torch.randint(3, 300, (2, 9)), torch.tensor([8, 5])
    torch.testing.assert_close(loaded.scores(ids, last), scalar.scores(ids, last))
    assert float(loaded.bias) == 0.25


def test_what_only_our_decoder_does_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    from wuya.recipes import export_model, plan

    with pytest.raises(UnsupportedModel, match="Export to GGUF works with the families"):
        export_model.run(export_model.ExportConfig(checkpoint=folder, out=tmp_path / "model.gguf"))
    with pytest.raises(UnsupportedModel, match="`wuya plan` counts the families"):
        plan.find_model(str(folder))
    out = export_model.run(export_model.ExportConfig(checkpoint=folder, out=tmp_path / "exported", dtype="bfloat16"))
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16


def test_bf16_weights_stay_bf16(folder: Path) -> None:
    model, _ = load_checkpoint(folder, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and isinstance(model, TransformersModel)
    assert model.config.packs and model.config.cache_layers
    assert model.logits(model(torch.tensor([[5, 6, 7]]))).dtype == torch.float32


def test_weights_that_are_missing_left_over_or_damaged_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        load_checkpoint(folder)
    save_file(tensors | {"v_head.weight": torch.ones(2)}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"without a place v_head\.weight"):
        load_checkpoint(folder)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)


def test_python_code_in_a_folder_is_never_run(folder: Path) -> None:
    (folder / "modeling_x.py").write_text("raise SystemExit('it ran')\n")
    change_config(
        folder, model_type="brand_new", auto_map={"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.Y"}
    )
    with pytest.raises(UnsupportedModel, match="neither wuya's decoder nor transformers") as caught:
        load_checkpoint(folder)
    assert "never run" in str(caught.value) and "--upstream" in str(caught.value)


def test_python_code_of_a_tokenizer_is_never_run(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenization_x.py").write_text("raise SystemExit('it ran')\n")
    (folder / "vocab.txt").write_text("a\n")
    settings = {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["tokenization_x.X", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="its own Python code is never run"):
        load_checkpoint(folder)


def test_pickles_and_quantised_weights_are_refused(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(CheckpointError, match="are quantised"):
        load_checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        load_checkpoint(folder)


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnsupportedModel, match=r"needs the package transformers") as caught:
        load_checkpoint(folder)
    assert "wuya[hf]" in str(caught.value)


def test_a_tokenizer_in_its_older_files_is_converted(folder: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """OPT and GPT-2 were published with vocab.json and merges.txt alone."""
    model = json.loads(tokenizer.to_json())["model"]
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text(json.dumps(tokenizer.special_ids | model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    _, ours = load_checkpoint(folder)
    theirs = GPT2Tokenizer.from_pretrained(folder)
    assert ours.encode(TEXT) == theirs(TEXT)["input_ids"]
    save_checkpoint(tmp_path / "saved", load_checkpoint(folder)[0], ours)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(TEXT)["input_ids"] == ours.encode(TEXT)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), torch.nn.Module)
