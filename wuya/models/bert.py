"""BERT (arXiv:1810.04805): the trunk of gpt.py with full attention, and the two heads it is pre-trained with.

    model = Bert(presets.bert(4, 256, 4))
    hidden_BTD = model(ids_BT, segments_BT=segments_BT)      # -1 in segments_BT marks padding
    logits_NV = model.logits(hidden_BTD[masked_BT])          # what was there: the masked language model
    label_B2 = model.next_sentence(model.pooled(hidden_BTD)) # 0: the second text follows the first

One field of the config makes the encoder, `attention="full"`; any architecture of presets.py can have it, so what a
direction is worth can be measured with everything else equal. `presets.bert` is the published one, which
`transformers` loads (checkpoints/bert_files.py).
Dimension key: B sequences, T tokens, D model width, V vocabulary, N positions of interest.
"""

from collections.abc import Collection
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuya.errors import CheckpointError, ConfigError
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.layers import init_weights, make_norm

Head = Literal["masked", "pooler", "next_sentence"]
HEADS: tuple[Head, ...] = get_args(Head)


class Bert(nn.Module):
    """An encoder and its heads. Weights start as N(0, 0.02)."""

    def __init__(self, config: GPTConfig, *, heads: Collection[Head] = HEADS) -> None:
        """`heads`: a published encoder may come without one or all; what needs an absent one raises CheckpointError."""
        super().__init__()
        if config.attention != "full" or not config.tie_embeddings or config.softcap:
            raise ConfigError(
                "an encoder needs full attention, tied embeddings and uncapped logits",
                found=f"attention {config.attention}, tie_embeddings {config.tie_embeddings}, softcap {config.softcap}",
            )
        D = config.model_dim
        self.config = config
        self.trunk = GPT(config)
        self.masked = MaskedHead(config) if "masked" in heads else None
        self.pooler = nn.Linear(D, D) if "pooler" in heads else None
        self.pair = nn.Linear(D, 2) if "next_sentence" in heads else None
        if self.trunk.device.type != "meta":
            init_weights(self, std=0.02, residual_std=0.02)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        segments_BT: Tensor | None = None,
        types_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states, [B, T, D], or of the N wanted positions alone, [N, D]; arguments as in `GPT.forward`."""
        hidden: Tensor = self.trunk(ids_BT, segments_BT=segments_BT, types_BT=types_BT, wanted_BT=wanted_BT)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits, float32, [..., V], of the token at each position (not of the next one), from states [..., D]."""
        logits: Tensor = _present(self.masked, "masked tokens")(hidden, self.trunk.embedding.weight)
        return logits

    def pooled(self, hidden_BTD: Tensor) -> Tensor:
        """One vector for each sequence, [B, D]: what the head of pairs and those of fine-tuned tasks read."""
        first_BD: Tensor = _present(self.pooler, "whole sequences (the pooler)")(hidden_BTD[:, 0])
        return first_BD.tanh()

    def next_sentence(self, pooled_BD: Tensor) -> Tensor:
        """Logits, float32, [B, 2]: 0, the second text follows the first; 1, it is of another document."""
        logits_B2: Tensor = _present(self.pair, "pairs of texts")(pooled_BD)
        return logits_B2.float()

    @property
    def num_parameters(self) -> int:
        """Every parameter; the tied output matrix is counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


class MaskedHead(nn.Module):
    """A layer of its own before the embedding table, which is the output matrix, and a bias for each token."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.model_dim, config.model_dim)
        self.norm = make_norm(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, table_VD: Tensor) -> Tensor:
        """Logits, float32, [..., V]."""
        transformed = self.norm(F.gelu(self.transform(hidden)))
        return F.linear(transformed, table_VD).float() + self.bias


def _present(head: nn.Module | None, of: str) -> nn.Module:
    if head is None:
        raise CheckpointError(
            f"this encoder was published without its head for {of}", hint="a folder of `BertForPreTraining` has both"
        )
    return head
