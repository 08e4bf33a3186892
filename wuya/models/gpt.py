"""One decoder from GPT-1 to the modern line: ids in, final hidden states out, logits where they are wanted.

    model = GPT(presets.tiny(vocab_size=2048))
    hidden_BTD = model(ids_BT)                    # right padding needs no mask: nothing looks ahead
    logits_BTV = model.logits(hidden_BTD)         # float32; pick the positions you need before this call

Hidden states and logits are separate because the output matrix is a large share of a small model's work, and training
on completions or sampling one token needs few of its rows.
Dimension key: B sequences, T tokens, D model width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wuya.errors import DataError
from wuya.models.config import GPTConfig
from wuya.models.layers import Block, KVCache, init_weights, make_norm, residual_std, rotary_tables

__all__ = ["GPT", "SHARED", "GPTConfig"]

SHARED = -2
"""The segment of tokens that all later tokens of their row may look at: a prompt before its answers."""


class GPT(nn.Module):
    """A causal decoder. Weights start as in GPT-2: N(0, 0.02), residual projections smaller by 1/sqrt(2 layers)."""

    cos_TC: Tensor
    sin_TC: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False  # True: recompute blocks in the backward pass, less memory, more time
        self.embedding = uninitialised_embedding(config.vocab_size, config.model_dim)
        learned = config.positions == "learned"
        self.position_embedding = uninitialised_embedding(config.context_length, config.model_dim) if learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = make_norm(config) if config.norm_position == "pre" else None
        self.head = None if config.tie_embeddings else nn.Linear(config.model_dim, config.vocab_size, bias=False)
        self.build_rotary()
        if self.device.type != "meta":  # there it would do nothing, slowly
            init_weights(self, std=0.02, residual_std=residual_std(0.02, config.num_layers))

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        cache: KVCache | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states, after the last norm.

        Args:
            ids_BT: token ids, int64.
            positions_BT: position of each token in its sequence; 0 .. T-1 when absent. Required with a cache.
            segments_BT: sequence number of each token in a packed row; tokens see their own segment only, and `SHARED`.
            cache: keys and values of earlier tokens; it does the attention.
            wanted_BT: True where the hidden state is wanted; the last block's MLP is computed there only.
        Returns: hidden_BTD in the weights' dtype; [N, D] of the N wanted positions, row after row, if some are named.
        """
        if ids_BT.shape[1] > self.config.context_length:
            raise DataError(
                "a sequence is longer than the model's context",
                found=f"{ids_BT.shape[1]} tokens, context_length {self.config.context_length}",
            )
        assert cache is None or (positions_BT is not None and segments_BT is None), (
            "a cache needs positions, no segments"
        )
        x_BTD: Tensor = self.embedding(ids_BT)
        if self.position_embedding is not None:
            weight_TD = self.position_embedding.weight
            x_BTD = x_BTD + (weight_TD[: ids_BT.shape[1]] if positions_BT is None else weight_TD[positions_BT])
        if self.config.dropout and self.training:
            x_BTD = F.dropout(x_BTD, self.config.dropout)
        rotary = self.rotary(ids_BT.shape[1], positions_BT)
        mask_B1TT = None if segments_BT is None else segment_mask(segments_BT)
        wanted_N = None if wanted_BT is None else wanted_BT.flatten().nonzero().squeeze(1)
        for layer, block in enumerate(self.blocks):
            rows_N = wanted_N if layer == self.config.num_layers - 1 else None
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, rotary, mask_B1TT, None, layer, rows_N, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, rotary, mask_B1TT, cache, layer, rows_N)
        if self.final_norm is not None:
            x_BTD = self.final_norm(x_BTD)
        return x_BTD

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits, float32, [..., V], of hidden states [..., D]."""
        logits: Tensor = F.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)
        logits = logits.float()
        if self.config.softcap:
            logits = self.config.softcap * torch.tanh(logits / self.config.softcap)
        return logits

    def build_rotary(self) -> None:
        """(Re)compute the tables of rotary positions, which no checkpoint stores."""
        if self.config.positions == "rope":
            length, channels = self.config.context_length, self.config.head_dim
            if self.device.type == "meta":  # arithmetic there would import the compiler
                cos_TC = sin_TC = torch.empty(length, channels, dtype=self.dtype, device=self.device)
            else:
                cos_TC, sin_TC = rotary_tables(length, channels, self.config.rope_base, self.device)
            self.register_buffer("cos_TC", cos_TC.to(self.dtype), persistent=False)
            self.register_buffer("sin_TC", sin_TC.to(self.dtype), persistent=False)

    def rotary(self, length: int, positions_BT: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """cos and signed sin that broadcast over heads, [(B,) T, 1, C]; None for learned positions."""
        if self.config.positions == "learned":
            return None
        if positions_BT is None:
            return self.cos_TC[:length, None], self.sin_TC[:length, None]
        return self.cos_TC[positions_BT][:, :, None], self.sin_TC[positions_BT][:, :, None]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self.embedding.weight.dtype


def uninitialised_embedding(rows: int, width: int) -> nn.Embedding:
    """A table whose values come later: nn.Embedding draws N(0, 1) first, which takes long for a large vocabulary."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width), _freeze=False)


def segment_mask(segments_BT: Tensor) -> Tensor:
    """True where query t may look at key s: s <= t, and s is of the same segment or shared; [B, 1, T, T]."""
    T = segments_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=segments_BT.device).tril()
    query_B1T1, key_B11T = segments_BT[:, None, :, None], segments_BT[:, None, None, :]
    return ((query_B1T1 == key_B11T) | (key_B11T == SHARED)) & causal_TT
