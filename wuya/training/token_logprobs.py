"""Log-probs of given tokens without the whole table of logits: 8,192 positions of a vocabulary of 151,936 are 5 GB.

    logprobs_N = hidden_logprobs(policy, hidden_ND, tokens_N, temperature=1.0)

Unlike a cross-entropy, what a loss makes of each log-prob is not known yet, so the gradient can't be computed on the
way: where the table would be large, chunks of logits are computed again in the backward pass.
Dimension key: N positions, D model width, V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wuya.losses.language_model import token_logprobs

LOGITS_AT_ONCE = 1 << 25
"""Logits alive together, 128 MiB of float32; a pass holds up to four such tables."""
FEW = 64
"""Positions that are never too many."""


class HasLogits(Protocol):
    """Any language model, our own or a wrapped one."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, D] to float32 logits [N, V]."""
        ...


def hidden_logprobs(model: HasLogits, hidden_ND: Tensor, tokens_N: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-prob of each token under softmax(logits / temperature), nats, float32 [N]; carries the gradient of the hidden
    states and of the output matrix."""
    num = hidden_ND.shape[0]
    rows = num if num <= FEW else max(FEW, LOGITS_AT_ONCE // _vocabulary(model, hidden_ND))

    def logprobs(hidden_CD: Tensor, tokens_C: Tensor) -> Tensor:
        return token_logprobs(model.logits(hidden_CD), tokens_C, temperature=temperature)

    if num <= rows:
        return logprobs(hidden_ND, tokens_N)
    parts = zip(torch.split(hidden_ND, rows), torch.split(tokens_N, rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([logprobs(*part) for part in parts])
    return torch.cat([checkpoint(logprobs, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


@torch.no_grad()
def _vocabulary(model: HasLogits, hidden_ND: Tensor) -> int:
    """Rows of the output matrix, asked of any kind of model by one position's logits."""
    return model.logits(hidden_ND[:1]).shape[-1]
