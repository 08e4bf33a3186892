"""Frozen matrices in fewer bits, for training LoRA adapters beside them: bfloat16, 8 bits, or QLoRA's 4 bits.

    store_base(model, "nf4", lora_rank=16, dtype=torch.bfloat16)       # in place, before add_lora
    add_lora(model, rank=16, alpha=32)
    merge_lora(model)                                                  # an ordinary float32 model of the same function

bfloat16 takes half the memory of float32 and, where products are computed in bfloat16 anyway, changes no number. int8
(blocks of 4,096 numbers with a scale each) and nf4 (blocks of 64, their scales in 8 bits too: arXiv:2305.14314,
section 3) are the formats of bitsandbytes. A matrix is expanded for each product and again in the backward pass; no
expanded copy outlives its product. Embeddings stay as they are, and an untied output matrix in at least 16
bits; of a wrapped model the output matrix stays as it is, too.
Dimension key: I input width, O output width.
"""

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from wuya.console import warn
from wuya.errors import ConfigError, UnsupportedModel
from wuya.models.decoder import Decoder
from wuya.models.wrapped import TransformersModel
from wuya.models.wrapped_lora import linears

BaseDtype = Literal["float32", "bfloat16", "int8", "nf4"]
"""How frozen weights are stored."""


class StoredLinear(nn.Linear):
    """A frozen linear layer whose matrix is kept in fewer bits: no `weight`; `dense` is what it computes with."""

    def __init__(self, linear: nn.Linear, kind: BaseDtype, dtype: torch.dtype) -> None:
        """
        Args:
            kind: the form to keep.
            dtype: what products are computed in, so what a matrix is expanded to.
        """
        nn.Module.__init__(self)  # not Linear's: it would allocate a weight
        self.in_features, self.out_features, self.kind, self.dtype = (
            linear.in_features,
            linear.out_features,
            kind,
            dtype,
        )
        self.register_parameter("weight", None)
        self.bias = linear.bias
        packed, self.state = _pack(linear.weight.detach(), kind, dtype)
        self.register_buffer("packed", packed, persistent=False)
        self.packed: Tensor

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix, [O, I]."""
        return _unpack(self.packed, self.kind, self.state).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b in autocast's dtype, or in that of x."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        y: Tensor = _Product.apply(x.to(dtype), self, dtype)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(dtype)


class _Product(Function):
    """x W^T with W expanded from its stored form, now and once more for the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: StoredLinear, dtype: torch.dtype) -> Tensor:
        ctx.layer, ctx.dtype = layer, dtype
        return F.linear(x, layer.dense(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        return grad.to(ctx.dtype) @ ctx.layer.dense(ctx.dtype), None, None


def store_base(model: Decoder, kind: BaseDtype, *, lora_rank: int, dtype: torch.dtype) -> None:
    """Keep the matrices of a decoder's blocks in fewer bits, in place; only adapters can be trained then.

    Args:
        model: on the device where it will run.
        lora_rank: the recipe's; without adapters all weights are trained, so nothing is stored, and that is said.
        dtype: the run's arithmetic.
    """
    if kind != "float32" and not lora_rank:
        warn("`base_dtype` has no effect without adapters: set `--lora_rank`, say 16")
    if kind == "float32" or not lora_rank:
        return
    layers = list(linears(model.trunk if isinstance(model, TransformersModel) else model.blocks))
    for parent, leaf, linear in layers:
        if type(linear) is nn.Linear:
            setattr(parent, leaf, StoredLinear(linear, kind, dtype))
    if isinstance(model, TransformersModel):
        _require_that_it_runs(model, kind)
    elif model.head is not None:
        model.head = StoredLinear(model.head, "bfloat16", dtype)


@torch.no_grad()
def _require_that_it_runs(model: TransformersModel, kind: BaseDtype) -> None:
    """Architectures may read a layer's weight instead of calling the layer; those can't be stored in fewer bits."""
    try:
        model(torch.zeros(1, 2, dtype=torch.int64, device=model.device))
    except (AttributeError, TypeError) as error:
        raise UnsupportedModel(
            f"`{model.config.family}` can't keep its weights as `base_dtype={kind}`: its code reads them directly",
            found=str(error),
            hint="leave `base_dtype` at float32",
        ) from error


def expand_base(model: nn.Module) -> None:
    """Replace what `store_base` made by ordinary float32 layers with exactly the weights that were computed with."""
    for parent in list(model.modules()):
        for leaf, child in list(parent.named_children()):
            if isinstance(child, StoredLinear):
                setattr(parent, leaf, plain_linear(child.dense(child.dtype).float(), child.bias))


def plain_linear(weight_OI: Tensor, bias_O: nn.Parameter | None) -> nn.Linear:
    """An ordinary layer around these tensors, without allocating others."""
    with torch.device("meta"):
        linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=bias_O is not None)
    linear.weight, linear.bias = nn.Parameter(weight_OI), bias_O  # type: ignore[assignment]
    return linear


def _pack(weight_OI: Tensor, kind: BaseDtype, dtype: torch.dtype) -> tuple[Tensor, Any]:
    """The stored tensor, and what else is needed to expand it."""
    if kind == "bfloat16":
        return weight_OI.bfloat16(), None
    library = _bitsandbytes()
    if kind == "int8":
        packed, state = library.quantize_blockwise(weight_OI.to(dtype))
    else:
        packed, state = library.quantize_4bit(weight_OI.to(dtype), quant_type="nf4", compress_statistics=True)
    return packed, state


def _unpack(packed: Tensor, kind: BaseDtype, state: Any) -> Tensor:
    if kind == "bfloat16":
        return packed
    library = _bitsandbytes()
    expand = library.dequantize_blockwise if kind == "int8" else library.dequantize_4bit
    weight_OI: Tensor = expand(packed, state)
    return weight_OI


def _bitsandbytes() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not used here
    try:
        import bitsandbytes.functional
    except ImportError as error:
        raise ConfigError(
            "`base_dtype` int8 and nf4 need the package bitsandbytes, which is not installed",
            hint="`pip install 'wuya[quantized]'`, or use `--base_dtype bfloat16`",
        ) from error
    return bitsandbytes.functional
