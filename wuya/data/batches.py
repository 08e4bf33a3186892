"""Token shards and encoded chats to the tensors a training step takes.

Batches are functions of the step, not of what was read before: resuming is calling `batch(step)` with the next step,
and a run on two processes sees the tokens a run on one sees. Dimension key: N packed rows, B sequences, T tokens.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wuya.errors import ConfigError, DataError
from wuya.tokenizer.chat_format import EncodedChat

PADDING = 128
"""Tokens of padding that cost no more than one more pass through a small model."""


class TokenSource(Protocol):
    """What batches are cut from: `shards.TokenShards`, or an array in a test."""

    @property
    def num_tokens(self) -> int: ...

    def window(self, start: int, length: int) -> NDArray[np.integer]: ...


class PretrainingBatches:
    """Windows of `context_length` tokens in an order shuffled anew each epoch.

    Window i is tokens [iT, iT + T] (inputs and, one later, targets), so the windows tile the stream without overlap.
    Position = step x batch size runs through epoch after epoch; a batch may hold the end of one and the start of the
    next.
    """

    def __init__(self, shards: TokenSource, *, context_length: int, batch_size: int, seed: int) -> None:
        """Args:
        context_length: tokens a window.
        batch_size: windows a step, summed over all ranks.
        seed: of the order; the order of epoch e depends on (seed, e) only.
        """
        self.num_windows = (shards.num_tokens - 1) // context_length
        if self.num_windows < 1:
            raise DataError(
                "the corpus is shorter than one training window",
                found=f"{shards.num_tokens} tokens, context_length {context_length}",
                hint="prepare more text or choose a smaller context_length",
            )
        self.shards = shards
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        self._orders: dict[int, NDArray[np.int64]] = {}

    @property
    def tokens_per_batch(self) -> int:
        """Targets a step learns from, summed over all ranks."""
        return self.batch_size * self.context_length

    def epochs(self, steps: int) -> float:
        """How often this many steps read each window."""
        return steps * self.batch_size / self.num_windows

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
        """(inputs_BT, targets_BT), int64, of a step; with several ranks, this rank's consecutive share of the rows."""
        if self.batch_size % world_size:
            raise ConfigError(
                "batch_size must be divisible by the number of processes",
                found=f"batch_size {self.batch_size}, {world_size} processes",
            )
        rows = self.batch_size // world_size
        first = step * self.batch_size + rank * rows
        return self._stack([self._window_at(position) for position in range(first, first + rows)])

    def _window_at(self, position: int) -> int:
        epoch, place = divmod(position, self.num_windows)
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}  # two at most are alive
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.num_windows)
        return int(self._orders[epoch][place])

    def _stack(self, windows: Sequence[int]) -> tuple[Tensor, Tensor]:
        return stack_windows(self.shards, windows, self.context_length)


def stack_windows(shards: TokenSource, windows: Sequence[int], context_length: int) -> tuple[Tensor, Tensor]:
    """(inputs_BT, targets_BT) of the windows with these numbers."""
    rows = [shards.window(window * context_length, context_length + 1) for window in windows]
    tokens = torch.from_numpy(np.stack(rows).astype(np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def sequential_batches(
    shards: TokenSource, *, context_length: int, batch_size: int, max_windows: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All windows once in the order of the text, for validation; the last batch may be smaller.

    What lies behind the last whole window is left out. With `max_windows`, that many are taken, evenly spread.
    """
    total = (shards.num_tokens - 1) // context_length
    count = total if max_windows is None else min(total, max_windows)
    windows = [index * total // count for index in range(count)]
    for start in range(0, count, batch_size):
        yield stack_windows(shards, windows[start : start + batch_size], context_length)


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Several chats a row, none cut, none seeing another."""

    ids_NT: Tensor
    """Token ids, int64; padding has `pad_id`."""
    mask_NT: Tensor
    """1.0 on tokens to learn, aligned with ids_NT: the logits at t predict token t + 1, so a loss takes mask[:, 1:]."""
    segments_NT: Tensor
    """Which chat of the row a token belongs to, from 0; -1 on padding. Attention stays within a segment."""
    positions_NT: Tensor
    """Place of the token in its own chat, from 0; 0 on padding."""
    chats_N: tuple[tuple[int, ...], ...]
    """Which chats (by index in the input) lie in each row, in order."""
    num_dropped: int
    """Chats longer than the context: they are left out, not cut."""

    def __len__(self) -> int:
        return len(self.chats_N)

    @property
    def density(self) -> float:
        """Share of positions that hold a token."""
        return float((self.segments_NT >= 0).float().mean()) if len(self) else 0.0


def best_fit(lengths: Sequence[int], context_length: int) -> list[list[int]]:
    """Which chats share a row, by index: each, longest first, goes where it leaves the least room.

    Chats longer than the row, and empty ones, are left out.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if not 0 < lengths[n] <= context_length:
            continue
        place = bisect_left(room, (lengths[n], -1))
        free, row = room.pop(place) if place < len(room) else (context_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(n)
        insort(room, (free - lengths[n], row))
    return rows


def pack_rows(encoded: Sequence[EncodedChat], *, context_length: int, pad_id: int = 0) -> PackedRows:
    """Chats in rows of `context_length` tokens, see `best_fit`. Shuffle rows before training.

    The first token of a chat is never learned: in a packed row the token before it belongs to another chat.
    """
    rows = best_fit([len(chat.ids) for chat in encoded], context_length)
    shape = (len(rows), context_length)
    ids_NT, mask_NT = torch.full(shape, pad_id), torch.zeros(shape)
    segments_NT, positions_NT = torch.full(shape, -1), torch.zeros(shape, dtype=torch.int64)
    for row, chats in enumerate(rows):
        start = 0
        for segment, n in enumerate(chats):
            stop = start + len(encoded[n].ids)
            ids_NT[row, start:stop] = torch.tensor(encoded[n].ids)
            mask_NT[row, start + 1 : stop] = torch.tensor(encoded[n].mask[1:], dtype=torch.float32)
            segments_NT[row, start:stop] = segment
            positions_NT[row, start:stop] = torch.arange(stop - start)
            start = stop
    return PackedRows(
        ids_NT,
        mask_NT,
        segments_NT,
        positions_NT,
        tuple(map(tuple, rows)),
        sum(len(chat.ids) > context_length for chat in encoded),
    )


def minibatch_rows(
    num_rows: int, minibatch_size: int, *, seed: int, update: int, epochs: int = 1, rank: int = 0, world_size: int = 1
) -> Iterator[Tensor]:
    """This rank's rows of each minibatch: a fresh partition of all rows for each (seed, update, epoch).

    Row number g of all ranks lives on rank g % world_size as its row g // world_size, so a minibatch is the same set
    for any number of processes. Nothing is kept between calls: a resumed run draws the same.
    """
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + update) * 1_009 + epoch)
        for part in torch.split(torch.randperm(num_rows, generator=generator), minibatch_size):
            yield part[part % world_size == rank] // world_size


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids_BT, lengths_B), int64: sequences of token ids side by side, short ones filled up at the end."""
    lengths_B = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
    ids_BT = torch.full((len(sequences), int(lengths_B.max()) if len(sequences) else 0), pad_id)
    for row, sequence in enumerate(sequences):
        ids_BT[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
    return ids_BT, lengths_B


def length_sorted_microbatches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in groups of similar length, longest first, so that little is padding and memory runs out early or never.

    A group also ends where more than an eighth of it (and more than `PADDING`) would be padding: with episodes of 20 to
    112 tokens, 37 % of 64 rows side by side is.

    Args:
        max_tokens: of a group, padding included: its size x its longest length. A longer sequence is a group by itself.
    """
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        positions = (len(groups[-1]) + 1) * lengths[groups[-1][0]] if groups else 0
        padding = positions - tokens - lengths[index]
        if groups and positions <= max_tokens and padding <= max(PADDING, positions // 8):
            groups[-1].append(index)
            tokens += lengths[index]
        else:
            groups.append([index])
            tokens = lengths[index]
    return groups
