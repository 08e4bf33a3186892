"""The parts of a decoder: norms, rotary positions, attention, MLPs, and the block in its two historical orders.

Everything here is written for eager mode: few passes over memory, no copies that a view can replace.
Dimension key: B sequences, T tokens, D model width, H query heads, K key/value heads, C head channels, F MLP width.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuya.models import fused
from wuya.models.config import GPTConfig


class KVCache(Protocol):
    """What a decoder asks of a cache: keep these keys and values, and attend to all that were kept for each row."""

    def attend(self, layer: int, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor) -> Tensor:
        """Keep k and v of `layer`'s new tokens, then return causal attention of q over each row's whole past, BHTC."""
        ...


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (arXiv:1910.07467), statistics in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if fused.applies_to(x):
            return fused.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)  # autocast: x may be bf16


def make_norm(config: GPTConfig) -> nn.Module:
    """The norm over the model width that the config asks for."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.model_dim, config.norm_eps)
    return nn.LayerNorm(config.model_dim, config.norm_eps)


def rotary_tables(length: int, channels: int, base: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """cos and signed sin, both [length, channels] float32, for the rotate-half form (arXiv:2104.09864 as in GPT-NeoX).

    The sine carries the sign of rotate-half, so a rotation is `x * cos + roll(x, C/2) * sin`: two products and a roll.
    """
    frequencies_C = base ** (-torch.arange(0, channels, 2, dtype=torch.float32, device=device) / channels)
    angles_TC = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies_C
    cos_TC, sin_TC = angles_TC.cos(), angles_TC.sin()
    return torch.cat((cos_TC, cos_TC), dim=-1), torch.cat((-sin_TC, sin_TC), dim=-1)


def rotate(x_BTHC: Tensor, cos_BT1C: Tensor, sin_BT1C: Tensor) -> Tensor:
    """Rotary positions: channel pair (c, c + C/2) of each head is turned by its position's angle."""
    return torch.addcmul(x_BTHC * cos_BT1C, x_BTHC.roll(x_BTHC.shape[-1] // 2, dims=-1), sin_BT1C)


def causal_attention(
    q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, mask_B1TT: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Softmax attention over the past, scaled by 1/sqrt(C); returns BHTC.

    Args:
        mask_B1TT: True where a query may look, causal already; plain causal when absent.
        dropout: of attention weights.
    """
    if k_BKTC.shape[1] != q_BHTC.shape[1]:
        k_BKTC = k_BKTC.repeat_interleave(q_BHTC.shape[1] // k_BKTC.shape[1], dim=1)
        v_BKTC = v_BKTC.repeat_interleave(q_BHTC.shape[1] // v_BKTC.shape[1], dim=1)
    if fused.applies_to(q_BHTC) and not dropout and q_BHTC.shape[2] <= fused.LONGEST:
        return fused.causal_attention(q_BHTC, k_BKTC, v_BKTC, mask_B1TT)
    return F.scaled_dot_product_attention(
        q_BHTC, k_BKTC, v_BKTC, attn_mask=mask_B1TT, is_causal=mask_B1TT is None, dropout_p=dropout
    )


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads; q, k and v come out of one matrix, in that row order."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.model_dim, sum(config.qkv_rows), bias=config.attention_bias)
        self.out = nn.Linear(config.num_heads * config.head_dim, config.model_dim, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        mask_B1TT: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        rows_N: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D]; with `rows_N`, numbers of positions laid end to end, only these as [N, D]."""
        B, T, _ = x_BTD.shape
        H, K, C = self.num_heads, self.num_kv_heads, self.head_dim
        q_BTHC, k_BTKC, v_BTKC = self.qkv(x_BTD).view(B, T, H + 2 * K, C).split((H, K, K), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHC, k_BTKC = self.q_norm(q_BTHC), self.k_norm(k_BTKC)
        if rotary is not None:
            q_BTHC, k_BTKC = rotate(q_BTHC, *rotary), rotate(k_BTKC, *rotary)
        q_BHTC, k_BKTC, v_BKTC = q_BTHC.transpose(1, 2), k_BTKC.transpose(1, 2), v_BTKC.transpose(1, 2)
        if cache is not None:
            out_BHTC = cache.attend(layer, q_BHTC, k_BKTC, v_BKTC)
        else:
            dropout = self.dropout if self.training else 0.0
            out_BHTC = causal_attention(q_BHTC, k_BKTC, v_BKTC, mask_B1TT=mask_B1TT, dropout=dropout)
        heads_BTD = out_BHTC.transpose(1, 2).reshape(B, T, H * C)
        projected_BTD: Tensor = self.out(heads_BTD if rows_N is None else take(heads_BTD, rows_N))
        return projected_BTD


def take(x_BTD: Tensor, rows_N: Tensor) -> Tensor:
    """[N, D]: the positions with these numbers, rows laid end to end."""
    return x_BTD.flatten(0, 1).index_select(0, rows_N)


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv:2002.05202); gate and up come out of one matrix, gate rows first."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.model_dim, 2 * config.mlp_dim, bias=config.mlp_bias)
        self.down = nn.Linear(config.mlp_dim, config.model_dim, bias=config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h_BTF = self.gate_up(x_BTD)
        if fused.applies_to(h_BTF) and torch.is_grad_enabled():
            h_BTF = fused.swiglu(h_BTF)
        else:
            gate_BTF, up_BTF = h_BTF.chunk(2, dim=-1)
            h_BTF = F.silu(gate_BTF) * up_BTF
        y_BTD: Tensor = self.down(h_BTF)
        return y_BTD


class PlainMLP(nn.Module):
    """Two matrices around tanh-GELU (GPT-1/2/3) or squared ReLU (arXiv:2109.08668)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.squared_relu = config.mlp == "relu2"
        self.up = nn.Linear(config.model_dim, config.mlp_dim, bias=config.mlp_bias)
        self.down = nn.Linear(config.mlp_dim, config.model_dim, bias=config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h_BTF = self.up(x_BTD)
        h_BTF = F.relu(h_BTF).square() if self.squared_relu else F.gelu(h_BTF, approximate="tanh")
        y_BTD: Tensor = self.down(h_BTF)
        return y_BTD


class Block(nn.Module):
    """One layer: attention, then MLP, each with a residual; norm before the sub-block (GPT-2) or after the sum."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.post_norm = config.norm_position == "post"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = GatedMLP(config) if config.mlp == "swiglu" else PlainMLP(config)
        self.dropout = config.dropout

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        mask_B1TT: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        rows_N: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D]; with `rows_N` the MLP is applied to these positions alone, and [N, D] comes out."""
        read_BTD = x_BTD if self.post_norm else self.attention_norm(x_BTD)
        attended_BTD = self.drop(self.attention(read_BTD, rotary, mask_B1TT, cache, layer, rows_N))
        x_BTD = (x_BTD if rows_N is None else take(x_BTD, rows_N)) + attended_BTD
        if self.post_norm:
            x_BTD = self.attention_norm(x_BTD)
            y_BTD: Tensor = self.mlp_norm(x_BTD + self.drop(self.mlp(x_BTD)))
            return y_BTD
        return x_BTD + self.drop(self.mlp(self.mlp_norm(x_BTD)))

    def drop(self, x_BTD: Tensor) -> Tensor:
        """Residual dropout; costs nothing when it is off."""
        return F.dropout(x_BTD, self.dropout, self.training) if self.dropout else x_BTD


def init_weights(module: nn.Module, *, std: float, residual_std: float) -> None:
    """N(0, std) for every matrix, residual projections N(0, residual_std), biases 0, gains 1 (GPT-2's rule)."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2:
            is_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            nn.init.normal_(parameter, std=residual_std if is_residual else std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.ones_(parameter)


def residual_std(std: float, num_layers: int) -> float:
    """GPT-2, section 2.3: residual projections start smaller by 1/sqrt(number of residual layers), two a block."""
    return std / math.sqrt(2 * num_layers)
