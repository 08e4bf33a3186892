"""One transformer from GPT-1 and BERT to the modern line: ids in, final hidden states out, logits where wanted.

    model = GPT(presets.tiny(vocab_size=2048))
    hidden_BTD = model(ids_BT)                    # right padding needs no mask: nothing looks ahead
    logits_BTV = model.logits(hidden_BTD)         # float32; pick the positions you need before this call

Hidden states and logits are separate because the output matrix is a large share of a small model's work, and training
on completions or sampling one token needs few of its rows.
Dimension key: B sequences, T tokens, D model width, V vocabulary, P positions as in layers.py.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, noop_context_fn

from wuya.errors import DataError
from wuya.models.config import GPTConfig
from wuya.models.frozen_layers import FrozenLayers
from wuya.models.layers import Attention, AttentionCache, Block, init_weights, make_block, make_norm, residual_std
from wuya.models.packing import Packing, pack
from wuya.models.rotary import rotary_tables, scaled_tables

__all__ = ["GPT", "SHARED", "GPTConfig", "set_dropout"]

RecomputeContexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]
"""What a block is computed inside of, at first and again in the backward pass."""
SHARED = -2
"""The segment of tokens that all later tokens of their row may look at: a prompt before its answers."""


class GPT(nn.Module):
    """A causal decoder; with `attention="full"` an encoder (bert.py puts its heads on).

    Weights start as in GPT-2: N(0, 0.02), residual projections smaller by 1/sqrt(2 layers).
    """

    cos_TC: Tensor
    sin_TC: Tensor
    local_cos_TC: Tensor
    local_sin_TC: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout = config.dropout  # of the embeddings; see `set_dropout`
        self.activation_checkpointing = False  # True: recompute blocks in the backward pass, less memory, more time
        self.recompute_contexts: RecomputeContexts = noop_context_fn
        self.frozen_layers: FrozenLayers | None = None  # shared by the models on one trunk, see models/frozen_layers.py
        self.embedding = uninitialised_embedding(config.vocab_size, config.model_dim)
        learned = config.positions == "learned"
        self.position_embedding = uninitialised_embedding(config.context_length, config.model_dim) if learned else None
        types = config.token_types
        self.type_embedding = uninitialised_embedding(types, config.model_dim) if types else None
        self.embedding_norm = make_norm(config) if config.embedding_norm else None
        self.blocks = nn.ModuleList(make_block(config, layer) for layer in range(config.num_layers))
        self.final_norm = make_norm(config) if config.norm_position != "post" else None
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
        types_BT: Tensor | None = None,
        cache: AttentionCache | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states, after the last norm.

        Args:
            ids_BT: token ids, int64.
            positions_BT: position of each token in its sequence; 0 .. T-1 when absent. Required with a cache.
            segments_BT: sequence number of each token in a packed row; tokens see their own segment only, and `SHARED`.
                Rows of different lengths need it where attention is full: -1 for padding.
            types_BT: row of each token in the table of `token_types`; row 0 when absent.
            cache: keys and values of earlier tokens; it does the attention.
            wanted_BT: True where the hidden state is wanted; the last block's MLP is computed there only.
        Returns: hidden_PD in the weights' dtype, [B, T, D]; [N, D] of the N wanted positions, row after row, if named.
        """
        if ids_BT.shape[1] > self.config.context_length:
            raise DataError(
                "a sequence is longer than the model's context",
                found=f"{ids_BT.shape[1]} tokens, context_length {self.config.context_length}",
            )
        assert cache is None or (positions_BT is not None and segments_BT is None and self.is_causal), (
            "a cache needs positions, no segments, and causal attention"
        )
        rotary = self.rotary(ids_BT.shape[1], positions_BT)
        masks = self.masks(ids_BT, positions_BT, segments_BT) if cache is None else {}
        wanted_N = None if wanted_BT is None else wanted_BT.flatten().nonzero().squeeze(1)

        def run(x_PD: Tensor, layers: range) -> Tensor:
            for layer in layers:
                rows_N = wanted_N if layer == self.config.num_layers - 1 else None
                inputs = (x_PD, rotary[layer], masks.get(self.config.window_of(layer)), cache, layer, rows_N)
                if self.activation_checkpointing and torch.is_grad_enabled():
                    x_PD = checkpoint(
                        self.blocks[layer], *inputs, use_reentrant=False, context_fn=self.recompute_contexts
                    )
                else:
                    x_PD = self.blocks[layer](*inputs)
            return x_PD

        first = 0
        if self.frozen_layers is not None and cache is None and not (self.dropout and self.training):
            first = self.frozen_layers.count
            x_PD = self.frozen_layers.states(
                (ids_BT, positions_BT, segments_BT, types_BT),
                lambda: run(self.embed(ids_BT, positions_BT, types_BT), range(first)),
            )
        else:
            x_PD = self.embed(ids_BT, positions_BT, types_BT)
        x_PD = run(x_PD, range(first, self.config.num_layers))
        if self.final_norm is not None:
            x_PD = self.final_norm(x_PD)
        return x_PD

    def embed(self, ids_BT: Tensor, positions_BT: Tensor | None, types_BT: Tensor | None = None) -> Tensor:
        """Input of the first block, [B, T, D]."""
        x_BTD: Tensor = self.embedding(ids_BT)
        if self.config.embedding_scale != 1.0:  # rounded to the weights' dtype, as the published models are run
            x_BTD = x_BTD * torch.tensor(self.config.embedding_scale, dtype=self.dtype, device=x_BTD.device)
        if self.position_embedding is not None:
            weight_TD = self.position_embedding.weight
            x_BTD = x_BTD + (weight_TD[: ids_BT.shape[1]] if positions_BT is None else weight_TD[positions_BT])
        if self.type_embedding is not None:
            weight_SD = self.type_embedding.weight
            x_BTD = x_BTD + (weight_SD[0] if types_BT is None else weight_SD[types_BT])
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        if self.dropout:
            x_BTD = F.dropout(x_BTD, self.dropout, self.training)
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
        config = self.config
        if config.positions != "rope":
            return
        length, channels = config.context_length, config.turned_channels
        for prefix in ("", "local_") if config.local_rope_base else ("",):
            if self.device.type == "meta":  # arithmetic there would import the compiler
                cos_TC = sin_TC = torch.empty(length, channels, dtype=self.dtype, device=self.device)
            elif prefix:
                cos_TC, sin_TC = rotary_tables(length, channels, config.local_rope_base, self.device)
            else:
                cos_TC, sin_TC = scaled_tables(config, self.device)
            self.register_buffer(f"{prefix}cos_TC", cos_TC.to(self.dtype), persistent=False)
            self.register_buffer(f"{prefix}sin_TC", sin_TC.to(self.dtype), persistent=False)

    def rotary(self, length: int, positions_BT: Tensor | None) -> list[tuple[Tensor, Tensor] | None]:
        """For each layer cos and signed sin that broadcast over heads, [(B,) T, 1, C]; None where nothing turns."""

        def rows(table_TC: Tensor) -> Tensor:
            return table_TC[:length, None] if positions_BT is None else table_TC[positions_BT][:, :, None]

        config = self.config
        if config.positions == "learned":
            return [None] * config.num_layers
        everywhere = rows(self.cos_TC), rows(self.sin_TC)
        local = (rows(self.local_cos_TC), rows(self.local_sin_TC)) if config.local_rope_base else everywhere
        return [
            None if layer in config.nope_layers else local if layer in config.local_layers else everywhere
            for layer in range(config.num_layers)
        ]

    def masks(
        self, ids_BT: Tensor, positions_BT: Tensor | None, segments_BT: Tensor | None
    ) -> dict[int, Tensor] | dict[int, Packing]:
        """By attention window (0: all) what a query may look at: a mask [B or 1, 1, T, T], or where the sequences of
        packed rows lie; no entry where that is everything before it, or everything where attention is full."""
        if not self.is_causal:
            return {} if segments_BT is None else {0: own_segment_mask(segments_BT)}
        if segments_BT is not None and (packing := pack(segments_BT)) is not None:
            return {window: replace(packing, window=window) for window in (0, self.config.window)}
        masks = {} if segments_BT is None else {0: segment_mask(segments_BT)}
        window, T = self.config.window, ids_BT.shape[1]
        if self.config.local_layers:
            if T > window:
                places_BT = torch.arange(T, device=ids_BT.device)[None] if positions_BT is None else positions_BT
                near_B1TT = places_BT[:, None, :, None] - places_BT[:, None, None, :] < window
                seen_B1TT = masks.get(0)
                masks[window] = near_B1TT.tril() if seen_B1TT is None else near_B1TT & seen_B1TT
            elif 0 in masks:
                masks[window] = masks[0]
        return masks

    @property
    def output_matrix(self) -> Tensor | None:
        """The matrix [V, D] whose product with a hidden state is its logits; None where logits need more than that."""
        if self.config.softcap:
            return None
        return self.embedding.weight if self.head is None else self.head.weight

    @property
    def is_causal(self) -> bool:
        """Whether tokens see only what is before them."""
        return self.config.attention == "causal"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self.embedding.weight.dtype


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Train with this dropout on embeddings, residuals and attention weights; the config, which is saved, keeps its."""
    for module in model.modules():
        if isinstance(module, GPT | Block | Attention):
            module.dropout = dropout
        elif callable(set_all := getattr(module, "set_dropout", None)):  # a wrapped model
            set_all(dropout)


def uninitialised_embedding(rows: int, width: int) -> nn.Embedding:
    """A table whose values come later: nn.Embedding draws N(0, 1) first, which takes long for a large vocabulary."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width), _freeze=False)


def own_segment_mask(segments_BT: Tensor) -> Tensor:
    """True where two tokens are of the same segment, before or after, [B, 1, T, T]."""
    return segments_BT[:, None, :, None] == segments_BT[:, None, None, :]


def segment_mask(segments_BT: Tensor) -> Tensor:
    """True where query t may look at key s: s <= t, and s is of the same segment or shared; [B, 1, T, T]."""
    T = segments_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=segments_BT.device).tril()
    query_B1T1, key_B11T = segments_BT[:, None, :, None], segments_BT[:, None, None, :]
    return ((query_B1T1 == key_B11T) | (key_B11T == SHARED)) & causal_TT
