"""Rotary positions, attention's two roads, the MLPs' formulas, the order of norms."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.models.architectures import ARCHITECTURES
from wuya.models import fused
from wuya.models.layers import GatedMLP, PlainMLP, RMSNorm, init_weights, make_block, softmax_attention
from wuya.models.rotary import rotary_tables, rotate


def test_rotation_turns_each_pair_by_position_times_frequency() -> None:
    cos_TC, sin_TC = rotary_tables(10, 8, 100.0)
    x = torch.randn(8)
    for t in range(10):
        turned = rotate(x.view(1, 1, 1, 8), cos_TC[t].view(1, 1, 1, 8), sin_TC[t].view(1, 1, 1, 8)).flatten()
        for c in range(4):
            angle = t * 100.0 ** (-2 * c / 8)
            expected = complex(x[c], x[c + 4]) * complex(math.cos(angle), math.sin(angle))
            assert complex(turned[c], turned[c + 4]) == pytest.approx(expected, abs=1e-5)


def test_rotated_dot_products_depend_on_the_distance_only() -> None:
    cos_TC, sin_TC = rotary_tables(40, 16, 10_000.0)
    q, k = torch.randn(16), torch.randn(16)

    def at(x: torch.Tensor, t: int) -> torch.Tensor:
        return rotate(x.view(1, 1, 1, 16), cos_TC[t].view(1, 1, 1, 16), sin_TC[t].view(1, 1, 1, 16)).flatten()

    assert at(q, 35) @ at(k, 30) == pytest.approx((at(q, 5) @ at(k, 0)).item(), abs=1e-4)


def test_grouped_heads_share_keys_and_values() -> None:
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    out = softmax_attention(q, k, v)
    for head in range(4):
        kv = head // 2
        alone = F.scaled_dot_product_attention(q[:, head], k[:, kv], v[:, kv], is_causal=True)
        torch.testing.assert_close(out[:, head], alone)


def test_long_contexts_take_sdpa_and_agree_with_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(1, 2, 100, 8) for _ in range(3))
    blocks = softmax_attention(q, k, v)
    monkeypatch.setattr(fused, "LONGEST", 99)
    torch.testing.assert_close(softmax_attention(q, k, v), blocks)


def test_rms_norm_takes_the_same_value_on_both_roads() -> None:
    norm, x = RMSNorm(16, 1e-6), torch.randn(3, 5, 16)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (16,), norm.weight, 1e-6))
    torch.testing.assert_close(
        norm(x).square().mean(), (norm.weight * x / x.square().mean(-1, keepdim=True).sqrt()).square().mean()
    )


def test_swiglu_is_down_of_silu_gate_times_up() -> None:
    config = ARCHITECTURES["qwen3"]
    mlp, x = GatedMLP(config), torch.randn(2, config.model_dim)
    gate, up = mlp.gate_up.weight.split(config.mlp_dim)
    torch.testing.assert_close(mlp(x), (F.silu(x @ gate.T) * (x @ up.T)) @ mlp.down.weight.T)


def test_gelu_is_the_tanh_form_of_gpt1() -> None:
    mlp, x = PlainMLP(ARCHITECTURES["gpt2"]), torch.randn(3, 32)
    h = mlp.up(x)
    gelu = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(mlp(x), mlp.down(gelu))


def test_relu2_is_the_square_of_relu() -> None:
    mlp, x = PlainMLP(ARCHITECTURES["speedrun"]), torch.randn(3, 32)
    torch.testing.assert_close(mlp(x), mlp.down(mlp.up(x).clamp(min=0) ** 2))


def test_post_norm_blocks_end_normalised_and_pre_norm_blocks_keep_the_residual() -> None:
    x = torch.randn(2, 5, 32) * 3
    post = make_block(ARCHITECTURES["gpt1"], 0)(x, None)
    torch.testing.assert_close(post.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(post.var(-1, unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=0)
    pre = make_block(ARCHITECTURES["gpt2"], 0)
    with torch.no_grad():
        for projection in (pre.attention.out, pre.mlp.down):
            projection.weight.zero_()
            projection.bias.zero_()
    assert torch.equal(pre(x, None), x)


def test_initial_weights_follow_gpt2() -> None:
    torch.manual_seed(0)
    block = make_block(ARCHITECTURES["gpt2"], 0)
    init_weights(block, std=0.02, residual_std=0.005)
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.attention.out.weight.std().item() == pytest.approx(0.005, rel=0.1)
    assert block.mlp.down.weight.std().item() == pytest.approx(0.005, rel=0.1)
    assert not block.attention.qkv.bias.any() and (block.mlp_norm.weight == 1).all()
