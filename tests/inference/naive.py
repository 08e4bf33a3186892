"""A small decoder with opinions, and the slow, obvious way to generate with it."""

import random

import torch
from torch import Tensor

from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT

VOCAB = 24


def sharp_model(seed: int = 0, *, num_kv_heads: int = 2, positions: str = "rope", vocab_size: int = VOCAB) -> GPT:
    """Random weights scaled up until the next token depends on every earlier one."""
    torch.manual_seed(seed)
    classic = positions == "learned"
    model = GPT(
        GPTConfig(
            vocab_size=vocab_size,
            context_length=64,
            num_layers=2,
            model_dim=32,
            num_heads=4,
            num_kv_heads=num_kv_heads,
            head_dim=8,
            mlp_dim=48,
            positions="learned" if classic else "rope",
            norm="layernorm" if classic else "rmsnorm",
            mlp="gelu" if classic else "swiglu",
            qk_norm=not classic,
            tie_embeddings=False,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model.eval()


def random_prompts(count: int, *, longest: int = 12, seed: int = 0, vocab_size: int = VOCAB) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(vocab_size) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@torch.no_grad()
def full_logprobs(model: GPT, prompt: list[int], completion: tuple[int, ...], temperature: float = 1.0) -> Tensor:
    """Oracle: log-probs [T, V] before each completion token, by one forward over everything, no cache."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = model.logits(model(ids)[0, len(prompt) - 1 : -1])
    return (logits / temperature).log_softmax(-1)


@torch.no_grad()
def naive_greedy(model: GPT, prompt: list[int], max_tokens: int, stops: tuple[int, ...] = ()) -> list[int]:
    """Oracle: one full forward a token."""
    ids = list(prompt)
    for _ in range(max_tokens):
        ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]
