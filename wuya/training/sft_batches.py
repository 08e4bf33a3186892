"""Packed demonstrations as batches of a step: rows in a seeded order per epoch, so that resuming is knowing the step.

Shapes: N packed rows, B rows of a batch, T positions of a row (inputs are the row without its last token, targets the
row without its first).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wuya.data.batches import PackedRows
from wuya.models.decoder import Decoder
from wuya.training import distributed
from wuya.training.language_model import nats_sum


@dataclass(frozen=True, slots=True)
class SFTBatch:
    """This rank's rows of one step, with the counts of the whole step."""

    inputs_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor
    """1.0 where the target is an assistant token or its end token."""
    segments_BT: Tensor
    positions_BT: Tensor
    num_targets: float
    """Sum of the weights over all ranks: what the loss is divided by."""
    num_tokens: int
    """Tokens over all ranks, padding not counted."""

    def parts(self, microbatch_size: int) -> list[tuple[Tensor, ...]]:
        """Microbatches of (inputs, targets, weights, segments, positions) without columns that are padding only."""
        columns = (self.inputs_BT, self.targets_BT, self.weights_BT, self.segments_BT, self.positions_BT)
        parts = []
        for rows in torch.split(torch.arange(self.inputs_BT.size(0)), microbatch_size):
            used = (self.segments_BT[rows] >= 0).any(dim=0)
            if not bool(used.any()):
                continue  # a rank with fewer rows than the others
            width = int(used.nonzero().max()) + 1
            parts.append(tuple(column[rows, :width] for column in columns))
        return parts

    def nats(self, model: Decoder, part: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Weighted nats of one of `parts`, summed; carries gradient."""
        inputs, targets, weights, segments, positions = (column.to(model.device) for column in part)
        one_chat_a_row = not bool((segments > 0).any())  # then padding is all on the right, and no mask is needed
        return nats_sum(
            model,
            inputs,
            targets,
            weights,
            segments_BT=None if one_chat_a_row else segments,
            positions_BT=None if one_chat_a_row else positions,
            dtype=dtype,
        )

    def add_gradients(self, model: Decoder, *, microbatch_size: int, dtype: torch.dtype, scale: float = 1.0) -> float:
        """Add scale x the gradient of the mean nats per target token of the whole step; returns that mean."""
        total = torch.zeros((), device=model.device)
        for part in self.parts(microbatch_size):
            loss = self.nats(model, part, dtype) / (self.num_targets or 1.0)
            (loss if scale == 1.0 else scale * loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(distributed.all_reduce_sum(total))


class SFTBatches:
    """Batches of packed rows; position = step x batch size runs through epoch after epoch, each shuffled anew."""

    def __init__(self, rows: PackedRows, *, batch_size: int, seed: int) -> None:
        """`batch_size`: rows a step, summed over all ranks; at most as many as there are rows."""
        self.rows = rows
        self.batch_size = min(batch_size, len(rows))
        self.seed = seed
        self._row_tokens = (rows.segments_NT >= 0).sum(dim=1).numpy()
        self._orders: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}

    def num_steps(self, *, epochs: float, num_tokens: int | None) -> int:
        """Updates of a run of so many passes, or of so many tokens when a budget is given."""
        if num_tokens is not None:
            epochs = num_tokens / int(self._row_tokens.sum())
        return max(1, math.ceil(epochs * len(self.rows) / self.batch_size))

    def epochs(self, steps: int) -> float:
        """Passes over the rows after so many updates."""
        return steps * self.batch_size / len(self.rows)

    def ends_epoch(self, steps: int) -> bool:
        """Whether the last of so many updates finished a pass over the rows."""
        return steps * self.batch_size // len(self.rows) > (steps - 1) * self.batch_size // len(self.rows)

    def tokens_before(self, step: int) -> int:
        """Tokens, padding not counted, of all updates before `step`."""
        epoch, place = divmod(step * self.batch_size, len(self.rows))
        return epoch * int(self._row_tokens.sum()) + int(self._row_tokens[self._order(epoch)[:place]].sum())

    def batch(self, step: int) -> SFTBatch:
        """This rank's share of a step."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        return take(self.rows, np.array([self._order(p // len(self.rows))[p % len(self.rows)] for p in positions]))

    def _order(self, epoch: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return self._orders[epoch]


def take(rows: PackedRows, chosen_B: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> SFTBatch:
    """The batch of the rows with these numbers; each rank gets every world_size-th of them."""
    everyone = torch.from_numpy(chosen_B)
    mine = everyone[distributed.rank() :: distributed.world_size()]
    return SFTBatch(
        inputs_BT=rows.ids_NT[mine, :-1],
        targets_BT=rows.ids_NT[mine, 1:],
        weights_BT=rows.mask_NT[mine, 1:],
        segments_BT=rows.segments_NT[mine, :-1],
        positions_BT=rows.positions_NT[mine, :-1],
        num_targets=float(rows.mask_NT[everyone, 1:].sum()),
        num_tokens=int((rows.segments_NT[everyone] >= 0).sum()),
    )


@torch.no_grad()
def validation_loss(model: Decoder, rows: PackedRows, *, microbatch_size: int, dtype: torch.dtype) -> float:
    """Nats per target token over all rows."""
    was_training = model.training
    model.eval()
    batch = take(rows, np.arange(len(rows)))
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    for part in batch.parts(microbatch_size):
        total += batch.nats(model, part, dtype)
    model.train(was_training)
    return float(distributed.all_reduce_sum(total)) / (batch.num_targets or 1.0)
