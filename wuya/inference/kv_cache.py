"""Keys and values of the tokens already read: one static slot (row) a sequence, live rows always first.

    storage: [num_layers, 2 (key, value), rows, kv_heads, length, head_dim], allocated once

A *prefill* writes the tokens of new prompts into their rows; a *decode* step appends one token to each of the first n
rows. Retired rows are filled from the end (`move`), so that a step never touches a dead row, and attention reads a
slice no longer than the longest live row. Works for grouped-query attention (fewer key heads than query heads) as is.

Dimension key: B rows of this forward, T new tokens, H query heads, K key-value heads, S cached tokens, C head channels.
"""

import os

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wuya.models.decoder import Decoder
from wuya.planning.machine import memory_of


def compute_dtype(model: Decoder) -> torch.dtype:
    """What attention computes in, so what keys and values are kept in: autocast's dtype inside such a block, else the
    weights' own."""
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype


def free_cache_bytes(device: torch.device, *, reserve: int = 0) -> int:
    """Half of the memory that is free on the device now, less `reserve` bytes that are wanted for something else; the
    other half is left to activations. Processes that share a machine's memory share this, too."""
    _, free = memory_of(device.type == "cuda")
    processes = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, free // processes - reserve) // 2


class KVCache:
    """Implements `wuya.models.layers.KVCache`. Call `begin_prefill` or `begin_decode` before each forward."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_rows: int,
        num_kv_heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        # zeros, not empty: a masked position has weight 0, and 0 x NaN from stale memory would be NaN
        self.storage = torch.zeros(num_layers, 2, num_rows, num_kv_heads, length, head_dim, dtype=dtype, device=device)
        self.lengths_R = torch.zeros(num_rows, dtype=torch.int64, device=device)
        """Tokens cached in each row."""
        self._decoding = False
        self._rows = slice(0, 0)
        self._start = 0
        self._row_B = torch.empty(0, dtype=torch.int64)
        self._length_B = torch.empty(0, dtype=torch.int64)
        self._bias_B11S: Tensor | None = None
        self._num_read = 0

    @property
    def num_rows(self) -> int:
        """Sequences it can hold at once."""
        return self.storage.shape[2]

    @property
    def length(self) -> int:
        """Tokens a row can hold."""
        return self.storage.shape[4]

    def fits(self, *, num_rows: int, length: int, dtype: torch.dtype, device: torch.device) -> bool:
        """True if this storage can be used again for such a batch."""
        enough = self.num_rows >= num_rows and self.length >= length
        return enough and self.storage.dtype == dtype and self.storage.device == device

    # -- what the next forward does --------------------------------------------------------------------------------

    def begin_prefill(self, rows: slice, *, start: int = 0) -> None:
        """The next forward brings tokens start, start + 1, ... of these rows; tokens before `start` are cached."""
        self._decoding, self._rows, self._start = False, rows, start

    def begin_decode(self, num_rows: int) -> Tensor:
        """The next forward brings one token for each of the first `num_rows` rows. Returns its positions [B, 1]."""
        self._decoding = True
        device = self.storage.device
        if self._row_B.shape[0] != num_rows:
            self._row_B = torch.arange(num_rows, device=device)
        self._length_B = self.lengths_R[:num_rows].clone()
        shortest, longest = (int(value) for value in self._length_B.aminmax())
        self._num_read = longest + 1
        self._bias_B11S = None
        if shortest != longest:
            unused_BS = torch.arange(self._num_read, device=device) > self._length_B.unsqueeze(1)
            bias_BS = torch.zeros(num_rows, self._num_read, dtype=self.storage.dtype, device=device)
            self._bias_B11S = bias_BS.masked_fill_(unused_BS, -torch.inf)[:, None, None]
        self.lengths_R[:num_rows] += 1
        return self._length_B.unsqueeze(1)

    def attend(self, layer: int, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, window: int = 0) -> Tensor:
        """Store this layer's new keys and values, attend to all the row has, or its last `window` tokens: out_BHTC."""
        if self._decoding:
            return self._attend_decode(layer, q_BHTC, k_BKTC, v_BKTC, window)
        return self._attend_prefill(layer, q_BHTC, k_BKTC, v_BKTC, window)

    def _attend_prefill(self, layer: int, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, window: int) -> Tensor:
        num_new = q_BHTC.shape[2]
        end = self._start + num_new
        keys, values = self.storage[layer].unbind(0)
        keys[self._rows, :, self._start : end] = k_BKTC
        values[self._rows, :, self._start : end] = v_BKTC
        grouped = q_BHTC.shape[1] != k_BKTC.shape[1]
        if self._start == 0 and not 0 < window < end:  # padding stands right of every real token, so causality hides it
            return scaled_dot_product_attention(q_BHTC, k_BKTC, v_BKTC, is_causal=True, enable_gqa=grouped)
        query_T = torch.arange(self._start, end, device=q_BHTC.device)
        before_TS = query_T.unsqueeze(1) - torch.arange(end, device=q_BHTC.device)
        seen_TS = (before_TS >= 0) & (before_TS < (window or end))
        return scaled_dot_product_attention(
            q_BHTC, keys[self._rows, :, :end], values[self._rows, :, :end], attn_mask=seen_TS, enable_gqa=grouped
        )

    def _attend_decode(self, layer: int, q_BH1C: Tensor, k_BK1C: Tensor, v_BK1C: Tensor, window: int) -> Tensor:
        num_rows, num_heads, _, channels = q_BH1C.shape
        keys, values = self.storage[layer].unbind(0)
        # rotary positions are float32 whatever autocast says, and an indexed store converts nothing by itself
        keys[self._row_B, :, self._length_B] = k_BK1C.squeeze(2).to(keys.dtype)
        values[self._row_B, :, self._length_B] = v_BK1C.squeeze(2).to(values.dtype)
        keys_BKSC = keys[:num_rows, :, : self._num_read]
        values_BKSC = values[:num_rows, :, : self._num_read]
        # query heads of one key head are the rows of one small matrix product: no key is repeated or read twice
        num_kv_heads = keys_BKSC.shape[1]
        q_BKGC = q_BH1C.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads, channels) * channels**-0.5
        scores_BKGS = torch.matmul(q_BKGC, keys_BKSC.transpose(2, 3))
        if self._bias_B11S is not None:
            scores_BKGS += self._bias_B11S
        if 0 < window < self._num_read:
            before_BS = self._length_B.unsqueeze(1) - torch.arange(self._num_read, device=scores_BKGS.device)
            scores_BKGS.masked_fill_((before_BS >= window)[:, None, None], -torch.inf)
        out_BKGC = torch.matmul(scores_BKGS.softmax(dim=-1), values_BKSC)
        return out_BKGC.view(num_rows, num_heads, 1, channels)

    # -- rows ------------------------------------------------------------------------------------------------------

    def finish_prefill(self, rows: slice, lengths_B: Tensor) -> None:
        """Rows now hold this many tokens (padding that a prefill wrote beyond them is overwritten later)."""
        self.lengths_R[rows] = lengths_B

    def copy_to_followers(self, first: int, num_prompts: int, copies: int) -> None:
        """K samples share one prefill: rows first, first + copies, ... are copied into the rows that follow each."""
        if copies == 1:
            return
        rows = slice(first, first + num_prompts * copies)
        lengths_PN = self.lengths_R[rows].view(num_prompts, copies)
        lengths_PN[:, 1:] = lengths_PN[:, :1]
        longest = int(lengths_PN.max())
        layers, _, _, heads, length, channels = self.storage.shape
        block = self.storage[:, :, rows].view(layers, 2, num_prompts, copies, heads, length, channels)[..., :longest, :]
        block[:, :, :, 1:] = block[:, :, :, :1]

    def read_row(self, row: int, length: int) -> Tensor:
        """A view of the first tokens of one row: [layers, 2, kv_heads, length, channels]."""
        return self.storage[:, :, row, :, :length]

    def write_row(self, row: int, prefix: Tensor) -> None:
        """Put what `read_row` gave at the start of a row."""
        self.storage[:, :, row, :, : prefix.shape[3]] = prefix
        self.lengths_R[row] = prefix.shape[3]

    def resize(self, num_rows: int, length: int, *, live_rows: int) -> None:
        """Change how many rows of what length there are; the first `live_rows` keep what they hold."""
        old, longest = self.storage, min(length, int(self.lengths_R[:live_rows].max()) if live_rows else 0)
        layers, two, _, heads, _, channels = old.shape
        assert live_rows <= num_rows
        self.storage = old.new_zeros(layers, two, num_rows, heads, length, channels)
        self.storage[:, :, :live_rows, :, :longest] = old[:, :, :live_rows, :, :longest]
        lengths_R = self.lengths_R.new_zeros(num_rows)
        lengths_R[:live_rows] = self.lengths_R[:live_rows]
        self.lengths_R = lengths_R

    def move(self, source_M: Tensor, target_M: Tensor) -> None:
        """Copy whole rows; sources and targets are disjoint."""
        self.lengths_R[target_M] = self.lengths_R[source_M]
        longest = int(self.lengths_R[target_M].max())
        for layer_2RKSC in self.storage[..., :longest, :]:
            layer_2RKSC[:, target_M] = layer_2RKSC[:, source_M]
