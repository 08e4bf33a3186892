"""Weights of 8 or 4 bits for decoding on a CPU: a token must read a quarter (an eighth) of the bytes.

    quantize_model(model, "int8")      # in place; the model then generates and scores, and is not trained

`PackedLinear` multiplies by the C++ kernels of native.cpp. Where those can't be built, torch's own kernels do, slower:
int8: every output row of a matrix has one scale; inputs are rounded too, each token by its own largest value, and the
product is one of integers (FBGEMM). A token's result depends on no other token of its batch.
int4: groups of 32 columns share a scale and a lowest value; inputs stay bfloat16. The output matrix stays at 8 bits.
Embeddings (as input), norms and attention stay as they are. docs/concepts/engines.md has what it costs and gains.

Dimension key: B rows of input (any leading shape), I input columns, O output rows, G groups of columns.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuya.errors import ConfigError
from wuya.models import native
from wuya.models.gpt import GPT

FINE = frozenset({"down", "out", "qkv", "gate_up", "up", "head"})
"""Matrices whose inputs get more than 7 bits: all, for leaving any out costs more than 1 % of perplexity."""
MOST_KEPT_ROWS = 32
GROUP = 32
"""Columns of an int4 matrix that share scale and zero point."""


class Int8Linear(nn.Module):
    """x @ W^T with integers of 8 bits; the module keeps only the packed matrix.

    Inputs lie on a grid of 1/63 of each token's largest value, 7 bits, because AVX2's multiply-add saturates at 16.
    Where that is too coarse (`fine`) the rounding error is a second input row on the same grid, made 126 times larger:
    the matrix is still read once.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, *, fine: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.fine = fine
        self._kept: Tensor | None = None
        scale_O = (weight_OI.float().abs().amax(dim=1) / 127).clamp_min(1e-12)
        padded_OI = F.pad(weight_OI.float(), (0, 2))  # zeros that meet the two constants below
        with warnings.catch_warnings():  # torch means to replace its quantised tensors; nothing it has is as fast
            warnings.simplefilter("ignore")
            quantised = torch.quantize_per_channel(
                padded_OI, scale_O.double(), torch.zeros(self.out_features, dtype=torch.int64), 0, torch.qint8
            )
            self.packed = torch.ops.quantized.linear_prepack(quantised, None)
        self.bias = None if bias_O is None else bias_O.detach().clone().float()

    def forward(self, x: Tensor) -> Tensor:
        x_BI = x.reshape(-1, self.in_features)
        rows = x_BI.shape[0]
        size_B1 = torch.linalg.vector_norm(x_BI, ord=torch.inf, dim=1, keepdim=True).clamp_min_(1e-12)
        grid = self._inputs(rows)
        steps_BI = x_BI * (63 / size_B1)
        if self.fine:
            coarse_BI = steps_BI.round()
            torch.mul(coarse_BI, 1 / 63, out=grid[:rows, :-2])
            torch.sub(steps_BI, coarse_BI, out=grid[rows:, :-2]).mul_(2)
        else:
            torch.mul(steps_BI, 1 / 63, out=grid[:, :-2])
        y_BO: Tensor = torch.ops.quantized.linear_dynamic(grid, self.packed, True)
        if self.fine:
            y_BO = torch.add(y_BO[:rows], y_BO[rows:], alpha=1 / 126)
        y_BO.mul_(size_B1)
        if self.bias is not None:
            y_BO.add_(self.bias)
        return y_BO.view(*x.shape[:-1], self.out_features)

    def _inputs(self, rows: int) -> Tensor:
        """Rows whose last two columns hold the constants; those of a decode step are kept for the next one.

        The kernel's grid follows the smallest and largest input: with these two it is k/63, k = -64 .. 63, always, so a
        token's result does not depend on what else is in its batch.
        """
        rows = 2 * rows if self.fine else rows
        if self._kept is not None and self._kept.shape[0] == rows:
            return self._kept
        with torch.inference_mode(False):
            grid = torch.empty(rows, self.in_features + 2)
            grid[:, -2], grid[:, -1] = 1.0, -64 / 63
        self._kept = grid if rows <= MOST_KEPT_ROWS else None
        return grid


class Int4Linear(nn.Module):
    """x @ W^T with 4-bit weights, expanded to bfloat16 inside the kernel."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        level_OGI, scale_OG, low_OG = round_to_4_bits(weight_OI.float())
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(level_OGI.view_as(weight_OI).int(), 1)
        # the kernel computes (level - 8) * scale + middle
        scales_OG2 = torch.stack((scale_OG, low_OG + 8 * scale_OG), dim=-1)
        self.scales = scales_OG2.transpose(0, 1).contiguous().to(torch.bfloat16)
        self.bias = None if bias_O is None else bias_O.detach().clone().float()

    def forward(self, x_BI: Tensor) -> Tensor:
        rows = x_BI.reshape(-1, self.in_features).to(torch.bfloat16)
        y_BO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.scales)
        y_BO = y_BO.to(x_BI.dtype).view(*x_BI.shape[:-1], self.out_features)
        return y_BO if self.bias is None else y_BO.add_(self.bias)


class PackedLinear(nn.Module):
    """x @ W^T by the C++ kernels (native.cpp): float32 in and out; no token's result depends on another's."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, bits: Literal["int8", "int4"]) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.kind = native.INT8 if bits == "int8" else native.INT4
        self.scales: Tensor | None = None
        if bits == "int8":
            self.packed, self.scales = pack_int8(weight_OI.float())
        else:
            self.packed = pack_int4(weight_OI.float())
        self.bias = None if bias_O is None else bias_O.detach().clone().float()

    def description(self) -> native.Linear:
        """What the kernels read; valid as long as this module is."""
        addresses = (native.address(tensor) for tensor in (self.packed, self.scales, self.bias))
        return native.Linear(self.kind, self.out_features, self.in_features, 0, *addresses)

    def forward(self, x: Tensor) -> Tensor:
        library = native.kernels()
        assert library is not None
        x = x.float().contiguous()
        y = x.new_empty(*x.shape[:-1], self.out_features)
        tokens = x.numel() // self.in_features
        library.wuya_linear(self.description(), x.data_ptr(), tokens, y.data_ptr(), native.threads())
        return y


def pack_int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Panels [O / 16, I / 2, 16, 2] of int8, filled up with zeros, and the scale of each row."""
    scale_O = (weight_OI.abs().amax(dim=1) / 127).clamp_min(1e-12)
    level_OI = (weight_OI / scale_O[:, None]).round().to(torch.int8)
    level_OI = F.pad(level_OI, (0, -level_OI.shape[1] % 2, 0, -level_OI.shape[0] % native.PANEL))
    panels = level_OI.view(-1, native.PANEL, level_OI.shape[1] // 2, 2).transpose(1, 2).contiguous()
    return panels, F.pad(scale_O, (0, -len(scale_O) % native.PANEL))


def pack_int4(weight_OI: Tensor) -> Tensor:
    """Panels [O / 16, I / 32] of 320 bytes: the levels of 16 rows and 32 columns, their scales, their lowest values."""
    level_OGI, scale_OG, low_OG = round_to_4_bits(weight_OI)
    num_groups = scale_OG.shape[1]
    # columns of a group: half (low or high 4 bits of a byte), 4 steps, 4 columns a step
    level = level_OGI.view(-1, native.PANEL, num_groups, 2, 4, 4).permute(3, 0, 2, 4, 1, 5)
    both = (level[0] | level[1] << 4).reshape(-1, num_groups, 256)
    halves = [
        values.half()
        .view(torch.uint8)
        .view(-1, native.PANEL, num_groups, 2)
        .transpose(1, 2)
        .reshape(-1, num_groups, 32)
        for values in (scale_OG, low_OG)
    ]
    return torch.cat((both, *halves), dim=-1).contiguous()


def round_to_4_bits(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels 0..15 (uint8, [O, G, 32]) and scale and lowest value of each group [O, G], w = level * scale + low.

    Levels are steps from the group's least to its largest weight; scale and low are then fitted by least squares.
    Ranges narrower than that have a smaller squared error and a larger perplexity.
    """
    group_OGI = weight_OI.view(weight_OI.shape[0], -1, GROUP)
    low_OG1, high_OG1 = group_OGI.amin(-1, keepdim=True), group_OGI.amax(-1, keepdim=True)
    step_OG1 = ((high_OG1 - low_OG1) / 15).clamp_min(1e-8)
    level_OGI = ((group_OGI - low_OG1) / step_OG1).round_().clamp_(0, 15)
    offset_OGI = level_OGI - level_OGI.mean(-1, keepdim=True)
    variance_OG = offset_OGI.square().sum(-1)
    scale_OG = torch.where(variance_OG > 0, (offset_OGI * group_OGI).sum(-1) / variance_OG, step_OG1.squeeze(-1))
    return level_OGI.to(torch.uint8), scale_OG, group_OGI.mean(-1) - scale_OG * level_OGI.mean(-1)


def quantize_model(model: GPT, bits: Literal["int8", "int4"]) -> None:
    """Replace every matrix of a model on the CPU, in place; the output matrix gets 8 bits also where others get 4."""
    if model.device.type != "cpu":
        raise ConfigError(f"{bits} weights are for the CPU", found=str(model.device), hint="leave `quantize` at none")
    model.float()
    with torch.no_grad():
        if model.head is None:  # tied: the input embedding stays, the output matrix becomes a module of its own
            model.head = _quantised(model.embedding.weight, None, "int8", fine="head" in FINE)  # type: ignore[assignment]
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, _quantised(child.weight, child.bias, "int8" if name == "head" else bits,
                                                     fine=name in FINE))  # fmt: skip
    model.requires_grad_(False)


def _quantised(weight_OI: Tensor, bias_O: Tensor | None, bits: Literal["int8", "int4"], *, fine: bool) -> nn.Module:
    fits = weight_OI.shape[1] % GROUP == 0 and weight_OI.shape[0] % native.PANEL == 0  # what the int4 kernels take
    if native.kernels() is not None:
        return PackedLinear(weight_OI, bias_O, bits if fits else "int8")
    return Int4Linear(weight_OI, bias_O) if bits == "int4" and fits else Int8Linear(weight_OI, bias_O, fine=fine)
