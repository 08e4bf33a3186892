"""Keys and values of finished completions, kept so that the next turn of a chat reads only what is new.

Dimension key: L layers, K key-value heads, S cached tokens, C head channels.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]

SHORTEST = 16
"""Fewer shared tokens than these are read again: that costs less than the bookkeeping."""


def shared_length(kept: Ids, wanted: Ids) -> int:
    """How many tokens two sequences have in common at their start."""
    length = min(len(kept), len(wanted))
    different = kept[:length] != wanted[:length]
    return int(different.argmax()) if different.any() else length


class PrefixStore:
    """At most `max_bytes` of them; the one unused for longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[int, tuple[Ids, Tensor]] = OrderedDict()
        self._count = 0

    def keep(self, ids: Sequence[int], prefix_L2KSC: Tensor) -> None:
        """Copy the keys and values of `ids`; what they extend (the chat one turn ago) is replaced."""
        size = prefix_L2KSC.numel() * prefix_L2KSC.element_size()
        new = np.asarray(ids, dtype=np.int32)
        if len(new) < SHORTEST or size > self.max_bytes:
            return
        for key, (kept, _) in list(self._entries.items()):
            shared = shared_length(kept, new)
            if shared == len(new):
                self._entries.move_to_end(key)
                return
            if shared == len(kept):
                self._drop(key)
        while self.num_bytes + size > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[self._count] = new, prefix_L2KSC.clone()
        self._count += 1
        self.num_bytes += size

    def find(self, wanted: Ids) -> Tensor | None:
        """Keys and values of the longest kept start of `wanted`, a view; None if it is not worth it."""
        best, longest = -1, SHORTEST - 1
        for key, (kept, _) in self._entries.items():
            if (shared := shared_length(kept, wanted)) > longest:
                best, longest = key, shared
        if best < 0:
            return None
        self._entries.move_to_end(best)
        return self._entries[best][1][:, :, :, :longest]

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.num_bytes = 0

    def _drop(self, key: int) -> None:
        tensor = self._entries.pop(key)[1]
        self.num_bytes -= tensor.numel() * tensor.element_size()
