"""The two things every language-model recipe does with a batch: add its gradient, and measure held-out text.

Shapes: B sequences (rows), T positions, N the positions that count, D model width, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from wuya.losses.language_model import chunked_cross_entropy, cross_entropy
from wuya.models.decoder import Decoder
from wuya.training import distributed
from wuya.training.token_logprobs import hidden_logprobs


def rows_at_once(vocab_size: int, device: torch.device) -> int:
    """Positions whose logits are alive together: on a CPU what stays in its cache (2 MiB), elsewhere 256 MiB."""
    in_cache = device.type == "cpu" and not torch.compiler.is_compiling()
    return max(256, 2**19 // vocab_size) if in_cache else max(1, 2**26 // vocab_size)


def nats_sum(
    model: Decoder,
    inputs_BT: Tensor,
    targets_BT: Tensor,
    weights_BT: Tensor | None = None,
    *,
    segments_BT: Tensor | None = None,
    positions_BT: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Sum over targets of weight x nats, a scalar with gradient; targets of weight 0 never meet the output matrix.

    Args:
        weights_BT: 1.0 where the target counts, 0.0 elsewhere; None counts all.
        segments_BT, positions_BT: of packed rows, see `GPT.forward`.
        dtype: arithmetic of the matrix products (autocast); the loss itself is float32.
    """
    with distributed.autocast(inputs_BT.device, dtype):
        if weights_BT is None:
            hidden_BTD = model(inputs_BT, positions_BT=positions_BT, segments_BT=segments_BT)
            hidden_ND, targets_N, weights_N = hidden_BTD.flatten(0, 1), targets_BT.flatten(), None
        else:
            counted_BT = weights_BT > 0
            hidden_ND = model(inputs_BT, positions_BT=positions_BT, segments_BT=segments_BT, wanted_BT=counted_BT)
            targets_N, weights_N = targets_BT[counted_BT], weights_BT[counted_BT]
        rows = rows_at_once(model.config.vocab_size, hidden_ND.device)
        if (head_VD := model.output_matrix) is not None and hidden_ND.size(0) > rows:
            return chunked_cross_entropy(hidden_ND, head_VD, targets_N, weights_N, chunk_size=rows)[0]
        if hidden_ND.size(0) > rows:  # a cap bends the logits: their gradient is left to autograd
            nats_N = -hidden_logprobs(model, hidden_ND, targets_N)
            return nats_N.sum() if weights_N is None else nats_N @ weights_N
        return cross_entropy(model.logits(hidden_ND), targets_N, weights_N)[0]


def add_gradients(
    model: Decoder,
    inputs_BT: Tensor,
    targets_BT: Tensor,
    *,
    microbatch_size: int,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    loss_sum: Callable[..., Tensor] = nats_sum,
) -> float:
    """Add scale x the gradient of the mean nats per token of a batch of which every rank has an equal share.

    Every microbatch is divided by the tokens of the whole batch, so 1 x 8 = 8 x 1 microbatches = two ranks of four.
    Sum the gradients over ranks afterwards (`distributed.reduce_gradients`). Returns the unscaled mean over all ranks.
    """
    num_tokens = targets_BT.numel() * distributed.world_size()
    total = torch.zeros((), device=model.device)
    parts = zip(torch.split(inputs_BT, microbatch_size), torch.split(targets_BT, microbatch_size), strict=True)
    for inputs, targets in parts:
        loss = loss_sum(model, inputs.to(model.device), targets.to(model.device), dtype=dtype) / num_tokens
        (loss if scale == 1.0 else scale * loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return float(distributed.all_reduce_sum(total))


@dataclass(frozen=True, slots=True)
class Validation:
    """How well a model predicts held-out text."""

    loss: float
    """Nats per target token, special tokens included."""
    bits_per_byte: float
    """Nats of the tokens that are text / (ln 2 x their bytes): comparable between tokenizers. NaN without any text."""
    num_tokens: int

    def metrics(self) -> dict[str, float]:
        """Under the names of training/metrics.py."""
        return {"validation/loss": self.loss, "validation/bits_per_byte": self.bits_per_byte}


@torch.no_grad()
def validate(
    model: Decoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes_V: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    microbatch_tokens: int = 8192,
) -> Validation:
    """Loss and bits per byte over (inputs_BT, targets_BT) batches; with several ranks each takes every n-th row.

    Args:
        token_bytes_V: bytes of each token, 0 for specials.
        microbatch_tokens: what one forward takes at most.
    """
    was_training = model.training
    model.eval()
    device = model.device
    token_bytes_V = token_bytes_V.to(device)
    totals = torch.zeros(4, dtype=torch.float64, device=device)  # nats, tokens, nats of text, bytes
    for inputs_BT, targets_BT in batches:
        mine = list(distributed.local_rows(inputs_BT.size(0)))
        rows = max(1, microbatch_tokens // inputs_BT.size(1))
        for start in range(0, len(mine), rows):
            part = mine[start : start + rows]
            targets = targets_BT[part].to(device)
            with distributed.autocast(device, dtype):
                hidden_ND = model(inputs_BT[part].to(device)).flatten(0, 1)
                nats_N = -hidden_logprobs(model, hidden_ND, targets.flatten()).double()
            bytes_N = token_bytes_V[targets.flatten()].double()
            is_text_N = (bytes_N > 0).double()
            totals += torch.stack((nats_N.sum(), is_text_N.new_tensor(len(nats_N)), nats_N @ is_text_N, bytes_N.sum()))
    model.train(was_training)
    nats, tokens, text_nats, num_bytes = distributed.all_reduce_sum(totals).tolist()
    return Validation(
        nats / max(tokens, 1), text_nats / (math.log(2) * num_bytes) if num_bytes else math.nan, int(tokens)
    )
