"""Weights of 8 or 4 bits for decoding on a CPU: a token must read a quarter (an eighth) of the bytes.

    quantize_model(model, "int8")      # in place; the model then generates and scores, and is not trained

int8: every output row of a matrix has one scale; inputs are rounded too, each token by its own largest value, and the
product is one of integers (FBGEMM). A token's result depends on no other token of its batch.
int4: groups of 32 columns share a scale and a zero point; inputs stay bfloat16.
Embeddings (as input), norms and attention stay as they are. docs/concepts/quantization.md has what it costs and gains.

Dimension key: B rows of input (any leading shape), I input columns, O output rows, G groups of columns.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuya.errors import ConfigError
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
        groups_OGI = weight_OI.float().view(self.out_features, -1, GROUP)
        low_OG1, high_OG1 = groups_OGI.amin(-1, keepdim=True), groups_OGI.amax(-1, keepdim=True)
        scale_OG1 = ((high_OG1 - low_OG1) / 15).clamp_min(1e-8)
        level_OI = ((groups_OGI - low_OG1) / scale_OG1).round().clamp(0, 15).to(torch.int32).view_as(weight_OI)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(level_OI, 1)
        # the kernel computes (level - 8) * scale + middle
        scales_OG2 = torch.cat((scale_OG1, low_OG1 + 8 * scale_OG1), dim=-1)
        self.scales = scales_OG2.transpose(0, 1).contiguous().to(torch.bfloat16)
        self.bias = None if bias_O is None else bias_O.detach().clone().float()

    def forward(self, x_BI: Tensor) -> Tensor:
        rows = x_BI.reshape(-1, self.in_features).to(torch.bfloat16)
        y_BO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.scales)
        y_BO = y_BO.to(x_BI.dtype).view(*x_BI.shape[:-1], self.out_features)
        return y_BO if self.bias is None else y_BO.add_(self.bias)


def quantize_model(model: GPT, bits: Literal["int8", "int4"]) -> None:
    """Replace every matrix of a model on the CPU, the output matrix too, in place."""
    if model.device.type != "cpu":
        raise ConfigError(f"{bits} weights are for the CPU", found=str(model.device), hint="leave `quantize` at none")
    model.float()
    with torch.no_grad():
        if model.head is None:  # tied: the input embedding stays, the output matrix becomes a module of its own
            model.head = _quantised(model.embedding.weight, None, bits, fine="head" in FINE)  # type: ignore[assignment]
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, _quantised(child.weight, child.bias, bits, fine=name in FINE))
    model.requires_grad_(False)


def _quantised(weight_OI: Tensor, bias_O: Tensor | None, bits: Literal["int8", "int4"], *, fine: bool) -> nn.Module:
    fits = weight_OI.shape[1] % GROUP == 0 and weight_OI.shape[0] % 16 == 0  # what the int4 kernel takes
    return Int4Linear(weight_OI, bias_O) if bits == "int4" and fits else Int8Linear(weight_OI, bias_O, fine=fine)
