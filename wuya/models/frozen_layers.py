"""Hidden states of the frozen layers below the lowest adapter, computed once for all models on one trunk.

PPO reads the same rows as reference, value model and reward model, then twice more to train. With adapters on the top
layers only, everything below is the same function of the same tokens each time, so it is computed for the first reader
and kept for the others:

    add_lora(trunk, rank=16, alpha=32, layers=10)       # the top 10 blocks
    share_frozen_layers(trunk)                           # blocks 0 .. L - 11 run once for the same rows

A row of states is kept for exactly the ids, positions and segments it was computed from, compared value by value, so a
hit is never a guess. The newest are kept, up to `MAX_BYTES`.

Dimension key: B rows, T positions, D model width.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

MAX_BYTES = 512 << 20
"""States kept at once: 200,000 tokens of a model of width 576 in float32."""

Inputs = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""ids_BT, positions_BT, segments_BT, types_BT."""


class FrozenLayers:
    """The newest inputs of a trunk and the states that its frozen layers gave for them."""

    def __init__(self, count: int, *, max_bytes: int = MAX_BYTES) -> None:
        """`count`: blocks, from the bottom, that no adapter changes."""
        self.count, self.max_bytes = count, max_bytes
        self.hits = self.misses = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0

    def states(self, inputs: Inputs, compute: Callable[[], Tensor]) -> Tensor:
        """Hidden states [B, T, D] after the frozen layers, without gradient; `compute` runs only for new inputs."""
        key = _key(inputs)
        found = self._kept.get(key)
        if found is not None:
            self.hits += 1
            self._kept.move_to_end(key)
            return found
        self.misses += 1
        with torch.inference_mode(False), torch.no_grad():  # a tensor of inference mode could not be trained on later
            states_BTD = compute()
        self._kept[key] = states_BTD
        self._bytes += states_BTD.nbytes
        while self._bytes > self.max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return states_BTD

    def __deepcopy__(self, memo: dict[int, object]) -> "FrozenLayers":
        """A copied trunk starts empty: its states are as large as its weights, and seldom wanted."""
        return FrozenLayers(self.count, max_bytes=self.max_bytes)

    def clear(self) -> None:
        """Forget everything: the weights below have changed."""
        self._kept.clear()
        self._bytes = 0


def _key(inputs: Inputs) -> bytes:
    """Shape, precision and values of the inputs, in full."""
    parts = [str((torch.is_autocast_enabled(inputs[0].device.type), tuple(inputs[0].shape))).encode()]
    parts += [b"-" if tensor is None else tensor.cpu().contiguous().numpy().tobytes() for tensor in inputs]
    return b"|".join(parts)
