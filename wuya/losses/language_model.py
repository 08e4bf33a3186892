"""Next-token cross-entropy, as sums so that accumulation over microbatches and ranks is exact.

Shapes: N tokens of any number of sequences laid end to end, V vocabulary, D model width.
"""

from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


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
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor | None = None,
    *,
    bias_V: Tensor | None = None,
    chunk_size: int = 2048,
) -> tuple[Tensor, Tensor]:
    """`cross_entropy(hidden @ head.T, ...)` with at most `chunk_size` x V logits alive at a time.

    Each chunk's logits are thrown away after the forward pass and computed again in the backward pass: one more
    product with the head, in exchange for N x V floats of memory. It pays for large vocabularies (V = 50k).

    Args:
        hidden_ND: final-normed hidden states, only the positions that count; carries gradient.
        head_VD: unembedding weight (tied or not); carries gradient.
        bias_V: the head's bias, if it has one.

    Returns: the sums that `cross_entropy` returns.
    """

    def chunk_nats(hidden_CD: Tensor, head_VD: Tensor, targets_C: Tensor, weights_C: Tensor | None) -> Tensor:
        return cross_entropy(F.linear(hidden_CD, head_VD, bias_V).float(), targets_C, weights_C)[0]

    total = hidden_ND.new_zeros(())
    for start in range(0, targets_N.numel(), chunk_size):
        rows = slice(start, start + chunk_size)
        weights_C = None if weights_N is None else weights_N[rows]
        nats = checkpoint(chunk_nats, hidden_ND[rows], head_VD, targets_N[rows], weights_C, use_reentrant=False)
        total = total + nats
    weight = hidden_ND.new_tensor(float(targets_N.numel())) if weights_N is None else weights_N.to(total.dtype).sum()
    return total, weight


def token_logprobs(logits_NV: Tensor, tokens_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token under softmax(logits / temperature), nats, shape [N]; carries the logits' gradient.

    The same temperature must be used for sampling and for old, reference and new log-probs (spec 7.1, item 2).
    """
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    return -F.cross_entropy(logits_NV, tokens_N, reduction="none")
