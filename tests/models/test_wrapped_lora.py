"""Adapters beside a wrapped model's frozen weights: nothing at first, PEFT's numbers, an ordinary model when merged."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.wrapped_zoo import ZOO, random_wrapped
from wuya.checkpoints.lora_files import load_adapter, save_adapter
from wuya.errors import CheckpointError, ConfigError
from wuya.models.lora import adapter_parameters, adapter_state, add_lora, merge_lora, use_adapter
from wuya.models.wrapped import TransformersModel

FAST = ("falcon", "gemma2", "mamba", "mixtral")
"""A linear class of its own, tied embeddings, weights that are read past their layer, experts without layers."""
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ZOO]
IDS = torch.randint(3, 300, (2, 12), generator=torch.Generator().manual_seed(2))


def randomise(model: torch.nn.Module, name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for path, parameter in adapter_state(model, name).items():
        if "dt_proj" not in path:  # Mamba reads this weight past its layer: its adapter stays zero
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_changes_nothing_until_trained_and_merges_into_an_ordinary_model(name: str) -> None:
    model = TransformersModel(random_wrapped(name))
    keys, before = set(model.state_dict()), model(IDS).detach()
    add_lora(model, rank=2, alpha=4, name="policy")
    torch.testing.assert_close(model(IDS), before)
    model(IDS).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter_parameters(model, "policy"))
    assert not any("lm_head" in path or "embed" in path for path in adapter_state(model))
    with torch.no_grad():
        randomise(model, "policy")
        adapted = model(IDS)
        assert not torch.allclose(adapted, before, atol=1e-3)
        with use_adapter(model, None):
            torch.testing.assert_close(model(IDS), before)
        merge_lora(model, "policy")
        torch.testing.assert_close(model(IDS), adapted, rtol=1e-3, atol=1e-3)
    assert set(model.state_dict()) == keys


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["falcon", "gemma2"])
@torch.no_grad()
def test_peft_computes_the_same_from_our_files_and_we_from_theirs(name: str, tmp_path: Path) -> None:
    peft: Any = pytest.importorskip("peft")
    model = TransformersModel(random_wrapped(name))
    add_lora(model, rank=4, alpha=8, name="policy")
    randomise(model, "policy")
    save_adapter(tmp_path / "ours", model, "policy")
    theirs = peft.PeftModel.from_pretrained(random_wrapped(name), tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits.float(), model.logits(model(IDS)), rtol=1e-3, atol=1e-4)

    targets = ["dense_4h_to_h"] if name == "falcon" else ["q_proj", "down_proj"]
    other = peft.get_peft_model(random_wrapped(name), peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets)).eval()
    for key, parameter in other.named_parameters():
        if "lora_" in key:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(key))) * 0.3)
    other.save_pretrained(tmp_path / "theirs")
    ours = TransformersModel(random_wrapped(name))
    load_adapter(ours, tmp_path / "theirs")
    torch.testing.assert_close(other(IDS).logits.float(), ours.logits(ours(IDS)), rtol=1e-3, atol=1e-4)
    with pytest.raises(CheckpointError, match="changes layers this model does not have"):
        load_adapter(TransformersModel(random_wrapped("mamba")), tmp_path / "theirs")


def test_targets_are_the_architectures_own_names() -> None:
    model = TransformersModel(random_wrapped("gemma2"))
    add_lora(model, rank=2, alpha=4, targets=("q_proj",))
    assert {path.split(".")[-3] for path in adapter_state(model)} == {"q_proj"}
    with pytest.raises(ConfigError, match="no linear layer `qkv`") as caught:
        add_lora(model, rank=2, alpha=4, targets=("qkv",), name="other")
    assert "down_proj" in str(caught.value)
