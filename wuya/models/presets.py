"""Architectures by name: the published GPT-1, GPT-2 and GPT-3 sizes, the modern line, and small ones for two CPU cores.

    preset("gpt2-124m")                              # exactly as published
    preset("tiny", vocab_size=2048)                  # a field by name overrides the preset's
    modern(vocab_size=4096, num_layers=6, model_dim=256, context_length=256)

Parameter counts are tests (tests/models/test_presets.py).
"""

from collections.abc import Callable
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from wuya.errors import ConfigError
from wuya.models.config import GPTConfig


def gpt1() -> GPTConfig:
    """GPT-1 (Radford et al. 2018): post-LN, no final norm, learned positions; 116,534,784 parameters."""
    return replace(gpt2(12, 768, 12), vocab_size=40_478, context_length=512, norm_position="post")


def gpt2(num_layers: int, model_dim: int, num_heads: int, *, context_length: int = 1024) -> GPTConfig:
    """GPT-2 (Radford et al. 2019): pre-LN with a final norm, tanh-GELU, biases everywhere, tied output matrix."""
    return GPTConfig(
        vocab_size=50_257, context_length=context_length, num_layers=num_layers, model_dim=model_dim,
        num_heads=num_heads, num_kv_heads=num_heads, head_dim=model_dim // num_heads, mlp_dim=4 * model_dim,
        norm="layernorm", norm_position="pre", positions="learned", mlp="gelu", qk_norm=False,
        attention_bias=True, output_bias=True, mlp_bias=True, tie_embeddings=True, norm_eps=1e-5, dropout=0.1,
    )  # fmt: skip


def bert(num_layers: int, model_dim: int, num_heads: int, *, vocab_size: int = 30_522) -> GPTConfig:
    """BERT (arXiv:1810.04805): full attention, norms after each sum and of the embeddings, exact GELU.

    Base is 12, 768, 12: 110,106,428 parameters with the pooler and both heads, as `transformers` counts.
    """
    return replace(
        gpt2(num_layers, model_dim, num_heads), attention="full", vocab_size=vocab_size, context_length=512,
        norm_position="post", mlp="gelu_exact", token_types=2, embedding_norm=True, norm_eps=1e-12,
    )  # fmt: skip


def gpt3(num_layers: int, model_dim: int, num_heads: int) -> GPTConfig:
    """GPT-3 (arXiv:2005.14165, table 2.1): GPT-2 with context 2048 and no dropout.

    The paper alternates dense and locally banded sparse attention layers and gives no band width; every layer here is
    dense, which sees at least as much and has the same parameters. Two printed rows contradict themselves; here they
    are what fits: 1.3B with 16 heads (printed 24), 13B with width 5120 (printed 5140).
    """
    return replace(gpt2(num_layers, model_dim, num_heads, context_length=2048), dropout=0.0)


def modern(
    *, vocab_size: int, num_layers: int, model_dim: int, context_length: int, head_dim: int = 32, kv_groups: int = 1
) -> GPTConfig:
    """The modern line at any size, exactly a `Qwen3ForCausalLM`: RMSNorm, RoPE, QK-norm, SwiGLU, tied embeddings.

    Args:
        kv_groups: query heads that share one key/value head; 1 is plain multi-head attention.
    """
    num_heads = max(1, model_dim // head_dim)
    return GPTConfig(
        vocab_size=vocab_size, context_length=context_length, num_layers=num_layers, model_dim=model_dim,
        num_heads=num_heads, num_kv_heads=max(1, num_heads // kv_groups), head_dim=head_dim,
        mlp_dim=-(-8 * model_dim // 3 // 32) * 32,  # 8/3 D, so that three matrices cost as much as two of 4 D
    )  # fmt: skip


def tiny() -> GPTConfig:
    """For tests and the first try: 0.5M parameters with 1,024 tokens."""
    return modern(vocab_size=1024, num_layers=2, model_dim=96, context_length=128)


def demo() -> GPTConfig:
    """What `make demo` trains: 2.2M parameters, minutes on two cores."""
    return modern(vocab_size=2048, num_layers=4, model_dim=192, context_length=256)


def speedrun() -> GPTConfig:
    """Research on speed: relu2 and a softcap at the demo's size. No Hugging Face class has them: export is refused."""
    return replace(demo(), mlp="relu2", mlp_dim=768, softcap=15.0)


def qwen3(num_layers: int, model_dim: int, num_heads: int, mlp_dim: int, *, tied: bool) -> GPTConfig:
    """Qwen3 (arXiv:2505.09388): 8 key/value heads of 128 channels at every dense size."""
    return GPTConfig(
        vocab_size=151_936, context_length=40_960, num_layers=num_layers, model_dim=model_dim, num_heads=num_heads,
        num_kv_heads=8, head_dim=128, mlp_dim=mlp_dim, rope_base=1_000_000.0, tie_embeddings=tied,
    )  # fmt: skip


def smollm2_135m() -> GPTConfig:
    """SmolLM2-135M (arXiv:2502.02737), Llama architecture: 134,515,008 parameters."""
    return GPTConfig(
        vocab_size=49_152, context_length=8192, num_layers=30, model_dim=576, num_heads=9, num_kv_heads=3, head_dim=64,
        mlp_dim=1536, rope_base=100_000.0, qk_norm=False, norm_eps=1e-5,
    )  # fmt: skip


PRESETS: dict[str, Callable[[], GPTConfig]] = {
    "tiny": tiny,
    "demo": demo,
    "speedrun": speedrun,
    "gpt1": gpt1,
    "gpt2-124m": lambda: gpt2(12, 768, 12),
    "gpt2-355m": lambda: gpt2(24, 1024, 16),
    "gpt2-774m": lambda: gpt2(36, 1280, 20),
    "gpt2-1558m": lambda: gpt2(48, 1600, 25),
    "gpt3-125m": lambda: gpt3(12, 768, 12),
    "gpt3-350m": lambda: gpt3(24, 1024, 16),
    "gpt3-760m": lambda: gpt3(24, 1536, 16),
    "gpt3-1.3b": lambda: gpt3(24, 2048, 16),
    "gpt3-2.7b": lambda: gpt3(32, 2560, 32),
    "gpt3-6.7b": lambda: gpt3(32, 4096, 32),
    "gpt3-13b": lambda: gpt3(40, 5120, 40),
    "gpt3-175b": lambda: gpt3(96, 12288, 96),
    "qwen3-0.6b": lambda: qwen3(28, 1024, 16, 3072, tied=True),
    "qwen3-1.7b": lambda: qwen3(28, 2048, 16, 6144, tied=True),
    "qwen3-4b": lambda: qwen3(36, 2560, 32, 9728, tied=True),
    "qwen3-8b": lambda: qwen3(36, 4096, 32, 12288, tied=False),
    "smollm2-135m": smollm2_135m,
}


def preset(name: str, **overrides: Any) -> GPTConfig:
    """The named architecture with single fields replaced; unknown names and fields are refused with the nearest one."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        raise ConfigError(
            f"no model preset is called `{name}`",
            found=", ".join(PRESETS),
            hint=f"did you mean `{near[0]}`?" if near else "",
        )
    known = [field.name for field in fields(GPTConfig)]
    for key in overrides:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise ConfigError(
                f"a model has no field `{key}`",
                found=", ".join(known),
                hint=f"did you mean `{near[0]}`?" if near else "",
            )
    return replace(PRESETS[name](), **overrides)
