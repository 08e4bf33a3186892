"""Policy, value model, reward model and reference on one frozen trunk: each is a LoRA adapter, the reference is none.

    add_lora(trunk, rank=16, alpha=32, name="policy")
    policy = AdapterPolicy(trunk, "policy")                # trains its adapter only
    reference = LanguageView(trunk, None)                  # adapters off

For models of which four copies don't fit. Optimizers, moving averages and saved states see
an adapter's parameters alone.
"""

import torch
from torch import Tensor, nn

from wuya.models.decoder import Decoder
from wuya.models.lora import LanguageView, ScalarView, adapter_state
from wuya.models.reward_model import ScalarModel


class AdapterPolicy(nn.Module):
    """A policy whose parameters are one adapter of a trunk that it does not own."""

    def __init__(self, trunk: Decoder, name: str) -> None:
        super().__init__()
        self.adapter = _parameters(trunk, name)
        self._view = LanguageView(trunk, name)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states, [B, T, D], or [N, D] of the wanted positions."""
        return self._view(ids_BT, positions_BT=positions_BT, segments_BT=segments_BT, wanted_BT=wanted_BT)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits."""
        return self._view.logits(hidden)


class AdapterValues(nn.Module):
    """A reward or value model whose parameters are one adapter and a head of its own."""

    def __init__(self, trunk: Decoder, name: str) -> None:
        super().__init__()
        self.adapter = _parameters(trunk, name)
        model = ScalarModel.__new__(ScalarModel)  # its head and bias are ours; its trunk is registered nowhere
        nn.Module.__init__(model)
        object.__setattr__(model, "trunk", trunk)
        model.head = nn.Linear(trunk.config.model_dim, 1, bias=False, device=trunk.device)
        nn.init.zeros_(model.head.weight)
        model.register_buffer("bias", torch.zeros((), device=trunk.device))
        self.own = model
        self._view = ScalarView(model, name)

    @property
    def bias(self) -> Tensor:
        """The re-centring."""
        return self.own.bias

    def values(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """A scalar for every position, [B, T], or [N] of the wanted ones."""
        return self._view.values(ids_BT, positions_BT=positions_BT, segments_BT=segments_BT, wanted_BT=wanted_BT)


def _parameters(trunk: Decoder, name: str) -> nn.ParameterDict:
    """The adapter's factors; dots can't stand in the keys."""
    return nn.ParameterDict({f"lora/{path.replace('.', '/')}": p for path, p in adapter_state(trunk, name).items()})
