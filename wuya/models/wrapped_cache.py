"""A cache of ours as a cache of `transformers`: their attention hands over keys and values, ours keeps them in rows."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from wuya.models.wrapped import RowCache


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer of a bridge; holds nothing itself."""

    def __init__(self, rows: RowCache, layer: int, new: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows, self._layer, self._before = rows, layer, rows.num_keys(new) - new
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep the new tokens' keys and values; returns all."""
        return self._rows.keep(self._layer, key_states, value_states)

    def get_seq_length(self, *_: Any) -> int:
        """Tokens before those of this forward, in the longest row."""
        return self._before


def bridge(rows: RowCache, num_layers: int, *, new: int) -> Cache:
    """What the model is given for one forward of `new` tokens per row."""
    return Cache(layers=[_Layer(rows, layer, new) for layer in range(num_layers)])
