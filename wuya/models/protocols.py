"""What RLHF asks of its models, so that a GPT, a wrapped model, a view of a shared trunk or a table in a test will do.

Dimension key: B sequences, T positions, N wanted positions, V vocabulary, D model width.
"""

from typing import Protocol

from torch import Tensor


class LanguageModel(Protocol):
    """A policy or a reference: hidden states, and logits from them."""

    def __call__(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Final-normed hidden states, [B, T, D], or [N, D] of the wanted positions alone; rows as `GPT` reads them."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states of any leading shape to float32 logits, [..., V]."""
        ...


class TokenValues(Protocol):
    """A value or reward model: one scalar per position."""

    @property
    def bias(self) -> Tensor:
        """The re-centring: what is subtracted from every scalar."""
        ...

    def values(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """A scalar per position, [B, T], or [N] of the wanted positions alone."""
        ...
