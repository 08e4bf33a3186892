"""Tensors that were read somewhere become a model's parameters, without a second copy; what does not fit is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from wuya.errors import CheckpointError
from wuya.models.bert import Bert
from wuya.models.config import GPTConfig
from wuya.models.decoder import Decoder
from wuya.models.gpt import GPT
from wuya.models.reward_model import ScalarModel
from wuya.tokenizer.bpe import Tokenizer

Network = TypeVar("Network", bound=nn.Module)

ROTARY_BYTES = 256 << 20
"""Tables of rotary positions may always take so much, and otherwise as much as the weights: 1M tokens beside 7B."""


def on_meta(config: GPTConfig, state: Mapping[str, Tensor], build: Callable[[GPTConfig], Network]) -> Network:
    """A model without memory or random initialisation, to be filled by `assign`; never larger than its file says.

    Args:
        state: the tensors that are there. A config of far more, or of a context that would take more memory than they
            do, is refused before anything is built.
        build: the class, such as `GPT`.
    """
    held = sum(tensor.numel() for tensor in state.values())
    if config.num_parameters > 8 * held + 2**20 or config.num_layers > len(state) + 100:
        raise CheckpointError(
            "config.json describes a far larger model than the tensors are",
            found=f"{config.num_layers:,} layers and {config.num_parameters:,} parameters; {len(state):,} tensors of "
            f"{held:,} numbers",
            hint="get config.json again, from where the weights are from",
        )
    table = 8 * config.context_length * config.turned_channels
    if table > max(ROTARY_BYTES, 4 * held):
        raise CheckpointError(
            "the context of this model is far longer than its size allows",
            found=f"{config.context_length:,} tokens: its tables of rotary positions take {table >> 20:,} MiB",
            hint="lower `max_position_embeddings` in config.json to the length that the model was trained with",
        )
    with torch.device("meta"):
        return build(config)


def assign(model: Network, state: Mapping[str, Tensor], where: Path) -> Network:
    """Make tensors the parameters of a model on meta, without a second copy; names and shapes must be the config's."""
    wrong = [
        f"{name} {tuple(state[name].shape)}, config.json says {tuple(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if name in state and state[name].shape != parameter.shape
    ]
    if wrong:
        raise CheckpointError(
            f"tensors of `{where}` do not have the shapes of its config.json", found="; ".join(wrong[:3])
        )
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:  # names of our own format only: those of others were checked by state_from_hf
        raise CheckpointError(f"tensors of `{where}` do not fit its config.json", found=str(error)[:300]) from error
    for module in model.modules():
        if isinstance(module, GPT):
            module.build_rotary()
    return model


def require_same_vocabulary(model: Decoder | ScalarModel | Bert, tokenizer: Tokenizer, *, where: str) -> None:
    """A tokenizer may know fewer tokens than the model has rows (padding), never more."""
    config = model.trunk.config if isinstance(model, ScalarModel) else model.config
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"vocabulary mismatch in `{where}`: the tokenizer can give ids the model has no embedding for",
            found=f"{tokenizer.vocab_size} tokens, {config.vocab_size} embeddings",
            hint="use the tokenizer the model was trained with",
        )
