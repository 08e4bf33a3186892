"""quantize.py: close to the float32 matrix, and the same for a token whatever its company."""

import pytest
import torch
from torch import nn

from wuya.errors import ConfigError
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.quantize import Int4Linear, Int8Linear, quantize_model


def linear(bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 64, bias=bias)


def tokens() -> torch.Tensor:
    x = torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(1))
    x[0, 0, 5], x[1, 3] = 60.0, 0.0  # an outlier, and nothing at all
    return x


def error(module: nn.Module, exact: nn.Linear) -> float:
    wanted = exact(tokens())
    return float((module(tokens()) - wanted).norm() / wanted.norm())


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_fine_inputs_leave_only_the_weights_own_rounding(bias: bool) -> None:
    exact = linear(bias)
    scale = exact.weight.abs().amax(dim=1, keepdim=True) / 127
    rounded = linear(bias)
    rounded.weight.copy_((exact.weight / scale).round() * scale)
    fine, coarse = (Int8Linear(exact.weight, exact.bias, fine=fine) for fine in (True, False))
    assert error(fine, rounded) < 3e-4 < error(coarse, rounded)
    assert error(fine, exact) < 1e-2


@torch.no_grad()
@pytest.mark.parametrize("fine", [True, False])
def test_a_tokens_result_depends_on_no_other_token(fine: bool) -> None:
    module = Int8Linear(linear().weight, None, fine=fine)
    together = module(tokens())
    for b in range(2):
        for t in range(7):
            assert torch.equal(module(tokens()[b, t : t + 1]), together[b, t : t + 1])


@torch.no_grad()
def test_four_bits_are_close() -> None:
    exact = linear(bias=True)
    assert error(Int4Linear(exact.weight, exact.bias), exact) < 0.1


@torch.no_grad()
@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantised_model_has_about_the_same_opinions(bits: str, tied: bool) -> None:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=64, context_length=32, num_layers=2, model_dim=32, num_heads=2, num_kv_heads=1,
                       head_dim=16, mlp_dim=64, tie_embeddings=tied)  # fmt: skip
    model = GPT(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(4)
    ids = torch.randint(0, 64, (2, 20))
    before = model.logits(model(ids)).log_softmax(-1)
    quantize_model(model, bits)  # type: ignore[arg-type]
    after = model.logits(model(ids)).log_softmax(-1)
    divergence = float((before.exp() * (before - after)).sum(-1).mean())
    assert 0 < divergence < (0.002 if bits == "int8" else 0.3)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert model.embedding.weight.dtype == torch.float32 and model.device.type == "cpu"


def test_other_devices_are_refused() -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=64, context_length=8, num_layers=1, model_dim=32, num_heads=2, num_kv_heads=1,
                              head_dim=16, mlp_dim=64))  # fmt: skip
    with pytest.raises(ConfigError, match="for the CPU"):
        quantize_model(model, "int8")
