"""The architectures of llama.cpp that hold our families: names of tensors, layout of weights, metadata that we write.

llama.cpp computes some things by constants that no key changes (SmolLM3's layers without positions, Gemma's pattern of
local layers); a model that differs from them is not exported. `gguf_metadata` reads what is written here.

Layouts: `llama` and `smollm3` files hold the rows of q and k permuted so that rotary pairs lie side by side, `gpt2`
files hold matrices as outputs by inputs (Hugging Face's class transposed), `gemma3` files hold gains as they multiply
(Hugging Face stores them less 1).
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from gguf import GGUFWriter
from gguf.constants import RopeScalingType
from torch import Tensor

from wuya.checkpoints.families import Family
from wuya.errors import CheckpointError, ConfigError
from wuya.models.config import GPTConfig, RopeScaling
from wuya.models.rotary import attention_factor, frequencies, scaled_frequencies

FAMILY_OF: dict[str, Family] = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "olmo2": "olmo2", "smollm3": "smollm3",
    "gemma3": "gemma3_text", "gpt2": "gpt2",
}  # fmt: skip
ARCHITECTURE_OF: dict[Family, str] = {family: arch for arch, family in FAMILY_OF.items()} | {"mistral": "llama"}
INTERLEAVED = ("llama", "smollm3")
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
INNER_OF = {
    "phi3": INNER | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    "olmo2": {part: name for part, name in INNER.items() if part not in ("attn_norm", "ffn_norm")} | POST_NORMS,
    "gemma3": INNER | {"ffn_norm": "pre_feedforward_layernorm"} | POST_NORMS,
}
GPT2_OUTER = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
    "output": "lm_head",
}  # fmt: skip
GPT2_INNER = {
    "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
GEMMA_PERIOD, SMOLLM3_PERIOD = 6, 4
"""Every so many layers, Gemma 3's is not local and SmolLM3's has no positions; constants of llama.cpp."""
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


# -- tensors
def naming(architecture: str) -> tuple[dict[str, str], dict[str, str], str]:
    """Names outside and inside the layers, GGUF's to Hugging Face's, and what Hugging Face puts before a layer."""
    if architecture == "gpt2":
        return GPT2_OUTER, GPT2_INNER, "transformer.h"
    return OUTER, INNER_OF.get(architecture, INNER), "model.layers"


def hf_name(name: str, architecture: str, path: Path) -> str:
    """Hugging Face's name of a GGUF tensor."""
    outer, inner, layers = naming(architecture)
    stem, _, kind = name.rpartition(".")
    if stem in outer:
        return f"{outer[stem]}.{kind}"
    prefix, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    if prefix == "blk" and part in inner:
        return f"{layers}.{layer}.{inner[part]}.{kind}"
    raise CheckpointError(f"`{path}` holds a tensor this architecture has no place for", found=name)


def gguf_name(name: str, architecture: str) -> str:
    """GGUF's name of one of Hugging Face's tensors."""
    outer, inner, layers = naming(architecture)
    names = {theirs: ours for ours, theirs in (*outer.items(), *inner.items())}
    stem, _, kind = name.rpartition(".")
    if stem.startswith(f"{layers}."):
        layer, _, part = stem.removeprefix(f"{layers}.").partition(".")
        return f"blk.{layer}.{names[part]}.{kind}"
    return f"{names[stem]}.{kind}"


def to_hf_layout(weight: Tensor, name: str, architecture: str, config: GPTConfig) -> Tensor:
    """A tensor of a GGUF file, called `name` in Hugging Face's spelling, as Hugging Face's class stores it."""
    if heads := _interleaved_heads(name, architecture, config):
        return unpermute(weight, heads)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return weight - 1
    return weight.T if is_transposed(name) else weight


def to_gguf_layout(weight: Tensor, name: str, architecture: str, config: GPTConfig) -> Tensor:
    """The inverse of `to_hf_layout`."""
    if heads := _interleaved_heads(name, architecture, config):
        return permute(weight, heads)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return weight + 1
    return weight.T if is_transposed(name) else weight


def _interleaved_heads(name: str, architecture: str, config: GPTConfig) -> int:
    if architecture not in INTERLEAVED:
        return 0
    return config.num_heads if ".q_proj." in name else config.num_kv_heads if ".k_proj." in name else 0


def permute(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of q or k (or their biases) from two halves per head to interleaved rotary pairs; undone by `unpermute`."""
    rows, *rest = weight.shape
    return weight.reshape(num_heads, 2, rows // num_heads // 2, *rest).transpose(1, 2).reshape(weight.shape)


def unpermute(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of q or k (or their biases) from interleaved rotary pairs (c0, c0', c1, c1', ...) to two halves per head."""
    rows, *rest = weight.shape
    return weight.view(num_heads, rows // num_heads // 2, 2, *rest).transpose(1, 2).reshape(weight.shape)


def is_transposed(name: str) -> bool:
    """Whether Hugging Face's tensor of this name is stored as inputs by outputs (`Conv1D`)."""
    return name.startswith("transformer.h.") and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


# -- metadata, writing
def require_expressible(config: GPTConfig, family: Family) -> str:
    """The architecture that computes this model in llama.cpp; a ConfigError says what is in the way."""
    if family not in ARCHITECTURE_OF:
        hint = "export a Hugging Face folder: `--out FOLDER`"
        raise ConfigError(f"llama.cpp has no architecture `{family}`", hint=hint)
    if reasons := list(_obstacles(config, family)):
        raise ConfigError(
            f"llama.cpp's architecture `{ARCHITECTURE_OF[family]}` does not compute this model",
            found="; ".join(reasons),
            hint="export a Hugging Face folder: `--out FOLDER`",
        )
    return ARCHITECTURE_OF[family]


def _obstacles(config: GPTConfig, family: Family) -> Iterator[str]:
    scaling = config.rope_scaling
    if family == "gemma3_text":
        full = [layer for layer in range(config.num_layers) if layer not in config.local_layers]
        if full != list(range(GEMMA_PERIOD - 1, config.num_layers, GEMMA_PERIOD)) or config.num_layers == 62:
            yield f"every {GEMMA_PERIOD}th layer must attend to everything, the others to a window"
        if abs(config.attention_scale * config.head_dim**0.5 - 1) > 1e-6:
            yield "the attention scale must be 1/sqrt(head_dim)"
        if not config.tie_embeddings:
            yield "the output matrix must be the embedding table"
    elif config.local_layers and config.window < config.context_length:
        yield f"it has no sliding window ({config.window} of {config.context_length} tokens)"
    if family == "olmo2" and config.tie_embeddings:
        yield "it has an output matrix of its own"
    if family == "smollm3" and config.nope_layers != tuple(
        range(SMOLLM3_PERIOD - 1, config.num_layers, SMOLLM3_PERIOD)
    ):
        yield f"every {SMOLLM3_PERIOD}th layer must have no positions, and no other"
    if family in ("qwen3", "olmo2", "gemma3_text", "smollm3") and (config.attention_bias or config.mlp_bias):
        yield "it has no biases"
    if (
        scaling is not None
        and scaling.kind == "yarn"
        and (scaling.attention_factor or (scaling.mscale and scaling.mscale_all_dim) or not scaling.truncate)
    ):
        yield "it has no own attention factor, mscale or truncation of yarn"
    if scaling is not None and scaling.kind in ("yarn", "llama3") and family in ("gemma3_text", "olmo2", "smollm3"):
        yield f"wuya has not tried it with rotary positions of the kind `{scaling.kind}`"


def add_shape(writer: GGUFWriter, config: GPTConfig, architecture: str) -> None:
    """The metadata of the architecture."""
    writer.add_context_length(config.context_length)  # of longrope the original one: then it uses the short factors
    writer.add_block_count(config.num_layers)
    writer.add_embedding_length(config.model_dim)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.num_heads)
    writer.add_vocab_size(config.vocab_size)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.turned_channels)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.local_layers and architecture in ("gemma3", "phi3"):
        writer.add_sliding_window(config.window)
    if architecture == "gemma3":
        writer.add_float32("gemma3.rope.freq_base_swa", config.local_rope_base)
        if config.softcap:
            writer.add_final_logit_softcapping(config.softcap)
    if config.rope_scaling is not None:
        _add_scaling(writer, config.rope_scaling)


def _add_scaling(writer: GGUFWriter, scaling: RopeScaling) -> None:
    if scaling.kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
    elif scaling.kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_length)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)
    elif scaling.kind == "longrope":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_length)
        writer.add_rope_scaling_attn_factors(attention_factor(scaling))


def rope_tensors(config: GPTConfig) -> Iterator[tuple[str, Tensor]]:
    """What GGUF keeps of rescaled rotary positions as tensors: the divisor of each frequency."""
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "llama3":
        plain_R = frequencies(config.turned_channels, config.rope_base)
        yield "rope_freqs.weight", plain_R / scaled_frequencies(plain_R, scaling, config.rope_base)
    elif scaling is not None and scaling.kind == "longrope":
        yield "rope_factors_long.weight", torch.tensor(scaling.long_factor)
        yield "rope_factors_short.weight", torch.tensor(scaling.short_factor)
