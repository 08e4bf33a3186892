"""Tensors that were read somewhere become a model's parameters, without a second copy; what does not fit is refused."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wuya.errors import CheckpointError
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.reward_model import ScalarModel
from wuya.tokenizer.bpe import Tokenizer


def on_meta(config: GPTConfig) -> GPT:
    """A model without memory or random initialisation, to be filled by `assign`."""
    with torch.device("meta"):
        return GPT(config)


def assign(model: GPT, state: Mapping[str, Tensor], where: Path) -> GPT:
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
    model.build_rotary()
    return model


def require_same_vocabulary(model: GPT | ScalarModel, tokenizer: Tokenizer, *, where: str) -> None:
    """A tokenizer may know fewer tokens than the model has rows (padding), never more."""
    config = model.trunk.config if isinstance(model, ScalarModel) else model.config
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"vocabulary mismatch in `{where}`: the tokenizer can give ids the model has no embedding for",
            found=f"{tokenizer.vocab_size} tokens, {config.vocab_size} embeddings",
            hint="use the tokenizer the model was trained with",
        )
