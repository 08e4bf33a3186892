"""Which layers of a wrapped model get LoRA adapters: the matrices of its blocks, under the architecture's own names.

Dimension key: I input width, O output width.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from wuya.errors import ConfigError
from wuya.models.wrapped import TransformersModel

Layer = tuple[nn.Module, str, nn.Linear]
"""A linear layer with its parent and its name there."""


def wrapped_within(model: nn.Module) -> TransformersModel | None:
    """The wrapped model that this is, or whose trunk it has."""
    return next((module for module in model.modules() if isinstance(module, TransformersModel)), None)


def layers_to_adapt(model: TransformersModel, targets: Sequence[str], our_names: Sequence[str]) -> list[Layer]:
    """Linear layers of the trunk with these names; the default, all of our decoder's names, means every one.

    Raises ConfigError for names that the architecture does not have, naming those it has.
    """
    layers = list(linears(model.trunk))
    if set(targets) == set(our_names):
        return layers
    names = {leaf for _, leaf, _ in layers}
    if unknown := sorted(set(targets) - names):
        raise ConfigError(
            f"`{model.config.family}` has no linear layer `{unknown[0]}` in its blocks",
            found=", ".join(sorted(names)) or "no linear layers",
            hint=f"use its names: `--lora_targets '{sorted(names)}'`; without the setting all of them get adapters",
        )
    return [layer for layer in layers if layer[1] in targets]


def linears(trunk: nn.Module) -> Iterator[Layer]:
    """Linear layers that compute W x + b; what an adapted layer holds is no layer of its own."""
    for parent in trunk.modules():
        if hasattr(parent, "lora_a"):
            continue
        for leaf, child in parent.named_children():
            if isinstance(child, nn.Linear) and _is_plain(child):
                yield parent, leaf, child


@torch.no_grad()
def _is_plain(linear: nn.Linear) -> bool:
    """Whether a layer computes W x + b, as subclasses need not."""
    if type(linear) is nn.Linear or hasattr(linear, "lora_a") or linear.weight is None:  # None: models/stored.py
        return True
    x_1I = torch.linspace(-1, 1, linear.in_features, dtype=linear.weight.dtype, device=linear.weight.device)[None]
    y = linear(x_1I)  # a router may return a tuple
    expected_1O = F.linear(x_1I, linear.weight, linear.bias)
    return isinstance(y, torch.Tensor) and torch.allclose(y, expected_1O, rtol=1e-3, atol=1e-5)
