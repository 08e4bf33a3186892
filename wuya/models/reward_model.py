"""A decoder with one scalar per token instead of a vocabulary: the reward model and the value model of RLHF.

The reward of an answer is the scalar at its last kept token (InstructGPT, section 3.5: prompt and response in, scalar
out), less a bias that makes demonstrations score 0 on average. The value model starts as a copy of the reward model and
is read at each token.
Dimension key: B sequences, T tokens, D model width.
"""

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuya.models.decoder import Decoder
from wuya.models.gpt import GPT
from wuya.models.layers import AttentionCache, Block


class ScalarModel(nn.Module):
    """A GPT trunk and a linear head to one scalar; the head starts at N(0, 1/(D+1)) (arXiv:2009.01325, code)."""

    bias: Tensor

    def __init__(self, trunk: Decoder) -> None:
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
        cache: AttentionCache | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """The head's scalar at every position, float32 [B, T], or [N] of the wanted ones; the bias is not taken off."""
        hidden_PD = self.trunk(
            ids_BT, positions_BT=positions_BT, segments_BT=segments_BT, cache=cache, wanted_BT=wanted_BT
        )
        return self.scalars(hidden_PD)

    def scores(self, ids_BT: Tensor, last_B: Tensor) -> Tensor:
        """Score of each sequence, float32 [B]: the scalar at index `last` (its last kept token), less the bias."""
        hidden_BTD = self.trunk(ids_BT)
        last_BD = hidden_BTD[torch.arange(len(ids_BT), device=ids_BT.device), last_B]
        return self.scalars(last_BD) - self.bias

    def scalars(self, hidden: Tensor) -> Tensor:
        """The head applied to hidden states [..., D], float32 [...], inside autocast too: a score in bf16 has three
        digits, and differences between scores are what is learned from."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.head.weight.float()).squeeze(-1)

    forward = values


@torch.no_grad()
def fold_bias(model: ScalarModel) -> bool:
    """Move the bias into the shift of the last LayerNorm, where there is one: the same scores without a bias.

    A head w reads y = norm(x) + shift, so a shift of -bias w / |w|^2 takes the bias off. RMSNorm has no shift, and
    nothing linear in its output is constant: there it returns False and changes nothing.
    """
    trunk = model.trunk
    if not isinstance(trunk, GPT):
        return False
    last = trunk.final_norm if trunk.final_norm is not None else cast(Block, trunk.blocks[-1]).mlp_norm
    if not isinstance(last, nn.LayerNorm) or not model.head.weight.any():
        return False
    w_D = model.head.weight[0].double()
    last.bias.sub_((model.bias.double() * w_D / w_D.square().sum()).to(last.bias.dtype))
    model.bias.zero_()
    return True


def value_model_from(reward_model: ScalarModel) -> ScalarModel:
    """A copy to train as the critic: InstructGPT starts the value function at the reward model (section C.4)."""
    value_model = copy.deepcopy(reward_model)
    for parameter in value_model.parameters():
        parameter.requires_grad_(True)
    return value_model
