"""The parts of a transformer: norms, attention, MLPs, and the block in its two historical orders.

Everything here is written for eager mode: few passes over memory, no copies that a view can replace.
Dimension key: B sequences, T tokens, D model width, H query heads, K key/value heads, C head channels, F MLP width,
P positions: all of them, [B, T], or the wanted ones alone, [N].
"""

import math
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuya.models import fused
from wuya.models.config import GPTConfig
from wuya.models.packing import Packing
from wuya.models.rotary import rotate


class AttentionCache(Protocol):
    """What a decoder asks of a cache: keep these keys and values, and attend to all that were kept for each row."""

    def attend(self, layer: int, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, window: int = 0) -> Tensor:
        """Keep k and v of `layer`'s new tokens, then return causal attention of q over each row's whole past, BHTC.

        Args:
            window: each query sees its own token and the `window - 1` before it; 0: all of them.
        """
        ...


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (arXiv:1910.07467), statistics in float32."""

    def __init__(self, width: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight.float() + self.offset if self.offset else self.weight
        if fused.applies_to(x):
            return fused.rms_norm(x, gain, self.eps)
        return F.rms_norm(x, gain.shape, gain.to(x.dtype), self.eps)  # autocast: x may be bf16


class WideRMSNorm(RMSNorm):
    """RMSNorm over the channels of all heads together, [B, T, H, C] in and out (OLMo 2's QK-norm)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(2)).view(x.shape)


def make_norm(config: GPTConfig) -> nn.Module:
    """The norm over the model width that the config asks for."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.model_dim, config.norm_eps, config.norm_offset)
    return nn.LayerNorm(config.model_dim, config.norm_eps)


def make_head_norm(config: GPTConfig, num_heads: int) -> RMSNorm | None:
    """The norm of queries or keys before their rotation, if the config has one."""
    if not config.qk_norm:
        return None
    if config.qk_norm_width == "all":
        return WideRMSNorm(num_heads * config.head_dim, config.norm_eps, config.norm_offset)
    return RMSNorm(config.head_dim, config.norm_eps, config.norm_offset)


def softmax_attention(
    q_BHTC: Tensor,
    k_BKTC: Tensor,
    v_BKTC: Tensor,
    *,
    causal: bool = True,
    mask_B1TT: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention over the past, or over everything, scaled by 1/sqrt(C); returns BHTC.

    Args:
        causal: queries see themselves and what is before them; otherwise all that the mask shows.
        mask_B1TT: True where a query may look, causal already if `causal` is set.
        dropout: of attention weights.
    """
    if k_BKTC.shape[1] != q_BHTC.shape[1]:
        k_BKTC = k_BKTC.repeat_interleave(q_BHTC.shape[1] // k_BKTC.shape[1], dim=1)
        v_BKTC = v_BKTC.repeat_interleave(q_BHTC.shape[1] // v_BKTC.shape[1], dim=1)
    if causal and fused.applies_to(q_BHTC) and not dropout and q_BHTC.shape[2] <= fused.LONGEST:
        return fused.causal_attention(q_BHTC, k_BKTC, v_BKTC, mask_B1TT)
    return F.scaled_dot_product_attention(
        q_BHTC, k_BKTC, v_BKTC, attn_mask=mask_B1TT, is_causal=causal and mask_B1TT is None, dropout_p=dropout
    )


class Attention(nn.Module):
    """Self-attention with grouped key/value heads; q, k and v come out of one matrix, in that row order."""

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.window, self.query_factor = config.window_of(layer), config.query_factor
        self.causal, self.dropout = config.attention == "causal", config.dropout
        self.qkv = nn.Linear(config.model_dim, sum(config.qkv_rows), bias=config.attention_bias)
        self.out = nn.Linear(config.num_heads * config.head_dim, config.model_dim, bias=config.output_bias)
        self.q_norm, self.k_norm = (make_head_norm(config, heads) for heads in (config.num_heads, config.num_kv_heads))

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        seen: Tensor | Packing | None = None,
        cache: AttentionCache | None = None,
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
        if self.query_factor != 1.0:
            q_BTHC = q_BTHC * self.query_factor
        if isinstance(seen, Packing):
            heads_BTD = seen.attend(self.attend, q_BTHC, k_BTKC, v_BTKC)
        else:
            q_BHTC, k_BKTC, v_BKTC = q_BTHC.transpose(1, 2), k_BTKC.transpose(1, 2), v_BTKC.transpose(1, 2)
            if cache is not None:
                out_BHTC = cache.attend(layer, q_BHTC, k_BKTC, v_BKTC, window=self.window)
            else:
                out_BHTC = self.attend(q_BHTC, k_BKTC, v_BKTC, seen)
            heads_BTD = out_BHTC.transpose(1, 2).reshape(B, T, H * C)
        projected_PD: Tensor = self.out(heads_BTD if rows_N is None else take(heads_BTD, rows_N))
        return projected_PD

    def attend(self, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        """`softmax_attention` as this layer does it."""
        dropout = self.dropout if self.training else 0.0
        return softmax_attention(q_BHTC, k_BKTC, v_BKTC, causal=self.causal, mask_B1TT=mask_B1TT, dropout=dropout)


def take(x_BTD: Tensor, rows_N: Tensor) -> Tensor:
    """[N, D]: the positions with these numbers, rows laid end to end."""
    return x_BTD.flatten(0, 1).index_select(0, rows_N)


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)) (arXiv:2002.05202); gate and up come out of one matrix, gate rows first.

    The activation is SiLU (swiglu) or tanh-GELU (geglu).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.act = F.silu if config.mlp == "swiglu" else partial(F.gelu, approximate="tanh")
        self.gate_up = nn.Linear(config.model_dim, 2 * config.mlp_dim, bias=config.mlp_bias)
        self.down = nn.Linear(config.mlp_dim, config.model_dim, bias=config.mlp_bias)

    def forward(self, x_PD: Tensor) -> Tensor:
        h_PF = self.gate_up(x_PD)
        if self.act is F.silu and fused.applies_to(h_PF) and torch.is_grad_enabled():
            h_PF = fused.swiglu(h_PF)
        else:
            gate_PF, up_PF = h_PF.chunk(2, dim=-1)
            h_PF = self.act(gate_PF) * up_PF
        y_PD: Tensor = self.down(h_PF)
        return y_PD


class PlainMLP(nn.Module):
    """Two matrices around GELU (tanh form in GPT-1/2/3, exact in BERT) or squared ReLU (arXiv:2109.08668)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.squared_relu, self.approximate = config.mlp == "relu2", "none" if config.mlp == "gelu_exact" else "tanh"
        self.up = nn.Linear(config.model_dim, config.mlp_dim, bias=config.mlp_bias)
        self.down = nn.Linear(config.mlp_dim, config.model_dim, bias=config.mlp_bias)

    def forward(self, x_PD: Tensor) -> Tensor:
        h_PF = self.up(x_PD)
        h_PF = F.relu(h_PF).square() if self.squared_relu else F.gelu(h_PF, approximate=self.approximate)
        y_PD: Tensor = self.down(h_PF)
        return y_PD


class Block(nn.Module):
    """One layer: attention, then MLP, each added to the residual stream; norms before each, after each, or both."""

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        before, after = config.norm_position != "output", config.norm_position in ("output", "both")
        self.attention_norm = make_norm(config) if before else nn.Identity()
        self.attention = Attention(config, layer)
        self.attention_output_norm = make_norm(config) if after else nn.Identity()
        self.mlp_norm = make_norm(config) if before else nn.Identity()
        self.mlp = GatedMLP(config) if config.gated else PlainMLP(config)
        self.mlp_output_norm = make_norm(config) if after else nn.Identity()
        self.dropout = config.dropout

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        seen: Tensor | Packing | None = None,
        cache: AttentionCache | None = None,
        layer: int = 0,
        rows_N: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D]; with `rows_N` the MLP is applied to these positions alone, and [N, D] comes out."""
        attended_PD = self.attention(self.attention_norm(x_BTD), rotary, seen, cache, layer, rows_N)
        x_PD = x_BTD if rows_N is None else take(x_BTD, rows_N)
        x_PD = x_PD + self.drop(self.attention_output_norm(attended_PD))
        y_PD: Tensor = x_PD + self.drop(self.mlp_output_norm(self.mlp(self.mlp_norm(x_PD))))
        return y_PD

    def drop(self, x_PD: Tensor) -> Tensor:
        """Residual dropout; costs nothing when it is off."""
        return F.dropout(x_PD, self.dropout, self.training) if self.dropout else x_PD


class PostNormBlock(Block):
    """GPT-1's layer: each norm comes after the sum, on the residual stream itself."""

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        seen: Tensor | Packing | None = None,
        cache: AttentionCache | None = None,
        layer: int = 0,
        rows_N: Tensor | None = None,
    ) -> Tensor:
        """As in `Block`."""
        attended_PD = self.drop(self.attention(x_BTD, rotary, seen, cache, layer, rows_N))
        x_PD = self.attention_norm((x_BTD if rows_N is None else take(x_BTD, rows_N)) + attended_PD)
        y_PD: Tensor = self.mlp_norm(x_PD + self.drop(self.mlp(x_PD)))
        return y_PD


def make_block(config: GPTConfig, layer: int) -> Block:
    """The layer of this number, in the order of norms that the config asks for."""
    return PostNormBlock(config) if config.norm_position == "post" else Block(config, layer)


def init_weights(module: nn.Module, *, std: float, residual_std: float) -> None:
    """N(0, std) for every matrix, residual projections N(0, residual_std), biases 0, gains 1 (GPT-2's rule)."""
    offsets = {child.weight: child.offset for child in module.modules() if isinstance(child, RMSNorm)}
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2:
            is_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            nn.init.normal_(parameter, std=residual_std if is_residual else std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.constant_(parameter, 1.0 - offsets.get(parameter, 0.0))


def residual_std(std: float, num_layers: int) -> float:
    """GPT-2, section 2.3: residual projections start smaller by 1/sqrt(number of residual layers), two a block."""
    return std / math.sqrt(2 * num_layers)
