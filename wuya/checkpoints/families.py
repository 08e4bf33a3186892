"""The Hugging Face families that our decoder computes: which classes there are, and what each can express.

`hf_configs.py` reads and writes their config.json. `TRAITS` names what a GPTConfig asks for beyond the plain decoder
(pre-norm RMSNorm, rotary positions, SwiGLU, no biases); a family must have some traits and may have others, and a
config is of the first family that fits. What no family has is refused by the traits' names.

Not here, so run through `transformers`: mixtures of experts (Qwen3-MoE and others). Their experts would be a third kind
of MLP with ragged batches of tokens, other LoRA targets, optimizer rows, planned FLOPs and a C++ step of their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from wuya.checkpoints.hf_configs import (
    read_gemma3,
    read_gpt2,
    read_llama,
    read_mistral,
    read_olmo2,
    read_openai,
    read_phi3,
    read_qwen2,
    read_qwen3,
    read_smollm3,
    write_classic,
    write_gemma3,
    write_llama,
    write_mistral,
    write_olmo2,
    write_phi3,
    write_qwen,
    write_smollm3,
)
from wuya.checkpoints.hf_fields import Fields
from wuya.errors import CheckpointError, ConfigError
from wuya.models.config import GPTConfig

Family = Literal["qwen3", "qwen2", "llama", "mistral", "phi3", "olmo2", "smollm3", "gemma3_text", "gpt2", "openai-gpt"]

TRAITS: dict[str, Callable[[GPTConfig], bool]] = {
    "full attention": lambda c: c.attention == "full",
    "token types": lambda c: c.token_types > 0,
    "a norm of the embeddings": lambda c: c.embedding_norm,
    "LayerNorm": lambda c: c.norm == "layernorm",
    "norms after each sum (it is not pre-norm)": lambda c: c.norm_position == "post",
    "norms of each output only (it is not pre-norm)": lambda c: c.norm_position == "output",
    "norms before and after": lambda c: c.norm_position == "both",
    "offset gains (`norm_offset`)": lambda c: c.norm_offset == 1.0,
    "odd gains (`norm_offset`)": lambda c: c.norm_offset not in (0.0, 1.0),
    "learned positions": lambda c: c.positions == "learned",
    "rescaled rotary positions": lambda c: c.rope_scaling is not None and c.rope_scaling.kind != "longrope",
    "longrope": lambda c: c.rope_scaling is not None and c.rope_scaling.kind == "longrope",
    "partly turned heads (`rotary_channels`)": lambda c: c.positions == "rope" and c.turned_channels != c.head_dim,
    "a window in every layer": lambda c: len(set(c.local_layers)) == c.num_layers,
    "a window in some layers": lambda c: 0 < len(set(c.local_layers)) < c.num_layers,
    "another rotary base in local layers": lambda c: c.local_rope_base > 0,
    "layers without positions (`nope_layers`)": lambda c: bool(c.nope_layers),
    "QK-norm": lambda c: c.qk_norm and c.qk_norm_width == "head",
    "QK-norm over all heads": lambda c: c.qk_norm and c.qk_norm_width == "all",
    "an attention scale": lambda c: c.attention_scale > 0,
    "scaled embeddings": lambda c: c.embedding_scale == c.model_dim**0.5,
    "oddly scaled embeddings (`embedding_scale`)": lambda c: c.embedding_scale not in (1.0, c.model_dim**0.5),
    "a GELU MLP (it has no SwiGLU)": lambda c: c.mlp == "gelu",
    "an exact GELU": lambda c: c.mlp == "gelu_exact",
    "a gated GELU MLP": lambda c: c.mlp == "geglu",
    "a squared ReLU (`mlp: relu2`)": lambda c: c.mlp == "relu2",
    "biases on q, k, v only (`output_bias` false)": lambda c: c.attention_bias and not c.output_bias,
    "a bias on the output only (`output_bias` true)": lambda c: c.output_bias and not c.attention_bias,
    "biases in the attention": lambda c: c.attention_bias and c.output_bias,
    "a bias in the MLP": lambda c: c.mlp_bias,
    "capped logits (`softcap`)": lambda c: c.softcap > 0,
    "grouped heads (it does not have one key/value head per query head)": lambda c: c.num_kv_heads != c.num_heads,
    "head_dim other than model_dim / num_heads": lambda c: c.head_dim * c.num_heads != c.model_dim,
    "mlp_dim other than 4 model_dim": lambda c: c.mlp_dim != 4 * c.model_dim,
    "an output matrix that is not tied": lambda c: not c.tie_embeddings,
}  # fmt: skip
FREE = {
    "grouped heads (it does not have one key/value head per query head)", "head_dim other than model_dim / num_heads",
    "mlp_dim other than 4 model_dim", "an output matrix that is not tied",
}  # fmt: skip
"""Traits that every family of the modern line may have."""
SCALED = "rescaled rotary positions"
EVERY_BIAS = {"biases in the attention", "a bias in the MLP"}


@dataclass(frozen=True, slots=True)
class Spec:
    """One family: how to read and write its config.json, and what its class computes."""

    prefix: str
    """Of the class names in `transformers`."""
    read: Callable[[Fields], GPTConfig]
    write: Callable[[GPTConfig], dict[str, Any]]
    must: frozenset[str]
    may: frozenset[str]
    lm_suffix: str = "ForCausalLM"
    scalar_suffix: str = "ForSequenceClassification"

    def missing(self, config: GPTConfig) -> list[str]:
        """What stands between this family and a config, in words; empty where it fits."""
        has = {name for name, holds in TRAITS.items() if holds(config)}
        lacking = [f"{self.prefix} needs {name.partition(' (')[0]}" for name in TRAITS if name in self.must - has]
        return lacking + [f"{self.prefix} cannot have {name}" for name in TRAITS if name in has - self.must - self.may]


def _set(*names: str, free: bool = True) -> frozenset[str]:
    return frozenset({*names, *(FREE if free else ())})


CLASSIC = _set("LayerNorm", "learned positions", "a GELU MLP (it has no SwiGLU)", *EVERY_BIAS, free=False)
SPECS: dict[Family, Spec] = {
    "qwen3": Spec(
        "Qwen3", read_qwen3, lambda c: write_qwen(c, "qwen3"), frozenset({"QK-norm"}),
        _set(SCALED, "biases in the attention", "a window in every layer", "a window in some layers"),
    ),
    "qwen2": Spec(
        "Qwen2", read_qwen2, lambda c: write_qwen(c, "qwen2"),
        frozenset({"biases on q, k, v only (`output_bias` false)"}),
        _set(SCALED, "a window in every layer", "a window in some layers"),
    ),
    "llama": Spec("Llama", read_llama, write_llama, frozenset(), _set(SCALED, *EVERY_BIAS)),
    "mistral": Spec("Mistral", read_mistral, write_mistral, frozenset(), _set(SCALED, "a window in every layer")),
    "phi3": Spec(
        "Phi3", read_phi3, write_phi3, frozenset(),
        _set("longrope", "partly turned heads (`rotary_channels`)", "a window in every layer"),
    ),
    "olmo2": Spec(
        "Olmo2", read_olmo2, write_olmo2,
        frozenset({"norms of each output only (it is not pre-norm)", "QK-norm over all heads"}),
        _set(SCALED, "biases in the attention"),
    ),
    "smollm3": Spec(
        "SmolLM3", read_smollm3, write_smollm3, frozenset(),
        _set(SCALED, "layers without positions (`nope_layers`)", *EVERY_BIAS),
    ),
    "gemma3_text": Spec(
        "Gemma3", read_gemma3, write_gemma3,
        frozenset({"norms before and after", "offset gains (`norm_offset`)", "QK-norm", "an attention scale",
                   "scaled embeddings", "a gated GELU MLP", "another rotary base in local layers"}),
        _set(SCALED, "a window in every layer", "a window in some layers", "capped logits (`softcap`)",
             "biases in the attention"),
        scalar_suffix="TextForSequenceClassification",
    ),
    "gpt2": Spec(
        "GPT2", read_gpt2, lambda c: write_classic(c, activation_function="gelu_new", n_inner=c.mlp_dim), CLASSIC,
        _set("mlp_dim other than 4 model_dim", "an output matrix that is not tied", free=False), "LMHeadModel",
    ),
    "openai-gpt": Spec(
        "OpenAIGPT", read_openai, lambda c: write_classic(c, afn="gelu"),
        CLASSIC | {"norms after each sum (it is not pre-norm)"}, frozenset(), "LMHeadModel",
    ),
}  # fmt: skip


def family_of(config: GPTConfig) -> Family:
    """The family that computes exactly what this config does; a ConfigError says what is in the way."""
    for family, spec in SPECS.items():
        if family == config.family and not spec.missing(config):
            return family
    problems = {family: spec.missing(config) for family, spec in SPECS.items()}
    for family, missing in problems.items():
        if not missing:
            return family
    fewest = min(map(len, problems.values()))
    reasons = [reason for missing in problems.values() if len(missing) == fewest for reason in missing]
    raise ConfigError(
        f"no Hugging Face class computes what this model does: {'; '.join(reasons)}",
        hint="train with a preset of the modern line (`demo`, `tiny`, `modern(...)`), which is exactly Qwen3",
    )


def read_config(hf: Mapping[str, Any], family: Family) -> GPTConfig:
    """The GPTConfig that a config.json of this family describes; each of its fields is understood or refused."""
    fields = Fields(hf)
    try:
        config = SPECS[family].read(fields)
        fitting = family_of(config)
    except ConfigError as error:
        raise CheckpointError(f"config.json contradicts itself: {error.what}", found=error.found) from error
    fields.refuse_others()
    return config if fitting == family else replace(config, family=family)
