"""Exponential moving average of weights (InstructGPT's PPO keeps one with decay 0.992)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """shadow <- decay * shadow + (1 - decay) * weight, in float32, for every trainable parameter."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """`decay`: per update, in [0, 1); after n updates the initial weights still have the share decay ** n."""
        self.decay = decay
        self.num_updates = 0
        self.shadow: dict[str, Tensor] = {
            name: param.detach().float().clone() for name, param in model.named_parameters() if param.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights after an optimizer step."""
        params = dict(model.named_parameters())
        current = [params[name].detach().float() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), current, 1 - self.decay)
        self.num_updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights by the average."""
        params = dict(model.named_parameters())
        for name, average in self.shadow.items():
            params[name].copy_(average)
        torch.clear_autocast_cache()  # it may hold copies of the weights as they were

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the model has the averaged weights; afterwards its own, bit for bit."""
        params = dict(model.named_parameters())
        kept = {name: params[name].detach().clone() for name in self.shadow}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in kept.items():
                    params[name].copy_(weight)
            torch.clear_autocast_cache()

    def state_dict(self) -> dict[str, object]:
        """Tensors and primitives only."""
        return {"shadow": dict(self.shadow), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue an average; the decay stays this run's."""
        shadow, num_updates = state["shadow"], state["num_updates"]
        assert isinstance(shadow, dict) and isinstance(num_updates, int)
        assert shadow.keys() == self.shadow.keys(), "the average belongs to another model"
        for name, average in shadow.items():
            self.shadow[name].copy_(average)
        self.num_updates = num_updates


def ema_initial_share(decay: float, num_steps: int) -> float:
    """Share of the starting weights in an exponential moving average after `num_steps` optimizer steps: decay^n.

    InstructGPT's .992 leaves nothing after its 4,000 steps, but 60 % after 64: short runs need a smaller decay. No
    average is kept at decay 0, so nothing is left of the start.
    """
    return float(decay**num_steps) if decay else 0.0
