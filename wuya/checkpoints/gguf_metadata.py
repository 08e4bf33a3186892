"""The key-value part of a GGUF file as the config.json that its model would have had.

Keys are read by an allow-list, as config.json is: one of the architecture's that is not known here, and is not empty,
is refused by name.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from torch import Tensor

from wuya.checkpoints.gguf_arch import FAMILY_OF, GEMMA_PERIOD, SMOLLM3_PERIOD
from wuya.errors import CheckpointError
from wuya.models.config import RopeScaling
from wuya.models.rotary import frequencies, scaled_frequencies


class Metadata:
    """The key-value part of a GGUF file."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self.reader, self.path = reader, path
        self.used: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where the key is absent."""
        self.used.add(key)
        field = self.reader.fields.get(key)
        try:
            return default if field is None else field.contents()
        except (ValueError, IndexError, TypeError) as error:  # among them text that is not UTF-8
            raise CheckpointError(f"`{key}` in `{self.path}` cannot be read", found=str(error)[:120]) from error

    def need(self, key: str) -> Any:
        """The value of a key that every file has."""
        if (value := self.get(key)) is None:
            raise CheckpointError(f"`{self.path}` lacks the field `{key}`", found="an incomplete GGUF file")
        return value

    def scalar(self, key: str, default: Any = None) -> Any:
        """One number; some files list it for every layer."""
        value = self.get(key, default)
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:
            raise self.refusal(key, "a different number in every layer is not supported")
        return value[0]

    def require(self, key: str, value: object) -> None:
        """Refuse any other value of a key that may be absent."""
        if self.get(key, value) != value:
            raise self.refusal(key, f"supported: {value!r}")

    def refuse_others(self, architecture: str) -> None:
        """Refuse keys of the architecture that nobody read, unless they are empty."""
        self.require("general.type", "model")
        if self.get("split.count", 1) > 1:
            raise self.refusal("split.count", "join the parts first, with llama.cpp's `llama-gguf-split --merge`")
        for key in self.reader.fields:
            if key.startswith(f"{architecture}.") and key not in self.used and self.get(key):
                raise self.refusal(key, "wuya does not know what this key does to the model")

    def refusal(self, key: str, hint: str) -> CheckpointError:
        """The error that names a key, its value and what is wrong with it."""
        found = f"{key}: {str(self.get(key))[:60]}"
        return CheckpointError(f"`{key}` of `{self.path}` is not supported", found=found, hint=hint)


def hf_config(metadata: Metadata, tensors: Collection[str]) -> dict[str, Any]:
    """The config.json that the file would have had, from its metadata and the names of its tensors."""
    arch = metadata.need("general.architecture")
    if arch not in FAMILY_OF:
        raise CheckpointError(
            f"GGUF files of architecture `{arch}` are not supported",
            found=str(metadata.path),
            hint=f"supported: {', '.join(FAMILY_OF)}",
        )
    hf = {
        "model_type": FAMILY_OF[arch],
        "vocab_size": len(metadata.need("tokenizer.ggml.tokens")),
        "tie_word_embeddings": "output.weight" not in tensors,
        **(_gpt2_fields(metadata) if arch == "gpt2" else _modern_fields(metadata, arch, tensors)),
    }
    metadata.require(f"{arch}.attention.causal", True)
    metadata.get(f"{arch}.vocab_size")  # the list of tokens counts
    metadata.refuse_others(arch)
    return hf


def _gpt2_fields(metadata: Metadata) -> dict[str, Any]:
    return {
        "n_positions": metadata.need("gpt2.context_length"), "n_layer": metadata.need("gpt2.block_count"),
        "n_embd": metadata.need("gpt2.embedding_length"), "n_head": metadata.need("gpt2.attention.head_count"),
        "n_inner": metadata.need("gpt2.feed_forward_length"),
        "layer_norm_epsilon": _short(metadata.need("gpt2.attention.layer_norm_epsilon")),
    }  # fmt: skip


def _modern_fields(metadata: Metadata, arch: str, tensors: Collection[str]) -> dict[str, Any]:
    heads, width = metadata.scalar(f"{arch}.attention.head_count"), metadata.need(f"{arch}.embedding_length")
    layers, length = metadata.need(f"{arch}.block_count"), metadata.need(f"{arch}.context_length")
    head_dim = metadata.get(f"{arch}.attention.key_length", width // (heads or 1))
    metadata.require(f"{arch}.attention.value_length", head_dim)
    turned = metadata.get(f"{arch}.rope.dimension_count", head_dim)
    if turned != head_dim and arch != "phi3":
        raise metadata.refusal(f"{arch}.rope.dimension_count", f"supported: {head_dim}, the channels of a head")
    hf = {
        "max_position_embeddings": length, "num_hidden_layers": layers,
        "hidden_size": width, "intermediate_size": metadata.scalar(f"{arch}.feed_forward_length"),
        "num_attention_heads": heads, "head_dim": head_dim,
        "num_key_value_heads": metadata.scalar(f"{arch}.attention.head_count_kv", heads),
        "rms_norm_eps": _short(metadata.need(f"{arch}.attention.layer_norm_rms_epsilon")),
        "rope_theta": _short(metadata.get(f"{arch}.rope.freq_base", 10_000.0)),
    }  # fmt: skip
    if arch != "qwen2":  # there they are always present, and no field of its class
        hf["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if arch in ("llama", "smollm3"):
        hf["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
    if arch == "smollm3":
        hf["no_rope_layer_interval"] = SMOLLM3_PERIOD
    if arch == "gemma3":
        hf |= _gemma_fields(metadata, head_dim, layers)
    elif arch != "phi3" and (metadata.get(f"{arch}.attention.sliding_window") or length) < length:
        raise metadata.refusal(f"{arch}.attention.sliding_window", "use the model's Hugging Face folder")
    if arch == "phi3":
        hf |= _phi3_fields(metadata, turned / head_dim, length)
    elif scaling := _scaling(metadata, arch, turned):
        hf["rope_scaling"] = scaling
    return hf


def _gemma_fields(metadata: Metadata, head_dim: int, layers: int) -> dict[str, Any]:
    metadata.require("gemma3.attention.sliding_window_pattern", GEMMA_PERIOD)
    if layers == 62:  # 27B: llama.cpp knows it by its layers, and scales by the width per head
        raise metadata.refusal("gemma3.block_count", "Gemma 3 27B: use its Hugging Face folder")
    return {
        "sliding_window": metadata.need("gemma3.attention.sliding_window"), "query_pre_attn_scalar": head_dim,
        "sliding_window_pattern": GEMMA_PERIOD,
        "rope_local_base_freq": _short(metadata.get("gemma3.rope.freq_base_swa", 10_000.0)),
        "final_logit_softcapping": metadata.get("gemma3.final_logit_softcapping"),
    }  # fmt: skip


def _phi3_fields(metadata: Metadata, fraction: float, length: int) -> dict[str, Any]:
    """llama.cpp reads no window of Phi-3's; where it is shorter than the context, the original is the model meant."""
    original = metadata.get("phi3.rope.scaling.original_context_length", length)
    window = metadata.get("phi3.attention.sliding_window") or None
    hf = {
        "partial_rotary_factor": fraction, "sliding_window": window, "original_max_position_embeddings": original,
    }  # fmt: skip
    if metadata.get("phi3.rope.scaling.type", "none") not in ("none", "longrope"):
        raise metadata.refusal("phi3.rope.scaling.type", "supported: longrope, by its factors")
    factors = {name: _vector(metadata, f"rope_factors_{name}.weight") for name in ("short", "long")}
    if factors["short"] and factors["long"]:
        scale = metadata.get("phi3.rope.scaling.attn_factor")
        hf["rope_scaling"] = {
            "rope_type": "longrope", "short_factor": factors["short"], "long_factor": factors["long"],
            **({} if scale is None else {"attention_factor": _short(scale)}),
        }  # fmt: skip
    return hf


def _scaling(metadata: Metadata, arch: str, channels: int) -> dict[str, Any]:
    """`rope_scaling` of config.json; empty where frequencies are as trained."""
    prefix = f"{arch}.rope.scaling"
    kind = metadata.get(f"{prefix}.type")
    factor = metadata.get(f"{prefix}.factor") or metadata.get(f"{arch}.rope.scale_linear") or 1.0
    original = metadata.get(f"{prefix}.original_context_length")
    metadata.get(f"{prefix}.finetuned")
    if (factors := _vector(metadata, "rope_freqs.weight")) and max(factors) > 1.0:
        if kind not in (None, "none"):
            raise metadata.refusal(f"{prefix}.type", "files with `rope_freqs` have no other scaling")
        return _llama3(metadata, arch, torch.tensor(factors), channels)
    if kind in (None, "none", "linear"):
        return {} if factor == 1.0 or kind == "none" else {"rope_type": "linear", "factor": _short(factor)}
    if kind != "yarn":
        raise metadata.refusal(f"{prefix}.type", "supported: none, linear, yarn")
    for key in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        metadata.require(f"{prefix}.{key}", 1.0)
    betas = {f"beta_{side}": metadata.get(f"{prefix}.yarn_beta_{side}") for side in ("fast", "slow")}
    settings = {"rope_type": "yarn", "factor": _short(factor), "original_max_position_embeddings": original, **betas}
    return {key: value for key, value in settings.items() if value}


def _llama3(metadata: Metadata, arch: str, factors_R: Tensor, channels: int) -> dict[str, Any]:
    """Llama 3.x's settings, which a file holds only as the divisor of each frequency: those published, if they fit."""
    base, length = _short(metadata.get(f"{arch}.rope.freq_base", 10_000.0)), metadata.need(f"{arch}.context_length")
    plain_R = frequencies(channels, base)
    for original in (8192, *(length // n for n in (1, 2, 4, 8, 16))):
        scaling = RopeScaling(kind="llama3", factor=_short(float(factors_R.max())), original_length=max(1, original))
        if torch.allclose(plain_R / scaled_frequencies(plain_R, scaling, base), factors_R, rtol=1e-4):
            return {
                "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }  # fmt: skip
    raise CheckpointError(
        f"the rescaled rotary positions of `{metadata.path}` are none of Llama 3's",
        found=f"rope_freqs.weight up to {factors_R.max():.4g}",
        hint="use the model's Hugging Face folder",
    )


def _vector(metadata: Metadata, name: str) -> list[float]:
    """The values of a small float32 tensor; empty where the file has none."""
    for tensor in metadata.reader.tensors:
        if tensor.name == name:
            return [_short(float(value)) for value in tensor.data]
    return []


def _short(stored: float) -> float:
    """What was meant: kept as float32, 1e-05 reads 9.99999974e-06."""
    return float(f"{stored:.7g}") if abs(stored) > 1 else float(f"{stored:.6g}")
