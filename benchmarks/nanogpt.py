"""nanoGPT's model and training step, written anew from its published description, as a peer to measure against.

GPT-2 with pre-LN, exact GELU, learned positions, tied output matrix, no biases in the matrices (its default for
training), torch's scaled-dot-product attention, AdamW with decay on every matrix, gradient clipping at 1, cosine rate.
Names of modules are those of GPT-2's released weights.
Dimension key: B sequences, T tokens, D model width, H heads, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class NanoConfig:
    """The sizes."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int


class SelfAttention(nn.Module):
    """Causal attention, q, k and v from one matrix."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.num_heads = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q, k, v = (
            part.view(B, T, self.num_heads, D // self.num_heads).transpose(1, 2)
            for part in self.c_attn(x_BTD).split(D, dim=2)
        )
        y_BHTC = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y_BTD: Tensor = self.c_proj(y_BHTC.transpose(1, 2).contiguous().view(B, T, D))
        return y_BTD


class MLP(nn.Module):
    """Two matrices around GELU."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.c_proj(F.gelu(self.c_fc(x_BTD)))
        return y_BTD


class NanoBlock(nn.Module):
    """Norm, attention, norm, MLP."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=False)
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=False)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attn(self.ln_1(x_BTD))
        y_BTD: Tensor = x_BTD + self.mlp(self.ln_2(x_BTD))
        return y_BTD


class NanoGPT(nn.Module):
    """Ids and targets in, mean nats out."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(NanoBlock(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        x_BTD = self.wte(ids_BT) + self.wpe(torch.arange(ids_BT.shape[1]))
        for block in self.h:
            x_BTD = block(x_BTD)
        logits_BTV = F.linear(self.ln_f(x_BTD), self.wte.weight)
        return F.cross_entropy(logits_BTV.view(-1, logits_BTV.size(-1)), targets_BT.reshape(-1))


def nano_optimizer(model: nn.Module, *, lr: float, weight_decay: float = 0.1, beta2: float = 0.95) -> torch.optim.AdamW:
    """AdamW with decay on matrices only; its fused kernel is used on CUDA alone."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, beta2), fused=torch.cuda.is_available())


def nano_learning_rate(step: int, *, peak: float, lowest: float, warmup: int, num_steps: int) -> float:
    """Linear warm-up, then half a cosine down to `lowest`."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    share = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    return lowest + 0.5 * (1 + math.cos(math.pi * share)) * (peak - lowest)
