"""The cache that fits a model, decided in one place: every engine makes its cache here.

    cache = new_cache(model, num_rows=8, length=512)
    cache_bytes_per_token(model)             # what a token of a row takes

Our decoder has `KVCache`. A wrapped model's keys and values lie in the rows of a `KVCache`, too, all layers side by
side; where its state is no list of keys and values (recurrent models, ALiBi) the rows hold the tokens themselves, and
the states of the model's own cache are found by them, or else every step reads all tokens again.

Dimension key: B rows of this forward, T new tokens, S cached tokens.
"""

import torch
from torch import Tensor

from wuya.inference.kv_cache import KVCache, compute_dtype
from wuya.models.decoder import Decoder
from wuya.models.wrapped import TransformersModel
from wuya.models.wrapped_states import States


def new_cache(model: Decoder, *, num_rows: int, length: int) -> KVCache:
    """An empty cache for this model: `num_rows` sequences of up to `length` tokens."""
    if isinstance(model, TransformersModel):
        return (
            WrappedCache(model, num_rows, length) if model.config.cache_layers else ReplayCache(model, num_rows, length)
        )
    config = model.config
    return KVCache(num_layers=config.num_layers, num_rows=num_rows, num_kv_heads=config.num_kv_heads, length=length,
                   head_dim=config.head_dim, dtype=compute_dtype(model), device=model.device)  # fmt: skip


def cache_bytes_per_token(model: Decoder) -> int:
    """Memory that one token of one row takes."""
    if isinstance(model, TransformersModel):
        width = model.config.cache_width
        return 2 * width * compute_dtype(model).itemsize if width else 2 * torch.int64.itemsize
    config = model.config
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * compute_dtype(model).itemsize


def fits(cache: KVCache, model: Decoder, *, num_rows: int, length: int) -> bool:
    """True if a cache that was made for this model can be used again for such a batch."""
    dtype = cache.storage.dtype if isinstance(cache, ReplayCache) else compute_dtype(model)
    return cache.fits(num_rows=num_rows, length=length, dtype=dtype, device=model.device)


class WrappedCache(KVCache):
    """Keys and values of a wrapped model: each row a list of tokens, each token the numbers of all layers."""

    def __init__(self, model: TransformersModel, num_rows: int, length: int) -> None:
        super().__init__(num_layers=1, num_rows=num_rows, num_kv_heads=1, length=length, device=model.device,
                         head_dim=model.config.cache_width, dtype=compute_dtype(model))  # fmt: skip
        self._layers = model.config.cache_layers

    def num_keys(self, new: int) -> int:
        """See `models.wrapped.RowCache`."""
        return self._num_read if self._decoding else self._start + new

    def keep(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `models.wrapped.RowCache`."""
        before = self._layers[:layer]
        heads, channels, value_heads, value_channels = self._layers[layer]
        first = sum(shape[0] * shape[1] for shape in before)
        first_value = sum(shape[2] * shape[3] for shape in before)
        return (self._keep(0, slice(first, first + heads * channels), keys),
                self._keep(1, slice(first_value, first_value + value_heads * value_channels), values))  # fmt: skip

    def _keep(self, which: int, numbers: slice, new_BHTC: Tensor) -> Tensor:
        rows_RSF = self.storage[0, which, :, 0, :, numbers]
        B, H, T, C = new_BHTC.shape
        new_BTF = new_BHTC.transpose(1, 2).reshape(B, T, H * C).to(rows_RSF.dtype)
        if self._decoding:
            rows_RSF[self._row_B, self._length_B] = new_BTF[:, 0]
            kept_BSF = rows_RSF[:B, : self._num_read]
        else:
            kept_BSF = rows_RSF[self._rows, : self._start + T]
            kept_BSF[:, self._start :] = new_BTF
        return kept_BSF.view(B, -1, H, C).transpose(1, 2).to(new_BHTC.dtype)


class ReplayCache(KVCache):
    """The tokens of every row, for models whose state is no list of keys and values that we could mask."""

    def __init__(self, model: TransformersModel, num_rows: int, length: int) -> None:
        super().__init__(num_layers=1, num_rows=num_rows, num_kv_heads=1, length=length, head_dim=1,
                         dtype=torch.int64, device=model.device)  # fmt: skip
        kind = model.config.own_cache
        self.states = States(by_length=kind == "equal lengths") if kind else None

    def begin_decode(self, num_rows: int) -> Tensor:
        """See `KVCache`."""
        self._decoding = True
        self._row_B = torch.arange(num_rows, device=self.storage.device)
        self._length_B = self.lengths_R[:num_rows].clone()
        self._num_read = int(self._length_B.max()) + 1
        self.lengths_R[:num_rows] += 1
        return self._length_B.unsqueeze(1)

    def replay(self, ids_BT: Tensor) -> Tensor:
        """See `models.wrapped.ReplayedCache`."""
        ids_RS = self.storage[0, 0, :, 0, :, 0]
        if self._decoding:
            ids_RS[self._row_B, self._length_B] = ids_BT[:, 0]
            return ids_RS[: len(ids_BT), : self._num_read]
        end = self._start + ids_BT.shape[1]
        rows_BS = ids_RS[self._rows, :end]
        rows_BS[:, self._start :] = ids_BT
        return rows_BS
