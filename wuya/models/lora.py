"""LoRA: small trainable adapters beside frozen matrices, several of them on one trunk (Hu et al., arXiv:2106.09685).

    add_lora(model, rank=16, alpha=32, name="policy")       # y = W x + (alpha / rank) B A x; at first B = 0
    add_lora(model, rank=16, alpha=32, name="value")
    with use_adapter(model, "policy"): ...                  # train, or sample, as the policy
    with use_adapter(model, None): ...                      # adapters off: the frozen model itself, PPO's reference
    merge_lora(model, "policy")                             # into the weights: an ordinary model again
    policy, reference = LanguageView(model, "policy"), LanguageView(model, None)     # each switches for its own calls

Works on every linear layer in the blocks of a language model or ScalarModel, the fused ones (qkv, gate_up) too. With
activation checkpointing the backward pass runs blocks again: inside `use_adapter` it must happen in the same block; the
views see to it.

Dimension key: I input width, O output width, R rank.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuya.errors import ConfigError
from wuya.models.decoder import Decoder
from wuya.models.frozen_layers import FrozenLayers
from wuya.models.gpt import GPT
from wuya.models.reward_model import ScalarModel
from wuya.models.stored import StoredLinear, expand_base, plain_linear
from wuya.models.wrapped_lora import Layer, layers_to_adapt, wrapped_within

TARGETS = ("qkv", "out", "gate_up", "up", "down")
"""Names of the linear layers in a block; a model has `gate_up` or `up`, never both."""


class LoRALinear(nn.Linear):
    """A linear layer whose weight and bias keep their names (a checkpoint stays a checkpoint), plus named adapters.

    Where the base is kept in fewer bits (models/stored.py) it is `stored`, and there is no weight.
    """

    def __init__(self, base: nn.Linear) -> None:
        nn.Module.__init__(self)  # not Linear's: it would allocate and initialise a second weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.stored = base if isinstance(base, StoredLinear) else None
        self.weight, self.bias = base.weight, (base.bias if self.stored is None else None)  # type: ignore[assignment]
        self.lora_a = nn.ParameterDict()
        self.lora_b = nn.ParameterDict()
        self.scales: dict[str, float] = {}
        self.active: str | None = None

    def add(self, name: str, a_RI: Tensor, b_OR: Tensor, scale: float) -> None:
        """Give this layer an adapter; the factors are trained in float32 whatever the base is stored in."""
        device = self.weight.device if self.stored is None else self.stored.packed.device
        self.lora_a[name] = nn.Parameter(a_RI.to(device, torch.float32))
        self.lora_b[name] = nn.Parameter(b_OR.to(device, torch.float32))
        self.scales[name] = scale

    def change(self, name: str) -> Tensor:
        """What the adapter adds to the weight, [O, I]."""
        change_OI: Tensor = self.scales[name] * (self.lora_b[name] @ self.lora_a[name])
        return change_OI

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.linear(x, self.weight, self.bias) if self.stored is None else self.stored(x)
        if self.active is None or self.active not in self.scales:
            return y
        a_RI, b_OR = self.lora_a[self.active].to(x.dtype), self.lora_b[self.active].to(x.dtype)
        return y + F.linear(F.linear(x, a_RI) * self.scales[self.active], b_OR)


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str] = TARGETS,
    layers: int = 0,
    name: str = "default",
    seed: int = 0,
) -> None:
    """Freeze the model and give its linear layers one more adapter, which becomes the active one.

    Args:
        rank: inner width of the adapter; 0.4 % to 2 % of the parameters are usual.
        alpha: the adapter's output is multiplied by alpha / rank.
        targets: which linear layers, see `TARGETS`; in a wrapped model these mean all, and its own names are taken.
        layers: only the top so many blocks, 0 for all: the backward pass ends at the lowest adapter.
        seed: of the random start of A (uniform, as nn.Linear); B is zero.
    """
    if rank < 1:
        raise ConfigError("the rank of LoRA adapters must be at least 1", found=str(rank))
    if not name or "." in name:
        raise ConfigError("an adapter needs a name without dots", found=repr(name))
    if name in adapter_names(model):
        raise ConfigError(f"the model already has an adapter `{name}`", hint="choose another name")
    targeted = _targeted(model, targets)
    if layers:
        top = {id(linear) for _, _, linear in _linears(_top_blocks(model, layers))}
        targeted = [place for place in targeted if id(place[2]) in top]
    if not targeted:
        raise ConfigError("the model has none of the LoRA targets", found=", ".join(targets))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parent, leaf, linear in targeted:
        layer = linear if isinstance(linear, LoRALinear) else LoRALinear(linear)
        bound = 1 / math.sqrt(layer.in_features)
        a_RI = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        layer.add(name, a_RI, torch.zeros(layer.out_features, rank), alpha / rank)
        layer.train(linear.training)
        setattr(parent, leaf, layer)
    for parameter in adapter_parameters(model):
        parameter.requires_grad_(True)
    set_adapter(model, name)


def share_frozen_layers(trunk: nn.Module) -> None:
    """Compute what lies below the lowest adapter once for all models on the trunk; without such layers, nothing."""
    if isinstance(trunk, GPT):
        adapted = [layer for layer, block in enumerate(trunk.blocks) if _layers(block)]
        trunk.frozen_layers = FrozenLayers(adapted[0]) if adapted and adapted[0] > 0 else None


def set_adapter(model: nn.Module, name: str | None) -> None:
    """From now on this adapter is applied; None: none, the frozen model itself."""
    if name is not None and name not in (names := adapter_names(model)):
        raise ConfigError(f"the model has no adapter `{name}`", found=", ".join(names) or "no adapters")
    for layer in _layers(model):
        layer.active = name


@contextmanager
def use_adapter(model: nn.Module, name: str | None) -> Iterator[None]:
    """`set_adapter` for the length of a block; None switches adapters off."""
    layers = _layers(model)
    before = [layer.active for layer in layers]
    set_adapter(model, name)
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer.active = active


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters, in the order they were added."""
    return list(dict.fromkeys(name for layer in _layers(model) for name in layer.scales))


def adapter_parameters(model: nn.Module, name: str | None = None) -> list[nn.Parameter]:
    """What to train: the factors of one adapter, or of all."""
    return list(adapter_state(model, name).values())


def adapter_state(model: nn.Module, name: str | None = None) -> dict[str, nn.Parameter]:
    """The factors of one adapter, or of all, under their names in the model."""
    kept = {}
    for path, parameter in model.named_parameters():
        parts = path.split(".")
        if len(parts) > 2 and parts[-2] in ("lora_a", "lora_b") and name in (None, parts[-1]):
            kept[path] = parameter
    return kept


@torch.no_grad()
def merge_lora(model: nn.Module, name: str | None = None) -> None:
    """Add one adapter to the weights and take all adapters off: an ordinary, trainable model of the same function.

    Args:
        name: may be left out where there is only one.
    """
    names = adapter_names(model)
    if name is None and len(names) > 1:
        raise ConfigError("the model has several adapters: name the one to merge", found=", ".join(names))
    name = names[0] if name is None and names else name
    if name not in names:
        raise ConfigError(f"the model has no adapter `{name}`", found=", ".join(names) or "no adapters")
    adapted = {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}
    remove_lora(model)
    expand_base(model)
    for path, layer in adapted.items():
        if name in layer.scales:
            weight_OI = model.get_submodule(path).get_parameter("weight")
            weight_OI.add_(layer.change(name).to(weight_OI.dtype))
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def remove_lora(model: nn.Module) -> None:
    """Take all adapters off and unfreeze: the model as it was before `add_lora`."""
    for parent, leaf, linear in list(_linears(model)):
        if isinstance(linear, LoRALinear):
            plain = linear.stored or plain_linear(linear.weight, linear.bias)
            setattr(parent, leaf, plain.train(linear.training))
    for module in model.modules():
        if isinstance(module, GPT):
            module.frozen_layers = None
    for parameter in model.parameters():
        parameter.requires_grad_(True)


class LanguageView:
    """A trunk as one of the models it can be: calls run with one adapter on, or with none."""

    def __init__(self, trunk: Decoder, name: str | None) -> None:
        self.trunk, self.name = trunk, name

    def __call__(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states [B, T, D], or [N, D] of the wanted positions."""
        with _view_of(self.trunk, self.name):
            hidden: Tensor = self.trunk(ids_BT, positions_BT=positions_BT, segments_BT=segments_BT, wanted_BT=wanted_BT)
            return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits of hidden states; the output matrix has no adapter."""
        return self.trunk.logits(hidden)


class ScalarView:
    """The same for a reward or value model whose trunk is shared: its own head, one adapter."""

    def __init__(self, model: ScalarModel, name: str | None) -> None:
        self.model, self.name = model, name

    @property
    def bias(self) -> Tensor:
        """The model's re-centring."""
        return self.model.bias

    def values(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """The head's scalar at every position, [B, T], or [N] of the wanted ones."""
        with _view_of(self.model.trunk, self.name):
            return self.model.values(ids_BT, positions_BT=positions_BT, segments_BT=segments_BT, wanted_BT=wanted_BT)


@contextmanager
def _view_of(trunk: Decoder, name: str | None) -> Iterator[None]:
    """The adapter `name` in this forward pass, and where its backward pass computes blocks again."""
    before = trunk.recompute_contexts
    trunk.recompute_contexts = lambda: (nullcontext(), use_adapter(trunk, name))
    try:
        with use_adapter(trunk, name):
            yield
    finally:
        trunk.recompute_contexts = before


def _layers(model: nn.Module) -> list[LoRALinear]:
    return [module for module in model.modules() if isinstance(module, LoRALinear)]


def _targeted(model: nn.Module, targets: Sequence[str]) -> list[Layer]:
    if (wrapped := wrapped_within(model)) is not None:
        return layers_to_adapt(wrapped, targets, TARGETS)
    if unknown := sorted(set(targets) - set(TARGETS)):
        raise ConfigError(f"unknown LoRA target `{unknown[0]}`", found=unknown[0], hint=f"use: {', '.join(TARGETS)}")
    return [layer for layer in _linears(model) if layer[1] in targets]


def _top_blocks(model: nn.Module, count: int) -> nn.Module:
    """The top `count` blocks of a decoder of ours."""
    decoder = model.trunk if isinstance(model, ScalarModel) else model
    num_blocks = len(decoder.blocks) if isinstance(decoder, GPT) else 0
    if not isinstance(decoder, GPT) or not 0 < count <= num_blocks:
        raise ConfigError(
            "`lora_layers` is at most the number of the model's blocks",
            found=f"{count}, {num_blocks or 'a model of transformers, whose blocks are not known'}",
            hint="`--lora_layers 0` adapts all of them",
        )
    return nn.ModuleList(list(decoder.blocks)[-count:])


def _linears(model: nn.Module) -> Iterator[Layer]:
    """(parent, attribute, layer) of every linear layer; what a LoRALinear holds is no layer of its own."""
    for parent in model.modules():
        if isinstance(parent, LoRALinear):
            continue
        for leaf, child in parent.named_children():
            if isinstance(child, nn.Linear):
                yield parent, leaf, child
