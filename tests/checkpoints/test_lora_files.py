"""lora_files.py: adapters to disk and back, and to and from Hugging Face PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.models.architectures import ARCHITECTURES, random_ids, random_model
from tests.models.test_lora import IDS, randomise, small_model
from wuya.checkpoints.lora_files import load_adapter, save_adapter
from wuya.checkpoints.pretrained import config_to_hf, state_to_hf
from wuya.errors import CheckpointError
from wuya.models.gpt import GPT
from wuya.models.lora import add_lora, use_adapter


def their_copy(model: GPT) -> Any:
    """The same model as a class of transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**config_to_hf(model.config, scalar=False, eos_id=0, pad_id=0))
    copy = AutoModelForCausalLM.from_config(config).eval()
    copy.load_state_dict(state_to_hf(model.config, model.state_dict(), scalar=False), strict=False)
    return copy


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
    model = small_model(name)
    hf = their_copy(model)
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


SUBSETS: dict[str, tuple[str, dict[str, Any]]] = {
    "q only": ("tiny", {"target_modules": ["q_proj"]}),
    "o and down": ("tiny", {"target_modules": ["o_proj", "down_proj"]}),
    "k and gate, rank-stabilised": ("tiny", {"target_modules": ["k_proj", "gate_proj"], "use_rslora": True}),
    "all, other ranks and scales": (
        "tiny",
        {
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 5, "layers.1.mlp.down_proj": 2},
            "alpha_pattern": {"v_proj": 12, "up_proj": 1},
        },
    ),
    "one layer": ("tiny", {"target_modules": ["v_proj", "up_proj"], "layers_to_transform": [1]}),
    "gpt2": ("gpt2-124m", {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}),
    "gpt2, both": ("gpt2-124m", {"target_modules": ["c_proj", "c_attn"], "fan_in_fan_out": True}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("subset", SUBSETS)
@torch.no_grad()
def test_adapters_of_any_layers_come_from_peft_and_go_back_to_it(tmp_path: Path, subset: str) -> None:
    """PEFT -> ours -> PEFT: the same logits each time, and the same tensors at the end."""
    name, settings = SUBSETS[subset]
    peft = pytest.importorskip("peft")
    theirs = peft.get_peft_model(their_copy(small_model(name)), peft.LoraConfig(r=3, lora_alpha=7, **settings)).eval()
    for number, (key, parameter) in enumerate(theirs.named_parameters()):
        if "lora_" in key:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.3)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = small_model(name)
    load_adapter(ours, tmp_path / "theirs", name="policy")
    expected_BTV = theirs(IDS).logits
    torch.testing.assert_close(ours.logits(ours(IDS)), expected_BTV, atol=1e-4, rtol=0)
    save_adapter(tmp_path / "ours", ours, "policy")
    again = peft.PeftModel.from_pretrained(their_copy(small_model(name)), tmp_path / "ours").eval()
    torch.testing.assert_close(again(IDS).logits, expected_BTV, atol=1e-4, rtol=0)
    before, after = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("theirs", "ours"))
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["phi3", "gemma3", "olmo2", "smollm3", "mistral", "qwen2"])
@torch.no_grad()
def test_every_family_has_its_own_names_in_an_adapter(tmp_path: Path, name: str) -> None:
    peft = pytest.importorskip("peft")
    model, ids_BT = random_model(name), random_ids(ARCHITECTURES[name], 2, 30)
    targets = ["qkv_proj", "down_proj"] if name == "phi3" else ["q_proj", "down_proj"]
    theirs = peft.get_peft_model(their_copy(model), peft.LoraConfig(r=3, target_modules=targets)).eval()
    for number, (key, parameter) in enumerate(theirs.named_parameters()):
        if "lora_" in key:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.3)
    theirs.save_pretrained(tmp_path / "theirs")
    load_adapter(model, tmp_path / "theirs")
    expected_BTV = theirs(ids_BT).logits
    torch.testing.assert_close(model.logits(model(ids_BT)), expected_BTV, atol=1e-4, rtol=0)
    save_adapter(tmp_path / "ours", model, "default")
    again = peft.PeftModel.from_pretrained(their_copy(random_model(name)), tmp_path / "ours").eval()
    torch.testing.assert_close(again(ids_BT).logits, expected_BTV, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_q_alone_stays_one_in_training(tmp_path: Path) -> None:
    """Its first steps are PEFT's, too."""
    peft = pytest.importorskip("peft")
    theirs = peft.get_peft_model(their_copy(small_model()), peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj"]))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = small_model()
    load_adapter(ours, tmp_path / "theirs")
    losses = []
    for model, logits in ((ours, lambda: ours.logits(ours(IDS))), (theirs, lambda: theirs(IDS).logits)):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits()[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:3] == pytest.approx(losses[3:], abs=1e-3) and losses[2] < losses[0]
    save_adapter(tmp_path / "ours", ours, "default")
    assert {key.split(".")[-3] for key in load_file(tmp_path / "ours" / "adapter_model.safetensors")} == {
        "q_proj", "v_proj",
    }  # fmt: skip


def test_foreign_and_damaged_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config.json"):
        load_adapter(small_model(), tmp_path)
    model = small_model("gpt2-124m")
    add_lora(model, rank=2, alpha=2)
    save_adapter(tmp_path / "gpt2", model, "default")
    with pytest.raises(CheckpointError, match="does not have"):
        load_adapter(small_model(), tmp_path / "gpt2")
    file = tmp_path / "gpt2" / "adapter_config.json"
    settings = json.loads(file.read_text())
    for change in (
        {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [3]}, {"layer_replication": [[0, 2]]}, {"a_new_trick": 7},
    ):  # fmt: skip
        file.write_text(json.dumps(settings | change))
        with pytest.raises(CheckpointError, match=f"`{next(iter(change))}`"):
            load_adapter(small_model("gpt2-124m"), tmp_path / "gpt2")
    file.write_text(json.dumps(settings | {"r": 3}))
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_adapter(small_model("gpt2-124m"), tmp_path / "gpt2")
    (tmp_path / "gpt2" / "adapter_model.safetensors").write_bytes(b"half")
    file.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="damaged"):
        load_adapter(small_model("gpt2-124m"), tmp_path / "gpt2")
