"""stored.py: frozen matrices in fewer bits compute what their expanded form computes, and cost what they should."""

import copy
import sys

import pytest
import torch
from torch import Tensor

from tests.models.wrapped_zoo import random_wrapped
from wuya.errors import ConfigError, UnsupportedModel
from wuya.models.gpt import GPT
from wuya.models.lora import add_lora, merge_lora, use_adapter
from wuya.models.presets import preset
from wuya.models.stored import BaseDtype, StoredLinear, expand_base, store_base
from wuya.models.wrapped import TransformersModel
from wuya.training import distributed

IDS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
KINDS: list[BaseDtype] = ["bfloat16", "int8", "nf4"]


def small_model(**changes: object) -> GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "num_layers": 2, "model_dim": 64, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
             "mlp_dim": 128, "tie_embeddings": False}  # fmt: skip
    return GPT(preset("tiny", **{**sizes, **changes})).requires_grad_(False).eval()


def stored_model(kind: BaseDtype, dtype: torch.dtype = torch.float32) -> GPT:
    model = small_model()
    store_base(model, kind, lora_rank=4, dtype=dtype)
    return model


def logits(model: GPT, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.no_grad(), distributed.autocast(torch.device("cpu"), dtype):
        return model.logits(model(IDS))


def test_bfloat16_changes_no_number_where_products_are_in_bfloat16() -> None:
    stored = stored_model("bfloat16", torch.bfloat16)
    assert torch.equal(logits(stored, torch.bfloat16), logits(small_model(), torch.bfloat16))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_those_of_the_expanded_matrices(kind: BaseDtype, dtype: torch.dtype) -> None:
    stored = stored_model(kind, dtype)
    dense = copy.deepcopy(stored)
    expand_base(dense)
    assert not any(isinstance(module, StoredLinear) for module in dense.modules())
    found = []
    for model in (stored, dense):
        add_lora(model, rank=4, alpha=8)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_b" in name:
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(5))
        with distributed.autocast(torch.device("cpu"), dtype):
            out = model.logits(model(IDS))
        out.square().sum().backward()
        found.append((out.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
    assert found[0][1].keys() == found[1][1].keys() and len(found[0][1]) == 2 * 2 * 4
    torch.testing.assert_close(found[0], found[1])
    merge_lora(stored)
    assert stored.state_dict().keys() == small_model().state_dict().keys()
    if dtype == torch.float32:
        torch.testing.assert_close(logits(stored), found[0][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "bits", "error"), [("bfloat16", 16, 0.003), ("int8", 8.1, 0.02), ("nf4", 4.5, 0.12)])
def test_bits_and_rounding_of_a_matrix(kind: BaseDtype, bits: float, error: float) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(512, 512)
    with torch.no_grad():
        linear.weight.normal_(std=0.02)
    stored = StoredLinear(linear, kind, torch.float32)
    scales = [state.absmax for state in (stored.state, getattr(stored.state, "state2", None)) if state is not None]
    size = sum(tensor.numel() * tensor.itemsize for tensor in (stored.packed, *scales))
    assert size * 8 / linear.weight.numel() <= bits
    assert (stored.dense(torch.float32) - linear.weight).norm() < error * linear.weight.norm()


def test_no_expanded_matrix_is_kept_for_the_backward_pass() -> None:
    model = stored_model("nf4")
    add_lora(model, rank=2, alpha=4)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(IDS).sum().backward()
    assert kept
    assert not [t for t in kept if t.ndim == 2 and min(t.shape) >= 64], "a matrix of the model: no activation is one"


def test_adapters_off_is_the_stored_model_itself() -> None:
    model = stored_model("nf4")
    before = logits(model)
    add_lora(model, rank=2, alpha=4, name="policy")
    with use_adapter(model, None):
        assert torch.equal(logits(model), before)


def test_without_adapters_nothing_is_stored_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model()
    store_base(model, "nf4", lora_rank=0, dtype=torch.float32)
    assert not any(isinstance(module, StoredLinear) for module in model.modules())
    assert "`base_dtype` has no effect" in capsys.readouterr().err


def test_a_missing_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(ConfigError, match=r"wuya\[quantized\]"):
        stored_model("nf4")


@pytest.mark.parametrize("name", ["opt", "gemma2", "llama4_text"])
def test_a_wrapped_model_keeps_its_blocks_in_fewer_bits(name: str) -> None:
    model = TransformersModel(random_wrapped(name)).requires_grad_(False)
    plain = model(IDS)
    store_base(model, "nf4", lora_rank=4, dtype=torch.float32)
    assert 0 < (model(IDS) - plain).norm() < plain.norm()
    for adapter in ("policy", "value"):
        add_lora(model, rank=4, alpha=8, name=adapter)
    before = model(IDS)
    before.square().sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_b" in n and "policy" not in n)
    merge_lora(model, "policy")
    torch.testing.assert_close(model(IDS), before, atol=1e-4, rtol=1e-4)


def test_code_that_reads_weights_directly_is_refused_in_words() -> None:
    model = TransformersModel(random_wrapped("mamba")).requires_grad_(False)
    with pytest.raises(UnsupportedModel, match="reads them directly"):
        store_base(model, "bfloat16", lora_rank=4, dtype=torch.float32)
