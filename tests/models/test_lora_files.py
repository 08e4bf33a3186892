"""lora_files.py: adapters to disk and back, and to and from Hugging Face PEFT."""

import json
from pathlib import Path

import pytest
import torch

from tests.models.test_lora import IDS, randomise, small_model
from wuya.errors import CheckpointError
from wuya.models.lora import add_lora, use_adapter
from wuya.models.lora_files import load_adapter, save_adapter


@pytest.mark.parametrize("name", ["tiny", "gpt2-124m"])
@torch.no_grad()
def test_an_adapter_comes_back_from_disk(tmp_path: Path, name: str) -> None:
    model = small_model(name)
    add_lora(model, rank=4, alpha=8, name="policy")
    randomise(model, "policy")
    save_adapter(tmp_path / "adapter", model, "policy")
    again = small_model(name)
    base = again(IDS)
    load_adapter(again, tmp_path / "adapter", name="loaded")
    assert torch.equal(again(IDS), model(IDS))
    with use_adapter(again, None):
        assert torch.equal(again(IDS), base)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tiny", "gpt2-124m"])
@torch.no_grad()
def test_peft_computes_the_same_from_our_files_and_we_from_theirs(tmp_path: Path, name: str) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoConfig, AutoModelForCausalLM

    from wuya.models.pretrained import config_to_hf, state_to_hf

    model = small_model(name)
    hf = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config_to_hf(model.config, scalar=False, eos_id=0, pad_id=0))
    ).eval()
    hf.load_state_dict(state_to_hf(model.config, model.state_dict(), scalar=False), strict=False)
    add_lora(model, rank=4, alpha=8, name="policy")
    randomise(model, "policy")
    save_adapter(tmp_path / "ours", model, "policy")
    theirs = peft.PeftModel.from_pretrained(hf, tmp_path / "ours").eval()
    assert torch.allclose(theirs(IDS).logits, model.logits(model(IDS)), atol=1e-4)

    targets = ["q_proj", "v_proj", "up_proj"] if name == "tiny" else ["c_attn", "c_fc"]  # not all parts of the fused
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets, fan_in_fan_out=name != "tiny")
    other = peft.get_peft_model(theirs.unload(), config).eval()
    for key, parameter in other.named_parameters():
        if "lora_" in key:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(key))) * 0.3)
    other.save_pretrained(tmp_path / "theirs")
    ours = small_model(name)
    load_adapter(ours, tmp_path / "theirs")
    assert torch.allclose(other(IDS).logits, ours.logits(ours(IDS)), atol=1e-4)


def test_foreign_and_damaged_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config.json"):
        load_adapter(small_model(), tmp_path)
    model = small_model("gpt2-124m")
    add_lora(model, rank=2, alpha=2)
    save_adapter(tmp_path / "gpt2", model, "default")
    with pytest.raises(CheckpointError, match="does not have"):
        load_adapter(small_model(), tmp_path / "gpt2")
    settings = json.loads((tmp_path / "gpt2" / "adapter_config.json").read_text())
    (tmp_path / "gpt2" / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora"):
        load_adapter(small_model("gpt2-124m"), tmp_path / "gpt2")
    (tmp_path / "gpt2" / "adapter_model.safetensors").write_bytes(b"half")
    (tmp_path / "gpt2" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="damaged"):
        load_adapter(small_model("gpt2-124m"), tmp_path / "gpt2")
