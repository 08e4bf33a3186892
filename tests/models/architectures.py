"""Small models of every supported family, used by the tests of this folder."""

import torch

from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.presets import preset

CLASSIC = {
    "norm": "layernorm", "positions": "learned", "mlp": "gelu", "qk_norm": False,
    "attention_bias": True, "output_bias": True, "mlp_bias": True, "norm_eps": 1e-5,
}  # fmt: skip
SMALL = {
    "vocab_size": 320, "context_length": 48, "num_layers": 2, "model_dim": 32, "num_heads": 4, "num_kv_heads": 2,
    "head_dim": 8, "mlp_dim": 64,
}  # fmt: skip

ARCHITECTURES: dict[str, GPTConfig] = {
    "gpt1": preset("tiny", **SMALL | CLASSIC | {"num_kv_heads": 4, "norm_position": "post", "mlp_dim": 128}),
    "gpt2": preset("tiny", **SMALL | CLASSIC | {"num_kv_heads": 4}),
    "gpt2-untied": preset("tiny", **SMALL | CLASSIC | {"num_kv_heads": 4, "tie_embeddings": False}),
    "llama": preset("tiny", **SMALL, qk_norm=False, rope_base=1234.5),
    "llama-biases": preset("tiny", **SMALL, qk_norm=False, attention_bias=True, output_bias=True, mlp_bias=True),
    "qwen2": preset("tiny", **SMALL, qk_norm=False, attention_bias=True),
    "qwen3": preset("tiny", **SMALL | {"head_dim": 12}),  # head_dim is not model_dim / num_heads
    "qwen3-untied": preset("tiny", **SMALL, tie_embeddings=False),
    "speedrun": preset("tiny", **SMALL, mlp="relu2", softcap=5.0, tie_embeddings=False),
}


def random_model(name: str, *, seed: int = 0, std: float = 0.2) -> GPT:
    """A model whose every parameter (biases and gains too) is random, and large enough to matter."""
    torch.manual_seed(seed)
    model = GPT(ARCHITECTURES[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * std)
    return model


def random_ids(config: GPTConfig, *shape: int, seed: int = 1) -> torch.Tensor:
    """Uniform token ids."""
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
