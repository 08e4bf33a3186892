"""Attention of packed rows without a mask of rows x T x T: every sequence becomes a row of its own, next to its likes.

    packing = pack(segments_BT)                          # once for a forward pass
    heads_BTD = packing.attend(attention, q_BTHC, k_BTKC, v_BTKC)

16 rows of 8,192 tokens would need a mask of a gigabyte, and as many scores; 100 chats of 80 tokens in a row need 1 % of
them. Sequences are grouped by length (each at least half as long as its group's longest) and padded on the right, where
causality hides the padding. Other layouts, a prompt that several answers share, keep their mask.
Dimension key: B rows, T positions, N = B T, S sequences of a group, L its longest, H query heads, K key/value heads, C
head channels, D = H C.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Causal attention (q_SHLC, k_SKLC, v_SKLC, mask_11LL or None) -> out_SHLC."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the sequences of packed rows lie."""

    groups: tuple[Tensor, ...]
    """int64 [S, L]: the position (row T + column) of each token; beyond a sequence's end its last one again."""
    back_N: Tensor
    """Where each position's output lies among those of all groups laid end to end; 0 for padding between sequences."""
    window: int = 0
    """Tokens that a query sees, itself included; 0 sees all before it."""

    def attend(self, attention: Attend, q_BTHC: Tensor, k_BTKC: Tensor, v_BTKC: Tensor) -> Tensor:
        """Attention of every token to those before it in its own sequence, [B, T, D]."""
        outputs = []
        for index_SL in self.groups:
            q_SHLC, k_SKLC, v_SKLC = (x.flatten(0, 1)[index_SL].transpose(1, 2) for x in (q_BTHC, k_BTKC, v_BTKC))
            out_SHLC = attention(q_SHLC, k_SKLC, v_SKLC, self._near(index_SL.shape[1], index_SL.device))
            outputs.append(out_SHLC.transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(outputs)[self.back_N].view(*q_BTHC.shape[:2], -1)

    def _near(self, length: int, device: torch.device) -> Tensor | None:
        """True where a query may look, if there is a window that matters, [1, 1, L, L]."""
        if not self.window or length <= self.window:
            return None
        ones_LL = torch.ones(length, length, dtype=torch.bool, device=device)
        return (ones_LL.tril() & ones_LL.triu(1 - self.window))[None, None]


def pack(segments_BT: Tensor) -> Packing | None:
    """The layout of rows whose sequences lie one behind the other; None where tokens are shared between them.

    Args:
        segments_BT: number of each token's sequence; negative: -1 is padding, other numbers are shared.
    """
    if bool((segments_BT < -1).any()):
        return None
    B, T = segments_BT.shape
    starts_BT = torch.ones(B, T, dtype=torch.bool, device=segments_BT.device)
    starts_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    first_S = starts_BT.flatten().nonzero().squeeze(1)
    length_S = torch.diff(first_S, append=first_S.new_tensor([B * T]))
    real_S = segments_BT.flatten()[first_S] >= 0
    length_S, order_S = length_S[real_S].sort(descending=True, stable=True)
    first_S = first_S[real_S][order_S]
    back_N = torch.zeros(B * T, dtype=torch.int64, device=segments_BT.device)
    groups, offset = [], 0
    for size, longest in _groups(length_S.tolist()):
        first_S, length_S, mine, lengths = first_S[size:], length_S[size:], first_S[:size], length_S[:size]
        place_L = torch.arange(longest, device=segments_BT.device)
        groups.append(mine[:, None] + torch.minimum(place_L, lengths[:, None] - 1))
        real_SL = place_L < lengths[:, None]
        back_N[groups[-1][real_SL]] = offset + real_SL.flatten().nonzero().squeeze(1)
        offset += real_SL.numel()
    return Packing(tuple(groups), back_N)


def _groups(lengths: list[int]) -> list[tuple[int, int]]:
    """(sequences, longest) of each group; lengths fall, and none is below half of its group's longest."""
    groups: list[tuple[int, int]] = []
    for length in lengths:
        if groups and 2 * length >= groups[-1][1]:
            groups[-1] = (groups[-1][0] + 1, groups[-1][1])
        else:
            groups.append((1, length))
    return groups
