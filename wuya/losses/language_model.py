"""Next-token cross-entropy, as sums so that accumulation over microbatches and ranks is exact.

Shapes: N tokens of any number of sequences laid end to end, V vocabulary, D model width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood of `targets_N` (GPT-1, section 3.1, Eq. 1, negated).

    Args:
        logits_NV: unnormalised; carries gradient.
        targets_N: token ids (int64). A target whose weight is 0 must still be a valid id.
        weights_N: 1.0 where the token counts, 0.0 where it does not (prompt, padding); fractions allowed. None = all 1.

    Returns: sum of weight x nats, and sum of weights. Divide the first by the second, summed over all microbatches and
        ranks of the step, for nats a token: means of means are wrong as soon as masks differ.
    """
    if weights_N is None:
        return F.cross_entropy(logits_NV, targets_N, reduction="sum"), logits_NV.new_tensor(float(targets_N.numel()))
    weights_N = weights_N.to(logits_NV.dtype)
    nats_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
    return (nats_N * weights_N).sum(), weights_N.sum()


def chunked_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor | None = None, *, chunk_size: int = 256
) -> tuple[Tensor, Tensor]:
    """`cross_entropy(hidden @ head.T, ...)` with at most `chunk_size` x V logits alive at a time.

    The gradient of a chunk's logits (softmax less one-hot) is known as soon as its loss is, so both gradients are made
    in the forward pass and nothing is computed twice. On a CPU a chunk that stays in the cache is also faster than the
    whole: every pass over N x V logits would go to memory.

    Args:
        hidden_ND: final-normed hidden states, only the positions that count; carries gradient.
        head_VD: unembedding weight (tied or not); carries gradient if it is trained.

    Returns: the sums that `cross_entropy` returns.
    """
    total: Tensor = _LinearCrossEntropy.apply(hidden_ND, head_VD, targets_N, weights_N, chunk_size)  # type: ignore[no-untyped-call]
    count = (
        hidden_ND.new_tensor(float(targets_N.numel()), dtype=torch.float32) if weights_N is None else weights_N.sum()
    )
    return total, count


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor | None, chunk_size: int
    ) -> Tensor:
        kind = hidden_ND.device.type
        if torch.is_autocast_enabled(kind):  # cast once, not for every chunk
            hidden_ND, head_VD = (x.to(torch.get_autocast_dtype(kind)) for x in (hidden_ND, head_VD))
        to_hidden, to_head = ctx.needs_input_grad[:2]
        ctx.grad_hidden_ND = torch.empty_like(hidden_ND) if to_hidden else None
        ctx.grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if to_head else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(targets_N), chunk_size):
            rows = slice(start, start + chunk_size)
            logprobs_CV = F.linear(hidden_ND[rows], head_VD).float().log_softmax(-1)
            targets_C1 = targets_N[rows, None]
            nats_C = -logprobs_CV.gather(1, targets_C1).squeeze(1)
            total += nats_C.sum() if weights_N is None else nats_C @ weights_N[rows].float()
            if not (to_hidden or to_head):
                continue
            grad_CV = logprobs_CV.exp_().scatter_add_(1, targets_C1, -torch.ones_like(nats_C)[:, None])
            if weights_N is not None:
                grad_CV *= weights_N[rows, None]
            grad_CV = grad_CV.to(head_VD.dtype)
            if to_hidden:
                ctx.grad_hidden_ND[rows] = grad_CV @ head_VD
            if to_head:
                ctx.grad_head_VD += grad_CV.T @ hidden_ND[rows]
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        hidden_ND, head_VD = ctx.grad_hidden_ND, ctx.grad_head_VD
        return (
            None if hidden_ND is None else hidden_ND * grad,
            None if head_VD is None else head_VD * grad,
            None,
            None,
            None,
        )


def token_logprobs(logits_NV: Tensor, tokens_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token under softmax(logits / temperature), nats, shape [N]; carries the logits' gradient.

    The same temperature must be used for sampling and for old, reference and new log-probs.
    """
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    return -F.cross_entropy(logits_NV, tokens_N, reduction="none")
