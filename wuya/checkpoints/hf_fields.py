"""Reads the fields of a Hugging Face config.json by an allow-list, so that nothing that changes a model is overlooked.

A field is used, or known to be harmless, or empty; any other is refused by name and value. `transformers` ignores
unknown fields in silence, and so do models of newer versions that an older program loads: their outputs are wrong, and
nobody notices.
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from wuya.errors import CheckpointError, UnsupportedModel

LONGEST_CONTEXT = 2**24
"""Tokens; a table of rotary positions of more than this is a typo, or an attack on memory."""
MOST_LAYERS = 10_000
"""Lists of layer types are as long as this."""

BOOKKEEPING = {
    "_name_or_path", "name_or_path", "_commit_hash", "architectures", "model_type", "transformers_version",
    "torch_dtype", "dtype", "auto_map", "transformers.js_config", "unsloth_version", "unsloth_fixed", "tokenizer_class",
    "_from_model_config", "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled", "use_flash_attn", "is_llama_config", "_experts_implementation", "model_max_length",
    "max_sequence_length", "tokenizer_model_max_length", "tokenizer_padding_side", "license", "_diffusers_version",
}  # fmt: skip
"""Where a file comes from, and how others run it. Custom code (`auto_map`) is never run: `model_type` counts."""
TRAINING = {
    "initializer_range", "initializer_factor", "use_cache", "gradient_checkpointing", "attention_dropout", "attn_pdrop",
    "embd_pdrop", "resid_pdrop", "hidden_dropout", "neftune_noise_alpha", "output_attentions", "output_hidden_states",
    "output_past", "return_dict", "use_return_dict", "problem_type", "id2label", "label2id", "num_labels",
    "_num_labels", "finetuning_task", "task_specific_params", "summary_type", "summary_use_proj", "summary_activation",
    "summary_proj_to_labels", "summary_first_dropout", "keys_to_ignore_at_inference", "chunk_size_feed_forward",
    "cache_implementation", "pretraining_tp", "reorder_and_upcast_attn", "torchscript", "use_bfloat16",
}  # fmt: skip
"""Settings of training, of memory and of outputs that a decoder does not have."""
TOKENS = {
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "n_special", "predict_special_tokens", "prefix", "suppress_tokens", "bad_words_ids",
}  # fmt: skip
"""Special tokens, which are the tokenizer's and the template's business."""
GENERATION = {
    "max_length", "min_length", "max_new_tokens", "min_new_tokens", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "num_return_sequences", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "epsilon_cutoff",
    "eta_cutoff", "remove_invalid_values", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "begin_suppress_tokens", "output_scores", "return_dict_in_generate",
}  # fmt: skip
"""Sampling settings that older versions of `transformers` wrote into every config.json."""
ROPE = {"rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "partial_rotary_factor"}
"""Rotary positions, which every configuration class of `transformers` takes in all their spellings."""
HARMLESS = BOOKKEEPING | TRAINING | TOKENS | GENERATION
NEUTRAL = {
    "partial_rotary_factor": 1.0, "rotary_pct": 1.0, "logit_scale": 1.0, "logits_scaling": 1.0,
    "residual_multiplier": 1.0, "embedding_multiplier": 1.0, "full_attn_mod": 1, "interpolate_factor": 1,
    "is_causal": True, "scale_attn_weights": True,
}  # fmt: skip
"""Fields of other families that change nothing at this value."""


class Fields:
    """The fields of one config.json; remembers which were read."""

    def __init__(self, hf: Mapping[str, Any]) -> None:
        self.hf, self.used = hf, set[str]()

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as it stands; null is not the default."""
        self.used.add(key)
        return self.hf.get(key, default)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where it is absent or null."""
        value = self.raw(key)
        return default if value is None else value

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; without a default it must be there."""
        value = self.get(key, default)
        if value is None:
            raise CheckpointError(f"config.json lacks the field `{key}`", found=", ".join(sorted(self.hf)[:12]))
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
            raise CheckpointError(f"`{key}` of config.json is not a size", found=repr(value))
        if key in ("num_hidden_layers", "n_layer") and value > MOST_LAYERS:
            raise CheckpointError(f"`{key}` of config.json is beyond any model", found=f"{value} layers")
        return value

    def context(self, key: str) -> int:
        """The declared number of positions."""
        if (length := self.size(key)) > LONGEST_CONTEXT:
            raise CheckpointError(f"`{key}` of config.json is beyond any model", found=f"{length} tokens")
        return length

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        return as_number(key, self.get(key, default))

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"`{key}` of config.json must be true or false", found=repr(value))
        return value

    def require(self, key: str, *values: object, default: object = None) -> None:
        """Refuse any other value than these."""
        if self.get(key, default) not in values:
            hint = f"supported: {', '.join(map(repr, values))}"
            raise UnsupportedModel(f"`{key}` of this checkpoint is not supported", found=repr(self.hf[key]), hint=hint)

    def refuse_others(self) -> None:
        """Refuse what was not read, is not known to be harmless and holds something."""
        if self.hf.get("quantization_config"):
            raise UnsupportedModel(
                "the weights of this checkpoint are quantised, or its config.json says so (`quantization_config`)",
                found=str(self.hf["quantization_config"])[:120],
                hint="use the unquantised model; if these weights are plain numbers, remove the field",
            )
        for key, value in self.hf.items():
            if key in self.used or key in HARMLESS or not value or (key in NEUTRAL and value == NEUTRAL[key]):
                continue
            raise CheckpointError(  # not UnsupportedModel: transformers would run the model and ignore the field
                f"wuya does not know what `{key}` in config.json does to this model",
                found=f"{key}: {str(value)[:80]}",
                hint=f"if it changes nothing that the model computes, remove it from config.json: `{key}`",
            )


def ignored_by(config_class: type, hf: Mapping[str, Any]) -> list[str]:
    """Fields of a config.json that its class in `transformers` neither declares nor sets: none reads them."""
    declared = set(inspect.signature(config_class).parameters) | set(getattr(config_class, "attribute_map", {}))
    with suppress(TypeError, ValueError):  # few cannot be made from their defaults
        declared |= set(vars(config_class()))
    known = declared | HARMLESS | ROPE | {"quantization_config"}
    return [key for key, value in hf.items() if value and key not in known and value != NEUTRAL.get(key)]


def as_number(key: str, value: object) -> float:
    """A finite number of config.json as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e30 < value < 1e30:
        raise CheckpointError(f"`{key}` of config.json is not a number", found=repr(value))
    return float(value)
