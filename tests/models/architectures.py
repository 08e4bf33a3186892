"""Small models of every supported family, used by the tests of this folder."""

from dataclasses import replace

import torch

from wuya.models.config import GPTConfig, RopeScaling
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

GEMMA = {
    "norm_position": "both", "norm_offset": 1.0, "local_rope_base": 300.0, "rope_base": 1e6, "mlp": "geglu",
    "attention_scale": 6**-0.5, "embedding_scale": 32**0.5,
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
    "llama3": preset(
        "tiny",
        **SMALL,
        qk_norm=False,
        rope_base=500.0,
        rope_scaling=RopeScaling(kind="llama3", factor=4.0, original_length=12, low_freq_factor=1.0),
    ),
    "yarn": preset("tiny", **SMALL, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_length=12)),
    "linear": preset(
        "tiny", **SMALL, qk_norm=False, rope_scaling=RopeScaling(kind="linear", factor=2.5, original_length=48)
    ),
    "qwen2-windows": preset("tiny", **SMALL, qk_norm=False, attention_bias=True, window=7, local_layers=(1,)),
    "mistral": preset("tiny", **SMALL, qk_norm=False, window=16, local_layers=(0, 1), tie_embeddings=False),
    "phi3": preset(
        "tiny",
        **SMALL,
        qk_norm=False,
        rotary_channels=6,
        window=19,
        local_layers=(0, 1),
        tie_embeddings=False,
        rope_scaling=RopeScaling(
            kind="longrope", factor=4.0, original_length=48, short_factor=(1.0, 1.2, 1.5), long_factor=(1.0, 2.0, 4.0)
        ),
    ),
    "olmo2": preset("tiny", **SMALL, norm_position="output", qk_norm_width="all"),
    "smollm3": preset("tiny", **SMALL, qk_norm=False, nope_layers=(1,)),
    "gemma3": preset("tiny", **SMALL, **GEMMA, local_layers=(0,), window=9),
    "gemma3-scaled": preset(
        "tiny",
        **SMALL,
        **GEMMA,
        local_layers=(1,),
        window=60,
        softcap=3.0,
        rope_scaling=RopeScaling(kind="linear", factor=8.0, original_length=48),
    ),
    "speedrun": preset("tiny", **SMALL, mlp="relu2", softcap=5.0, tie_embeddings=False),
}

EIGHT_LAYERS = {"num_layers": 8, "context_length": 48}
IN_LLAMA_CPP: dict[str, GPTConfig] = {
    **{name: ARCHITECTURES[name] for name in (
        "gpt2", "gpt2-untied", "llama", "llama-biases", "qwen2", "qwen3", "qwen3-untied", "llama3", "yarn", "linear",
    )},
    "yarn-other-betas": preset("tiny", **SMALL, rope_scaling=RopeScaling(
        kind="yarn", factor=3.0, original_length=16, beta_fast=8.0, beta_slow=0.5)),
    "dynamic": preset("tiny", **SMALL, rope_scaling=RopeScaling(kind="dynamic", factor=3.0, original_length=48)),
    "mistral": replace(ARCHITECTURES["mistral"], window=48),
    "mistral-full": replace(ARCHITECTURES["mistral"], window=0, local_layers=(), family="mistral"),
    "phi3": replace(ARCHITECTURES["phi3"], window=256, context_length=256, rope_scaling=RopeScaling(
        kind="longrope", factor=4.0, original_length=256, short_factor=(1.0, 1.2, 1.5), long_factor=(1.0, 2.0, 4.0))),
    "phi3-plain": replace(ARCHITECTURES["phi3"], window=0, local_layers=(), rope_scaling=None, rotary_channels=0,
                          family="phi3"),
    "olmo2": replace(ARCHITECTURES["olmo2"], tie_embeddings=False),
    "smollm3": replace(ARCHITECTURES["smollm3"], **EIGHT_LAYERS, nope_layers=(3, 7)),
    "gemma3": replace(ARCHITECTURES["gemma3"], **EIGHT_LAYERS, local_layers=(0, 1, 2, 3, 4, 6, 7),
                      attention_scale=8**-0.5),
    "gemma3-scaled": replace(ARCHITECTURES["gemma3-scaled"], **EIGHT_LAYERS, local_layers=(0, 1, 2, 3, 4, 6, 7),
                             attention_scale=8**-0.5, window=12, softcap=0.0),
}  # fmt: skip
"""As llama.cpp computes them: some of its architectures have fixed patterns of layers, and no windows."""


def random_model(name: str | GPTConfig, *, seed: int = 0, std: float = 0.2) -> GPT:
    """A model whose every parameter (biases and gains too) is random, and large enough to matter."""
    torch.manual_seed(seed)
    model = GPT(ARCHITECTURES[name] if isinstance(name, str) else name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * std)
    return model


def random_ids(config: GPTConfig, *shape: int, seed: int = 1) -> torch.Tensor:
    """Uniform token ids."""
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
