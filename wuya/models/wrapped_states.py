"""Decoding with a model's own cache where ours does not fit: recurrent states, ALiBi, masks of its own.

    states = States(by_length=True)
    hidden_B1D = states.step(model, rows)      # all tokens of every row, the new one last

`transformers` keeps one cache for a batch whose rows have the same number of tokens, so rows are grouped by length (a
model without attention layers has no lengths: one group). A state is found again by the tokens it was made from,
whatever row they lie in now; one that nobody asked for in a step is forgotten. Rows without a state are read once.
Dimension key: B rows, T tokens, D model width.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NAMES = ("cache", "past_key_values", "cache_params")
"""How architectures call their cache, as an argument and as a field of their output."""


@dataclass(slots=True)
class _Group:
    """Rows that share one cache of the model."""

    keys: list[bytes]
    """The tokens of each row."""
    cache: Any

    def select(self, indices: Sequence[int]) -> Any:
        index_B = torch.tensor(list(indices))
        return _map_tensors([self.cache], lambda tensors: tensors[0].index_select(0, index_B.to(tensors[0].device)))


class States:
    """The states of the rows that run now."""

    def __init__(self, *, by_length: bool) -> None:
        self._by_length = by_length
        self._groups: list[_Group] = []

    def step(self, model: Any, rows: Sequence[Tensor]) -> Tensor:
        """Hidden states [B, 1, D] of each row's last token.

        Args:
            model: a `TransformersModel`; rows: int64, all tokens of each row.
        """
        keys = [_key(row_T[:-1]) for row_T in rows]
        before, self._groups = self._groups, []  # caches change in place: after an error none is left
        before += _read_missing(model, before, keys, rows)
        parts: dict[int, list[int]] = {}
        for index, row_T in enumerate(rows):
            parts.setdefault(len(row_T) if self._by_length else 0, []).append(index)
        hidden_BD: list[Tensor] = [torch.empty(0)] * len(rows)
        groups = []
        for members in parts.values():
            cache = _cache_of(before, [keys[index] for index in members])
            ids_B1 = torch.stack([rows[index][-1:] for index in members]).to(model.device)
            output = model.call(input_ids=ids_B1, use_cache=True, **{_name(model): cache})
            groups.append(_Group([_key(rows[index]) for index in members], cache_in(output)))
            for place, index in enumerate(members):
                hidden_BD[index] = output.last_hidden_state[place]
        self._groups = groups
        return torch.stack(hidden_BD)


def _read_missing(model: Any, groups: Sequence[_Group], keys: Sequence[bytes], rows: Sequence[Tensor]) -> list[_Group]:
    """Groups of the rows that have no state yet; equal ones are read once."""
    known = {key for group in groups for key in group.keys}
    missing: dict[int, dict[bytes, Tensor]] = {}
    for key, row_T in zip(keys, rows, strict=True):
        if key not in known:
            missing.setdefault(len(row_T), {})[key] = row_T[:-1]
    found = []
    for unread in missing.values():
        ids_BT = torch.stack(list(unread.values())).to(model.device)
        found.append(_Group(list(unread), cache_in(model.call(input_ids=ids_BT, use_cache=True))))
    return found


def _cache_of(groups: Sequence[_Group], keys: list[bytes]) -> Any:
    """One cache for these rows: as it is where they ran together before, else put together from pieces."""
    for group in groups:
        if group.keys == keys:
            return group.cache
    place = {key: (group, index) for group in groups for index, key in enumerate(group.keys)}
    pieces: list[tuple[_Group, list[int]]] = []
    for key in keys:
        group, index = place[key]
        if pieces and pieces[-1][0] is group:
            pieces[-1][1].append(index)
        else:
            pieces.append((group, [index]))
    selected = [group.select(indices) for group, indices in pieces]
    return selected[0] if len(selected) == 1 else _map_tensors(selected, lambda tensors: torch.cat(list(tensors)))


def cache_in(output: Any) -> Any:
    """The cache that a forward pass gave back; AttributeError if it gave none."""
    for name in NAMES:
        cache = getattr(output, name, None)
        if hasattr(cache, "layers"):
            return cache
    raise AttributeError("no cache of layers")


def has_lengths(cache: Any) -> bool:
    """Whether a cache holds keys of tokens, so that rows of unequal length cannot share it."""
    return any(isinstance(getattr(layer, "keys", None), Tensor) for layer in cache.layers)


def _name(model: Any) -> str:
    return next(name for name in NAMES if name in model.arguments)


def _key(row_T: Tensor) -> bytes:
    return row_T.cpu().numpy().tobytes()


def _map_tensors(caches: Sequence[Any], function: Callable[[Sequence[Tensor]], Tensor]) -> Any:
    """A copy of the first cache, each of its tensors made from those of all; their first dimension is the rows."""
    merged = copy.copy(caches[0])
    merged.layers = []
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        layer = copy.copy(layers[0])
        for name, value in vars(layers[0]).items():
            if isinstance(value, Tensor):
                setattr(layer, name, function([getattr(one, name) for one in layers]))
            elif isinstance(value, dict):
                setattr(layer, name, {
                    key: function([getattr(one, name)[key] for one in layers]) if isinstance(item, Tensor) else item
                    for key, item in value.items()
                })  # fmt: skip
        merged.layers.append(layer)
    return merged
