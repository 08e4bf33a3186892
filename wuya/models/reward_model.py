"""A decoder with one scalar per token instead of a vocabulary: the reward model and the value model of RLHF.

The reward of an answer is the scalar at its last kept token (InstructGPT, section 3.5: prompt and response in, scalar
out), less a bias that makes demonstrations score 0 on average. The value model starts as a copy of the reward model and
is read at each token.
Dimension key: B sequences, T tokens, D model width.
"""

import copy
import math

import torch
from torch import Tensor, nn

from wuya.models.gpt import GPT
from wuya.models.layers import KVCache


class ScalarModel(nn.Module):
    """A GPT trunk and a linear head to one scalar; the head starts at N(0, 1/(D+1)) (arXiv:2009.01325, code)."""

    bias: Tensor

    def __init__(self, trunk: GPT) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.config.model_dim, 1, bias=False, device=trunk.device, dtype=trunk.dtype)
        if not self.head.weight.is_meta:  # torch would import its compiler to draw numbers nobody keeps: 3 s
            nn.init.normal_(self.head.weight, std=1 / math.sqrt(trunk.config.model_dim + 1))
        self.register_buffer("bias", torch.zeros((), device=trunk.device))

    def values(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        cache: KVCache | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """The head's scalar at every position, float32 [B, T], or [N] of the wanted ones; the bias is not taken off."""
        hidden_BTD = self.trunk(
            ids_BT, positions_BT=positions_BT, segments_BT=segments_BT, cache=cache, wanted_BT=wanted_BT
        )
        values_BT: Tensor = self.head(hidden_BTD).squeeze(-1).float()
        return values_BT

    def scores(self, ids_BT: Tensor, last_B: Tensor) -> Tensor:
        """Score of each sequence, float32 [B]: the scalar at index `last` (its last kept token), less the bias."""
        hidden_BTD = self.trunk(ids_BT)
        last_BD = hidden_BTD[torch.arange(len(ids_BT), device=ids_BT.device), last_B]
        scores_B: Tensor = self.head(last_BD).squeeze(-1).float() - self.bias
        return scores_B

    forward = values


def value_model_from(reward_model: ScalarModel) -> ScalarModel:
    """A copy to train as the critic: InstructGPT starts the value function at the reward model (section C.4)."""
    value_model = copy.deepcopy(reward_model)
    for parameter in value_model.parameters():
        parameter.requires_grad_(True)
    return value_model
