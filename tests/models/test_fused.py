"""The hand-written passes are torch's own operations: values, and gradients against finite differences."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wuya.models import fused
from wuya.models.gpt import SHARED, segment_mask


def leaves(*shape: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(count)]


def test_rms_norm_has_the_gradients_of_finite_differences() -> None:
    (x,), weight = leaves(2, 3, 8, count=1), torch.linspace(0.5, 2.0, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: fused.rms_norm(x, w, 1e-3), (x, weight))


def test_rms_norm_equals_torchs() -> None:
    x, weight = leaves(2, 5, 16, count=2)
    weight = weight[0, 0]
    torch.testing.assert_close(fused.rms_norm(x, weight, 1e-6), F.rms_norm(x, (16,), weight, 1e-6))


def test_swiglu_equals_its_parts_bit_for_bit() -> None:
    gate_up, grad = leaves(3, 5, 12, count=1)[0], torch.randn(3, 5, 6, dtype=torch.float64)
    gate, up = gate_up.chunk(2, dim=-1)
    ours, parts = fused.swiglu(gate_up), F.silu(gate) * up
    assert torch.equal(ours, parts)
    assert torch.equal(*(torch.autograd.grad(y, gate_up, grad)[0] for y in (ours, parts)))


@pytest.mark.parametrize("length", [1, 7, 64, 65, 130])
def test_block_attention_equals_sdpa_with_its_gradients(length: int) -> None:
    q, k, v = leaves(2, 3, length, 4)
    grad = torch.randn(2, length, 3, 4, dtype=torch.float64).transpose(1, 2)
    ours, theirs = fused.causal_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), grad), torch.autograd.grad(theirs, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("length", [20, 100])
def test_block_attention_with_a_mask_equals_sdpa_with_its_gradients(length: int) -> None:
    q, k, v = leaves(2, 3, length, 4)
    segments_BT = torch.arange(length).div(9, rounding_mode="floor").expand(2, -1)
    mask = (segments_BT[:, None, :, None] == segments_BT[:, None, None, :]) & torch.ones(length, length).tril().bool()
    ours, theirs = fused.causal_attention(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_blocks_that_no_query_of_a_block_may_see_are_left_out() -> None:
    """Two rows of a prompt and answers behind it, as rlhf/answer_rows.py lays them out, of unlike lengths."""
    length = 300
    segments_BT = torch.stack(
        [(torch.arange(length) - shared).div(40, rounding_mode="floor").clamp(min=-1) for shared in (30, 50)]
    )
    segments_BT[segments_BT < 0] = SHARED
    mask = segment_mask(segments_BT)
    seen = fused._seen_keys(length, mask)
    assert [keys if isinstance(keys, slice) else len(keys) for keys in seen[:2]] == [slice(0, 64), slice(0, 128)]
    assert isinstance(seen[4], Tensor) and set(seen[4].div(64, rounding_mode="floor").tolist()) == {0, 3, 4}
    q, k, v = leaves(2, 3, length, 4)
    ours, theirs = fused.causal_attention(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_it_is_for_full_precision_on_the_cpu_only() -> None:
    assert fused.applies_to(torch.zeros(1))
    assert not fused.applies_to(torch.zeros(1, dtype=torch.bfloat16))
    assert not fused.applies_to(torch.zeros(1, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not fused.applies_to(torch.zeros(1))
