"""Hand-written backward passes that make float32 training on a CPU faster: RMSNorm and causal attention.

Same numbers as torch's own within rounding. Its RMSNorm is composed of many passes over memory; here there are three
forwards and six backwards. Its CPU flash attention is slower than batched matrix products where T is short: in blocks
of queries, each of which meets only the keys before its own end, nearly half of the scores are never computed. Forward
and backward, one thread of an EPYC 7001, 4,096 tokens, 192 channels as 6 heads of 32 / 3 of 64, ms (torch 2.13):

    T                    64          128         256         512
    SDPA                 40 / 33     69 / 59     124 / 104   252 / 204
    blocks of 64         40 / 32     57 / 47     86 / 74     158 / 130
    one block            40 / 32     67 / 56     126 / 97
    RMSNorm              F.rms_norm 9.5, here 4.5

The probabilities are kept for the backward pass, H T^2 / 2 floats a row, so long contexts stay with SDPA. CUDA,
bfloat16, dropout and torch.compile have good kernels of their own and use them (layers.py).
Dimension key: B sequences, H heads, T tokens, C head channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

BLOCK = 64
LONGEST = 512


def applies_to(x: Tensor) -> bool:
    """Whether the passes here are the faster ones for a tensor: float32 (or float64, for tests) on the CPU, eager."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    y: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        y: Tensor = unit * weight
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        unit, scale, weight = ctx.saved_tensors
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        along = (product @ weight).div_(-weight.numel())  # mean over channels of grad * weight * unit, negated
        grad_x = torch.mul(grad, weight, out=product).addcmul_(unit, along[..., None]).mul_(scale)
        return grad_x, grad_weight, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, the gate in the first half of the last dimension."""
    y: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return y


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)  # both halves are written in place: chunk's own backward would copy them
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.mul(grad, activated, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return out


def causal_attention(q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, mask_B1TT: Tensor | None = None) -> Tensor:
    """Causal softmax attention, scaled by 1/sqrt(C), for at most `LONGEST` tokens.

    Args:
        mask_B1TT: True where a query may look, the upper triangle False; plain causal when absent.
    """
    out_BHTC: Tensor = _BlockwiseAttention.apply(q_BHTC, k_BHTC, v_BHTC, mask_B1TT)  # type: ignore[no-untyped-call]
    return out_BHTC


class _BlockwiseAttention(Function):
    @staticmethod
    def forward(ctx: Any, q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        B, H, T, C = q_BHTC.shape
        q, k, v = (x.reshape(B * H, T, C) for x in (q_BHTC, k_BHTC, v_BHTC))
        upper = torch.full((BLOCK, BLOCK), float("-inf"), dtype=q.dtype).triu_(1)
        out, blocks, seen = torch.empty_like(q), [], _seen_keys(T, mask_B1TT)
        for start, keys in zip(range(0, T, BLOCK), seen, strict=True):
            end = min(start + BLOCK, T)
            scores = _product(q[:, start:end], k[:, keys].transpose(1, 2), C**-0.5)
            if mask_B1TT is None:
                scores[:, :, start:].add_(upper[: end - start, : end - start])
            else:
                hidden = mask_B1TT[:, :, start:end, keys].logical_not()
                scores.view(B, H, end - start, -1).masked_fill_(hidden, float("-inf"))
            blocks.append(scores.softmax(-1))
            out[:, start:end] = blocks[-1] @ v[:, keys]
        ctx.save_for_backward(q, k, v, *blocks)
        ctx.seen = seen
        return out.view(B, H, T, C)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        shape = grads[0].shape
        T, C = shape[-2:]
        q, k, v, *blocks = ctx.saved_tensors
        grad = grads[0].reshape(q.shape)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start, keys, weights in zip(range(0, T, BLOCK), ctx.seen, blocks, strict=True):
            end = min(start + BLOCK, T)
            grad_weights = grad[:, start:end] @ v[:, keys].transpose(1, 2)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q[:, start:end] = _product(grad_scores, k[:, keys], C**-0.5)
            grad_k[:, keys] += _product(grad_scores.transpose(1, 2), q[:, start:end], C**-0.5)
            grad_v[:, keys] += weights.transpose(1, 2) @ grad[:, start:end]
        return grad_q.view(shape), grad_k.view(shape), grad_v.view(shape), None


def _seen_keys(length: int, mask_B1TT: Tensor | None) -> list[slice | Tensor]:
    """For each block of queries the keys it meets: all before its end, or those blocks of them that the mask shows.

    Where many answers stand behind one prompt, an answer sees the prompt and itself: of the blocks between, nothing.
    """
    ends = [min(start + BLOCK, length) for start in range(0, length, BLOCK)]
    if mask_B1TT is None or len(ends) < 3:
        return [slice(0, end) for end in ends]
    visible_QK = F.max_pool2d(mask_B1TT.amax(0).float(), BLOCK, ceil_mode=True)[0] > 0
    seen: list[slice | Tensor] = []
    for row, end in enumerate(ends):
        visible_T = visible_QK[row].repeat_interleave(BLOCK)[:end]
        seen.append(slice(0, end) if bool(visible_T.all()) else visible_T.nonzero().squeeze(1))
    return seen


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * a @ b in one pass."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)
