"""config.json of published models, and each of its fields: used, harmless or refused; transformers is the oracle."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.architectures import random_model
from wuya.checkpoints.checkpoint import load_any, save_checkpoint
from wuya.checkpoints.families import SPECS, Family
from wuya.checkpoints.hf_fields import HARMLESS, ignored_by
from wuya.checkpoints.pretrained import FAMILIES, config_from_hf, config_to_hf
from wuya.errors import CheckpointError, UnsupportedModel
from wuya.models.config import GPTConfig
from wuya.tokenizer.bpe import train_tokenizer

transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

OLD_GPT = {
    "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "n_embd": 768, "n_head": 12, "n_layer": 12, "summary_activation": None, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "openai-gpt": OLD_GPT | {
        "afn": "gelu", "architectures": ["OpenAIGPTLMHeadModel"], "model_type": "openai-gpt", "n_ctx": 512,
        "n_positions": 512, "n_special": 0, "predict_special_tokens": True, "vocab_size": 40478,
    },
    "gpt2": OLD_GPT | {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 50256,
        "eos_token_id": 50256, "model_type": "gpt2", "n_ctx": 1024, "n_positions": 1024, "vocab_size": 50257,
    },
    "TinyLlama-1.1B": {
        "_name_or_path": "meta-llama/Llama-2-7b-hf", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 5632, "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32,
        "num_hidden_layers": 22, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.35.0", "use_cache": True, "vocab_size": 32000,
    },
    "SmolLM2-135M": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
        "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.42.3",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}, "use_cache": True,
        "vocab_size": 49152,
    },
    "Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
    },
    "Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 32000,
    },
    "Mistral-7B-v0.3": {
        "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.42.0.dev0",
        "use_cache": True, "vocab_size": 32768,
    },
    "Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1", "use_cache": True, "use_mrope": False, "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen2.5-7B with YaRN": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
        "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2",
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
        "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1", "use_cache": True, "use_sliding_window": False, "vocab_size": 152064,
    },
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
        "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
    },
    "Gemma-3-270m": {
        "_sliding_window_pattern": 6, "architectures": ["Gemma3ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "attn_logit_softcapping": None, "bos_token_id": 2, "eos_token_id": 1,
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 640, "initializer_range": 0.02, "intermediate_size": 2048,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3, "max_position_embeddings": 32768,
        "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0,
        "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 512, "torch_dtype": "bfloat16",
        "transformers_version": "4.55.0.dev0", "use_bidirectional_attention": False, "use_cache": True,
        "vocab_size": 262144,
    },
    "Gemma-3-1b": {
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": None, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768,
        "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "use_cache": True, "vocab_size": 262144,
    },
    "Phi-3-mini-4k": {
        "_name_or_path": "Phi-3-mini-4k-instruct", "architectures": ["Phi3ForCausalLM"], "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"
        },
        "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.40.2", "use_cache": True, "attention_bias": False,
        "vocab_size": 32064,
    },
    "Phi-3.5-mini": {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.1] * 48, "type": "longrope"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.3", "use_cache": True, "vocab_size": 32064,
    },
    "Phi-4-mini": {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 199999, "embd_pdrop": 0.0, "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu",
        "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192, "interpolate_factor": 1,
        "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "phi3",
        "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096, "pad_token_id": 199999, "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": [2.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0", "use_cache": True, "vocab_size": 200064,
    },
    "OLMo-2-1B": {
        "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "olmo2",
        "num_attention_heads": 16, "num_hidden_layers": 16, "num_key_value_heads": 16, "pad_token_id": 100277,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False,
        "torch_dtype": "float32", "transformers_version": "4.46.0", "use_cache": True, "vocab_size": 100352,
    },
    "SmolLM3-3B": {
        "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": None, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 11008, "layer_types": ["full_attention"] * 36,
        "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": False, "model_type": "smollm3",
        "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16,
        "num_hidden_layers": 36, "num_key_value_heads": 4, "pad_token_id": 128004, "pretraining_tp": 2,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
        "torch_dtype": "bfloat16", "transformers_version": "4.54.0.dev0", "use_cache": True,
        "use_sliding_window": False, "vocab_size": 128256,
    },
}  # fmt: skip
"""config.json as published, written from memory: the fields, and sizes that matter to reading them."""
PARAMETERS = {
    "openai-gpt": 116_534_784, "gpt2": 124_439_808, "SmolLM2-135M": 134_515_008, "Llama-3.2-1B": 1_235_814_400,
    "Mistral-7B-v0.1": 7_241_732_096, "Qwen2.5-0.5B": 494_032_768, "Qwen3-0.6B": 596_049_920,
    "Gemma-3-270m": 268_098_176, "Gemma-3-1b": 999_885_952, "Phi-3-mini-4k": 3_821_079_552,
    "SmolLM3-3B": 3_075_098_624, "TinyLlama-1.1B": 1_100_048_384,
}  # fmt: skip


def spelled_out(hf: dict[str, Any]) -> dict[str, Any]:
    """The same config with every default of its class in `transformers` written down."""
    full: dict[str, Any] = transformers.AutoConfig.for_model(**hf).to_dict()
    return full | {"model_type": hf["model_type"]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read_and_written(name: str) -> None:
    config = config_from_hf(PUBLISHED[name])
    assert config.num_parameters == PARAMETERS.get(name, config.num_parameters)
    assert config_from_hf(config_to_hf(config, scalar=False, eos_id=None, pad_id=None)) == config


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_absent_field_has_the_default_of_transformers(name: str) -> None:
    hf = PUBLISHED[name]
    assert config_from_hf(spelled_out(hf)) == config_from_hf(hf)
    checked = 0
    for key in set(hf) - HARMLESS - {"n_ctx"}:
        shorter = {other: value for other, value in hf.items() if other != key}
        try:
            ours = config_from_hf(shorter)
        except CheckpointError as error:
            assert f"`{key}`" in str(error) or "head" in key, error
            continue
        checked += 1
        assert ours == config_from_hf(spelled_out(shorter)), key
    assert checked > 1


def other(value: Any) -> Any:
    """A different value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 2 if value else 1
        case str():
            return value + "_new"
        case list():
            return [other(item) for item in value] or [1]
        case dict():
            return {"full_attention": 7} if not value else {key: other(item) for key, item in value.items()}
        case _:
            return 7


WINDOWS = {"sliding_window", "max_window_layers", "use_sliding_window"}


def outcome(hf: dict[str, Any]) -> GPTConfig | str:
    try:
        return config_from_hf(hf)
    except CheckpointError as error:
        return str(error)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_the_class_is_used_or_harmless_or_refused(family: Family) -> None:
    """No field of the installed transformers' class changes without our noticing."""
    hf = spelled_out({"model_type": family} | ({"layer_types": None} if family == "gemma3_text" else {}))
    base = config_from_hf(hf)
    quiet = [key for key, value in hf.items() if outcome(hf | {key: other(value)}) == base]
    used_elsewhere = {  # without effect in the default model: no window is on, layers are listed one by one
        "qwen2": WINDOWS, "qwen3": WINDOWS,
        "smollm3": {"no_rope_layer_interval", "sliding_window"}, "phi3": {"original_max_position_embeddings"},
        "gemma3_text": {"_sliding_window_pattern"},
    }  # fmt: skip
    assert set(quiet) - HARMLESS - used_elsewhere.get(family, set()) == set()
    assert SPECS[family].missing(base) == []


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("gpt2", "openai-gpt")])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_scale", 0.0625), ("attn_logit_softcapping", 50.0), ("num_experts", 8), ("expert_count", 8),
        ("quantization_config", {"quant_method": "fp8"}), ("residual_multiplier", 0.22), ("rope_interleaved", True),
        ("use_alibi", True), ("num_nextn_predict_layers", 1), ("clip_qkv", 8.0), ("cross_attention_layers", [1]),
        ("max_position_embeddings", 10**12), ("num_hidden_layers", 0), ("num_hidden_layers", "32"),
        ("rope_scaling", {"rope_type": "mrope", "mrope_section": [1, 2, 3]}), ("head_dim", True),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}), ("rope_scaling", {"rope_type": "linear"}),
        ("rope_parameters", {"other_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    ],
)  # fmt: skip
def test_what_changes_a_model_is_refused_by_its_name(family: Family, field: str, value: object) -> None:
    hf = spelled_out({"model_type": family})
    hf.pop("layer_types", None)
    if field == "rope_scaling":
        hf.pop("rope_parameters")
    with pytest.raises(CheckpointError) as error:
        config_from_hf(hf | {field: value})
    words = (field, "rotary", "rope", "low_freq_factor", "factor")
    assert any(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "olmo2", "smollm3"])
def test_partly_turned_heads_are_refused_wherever_they_are_named(family: Family) -> None:
    """transformers ignores the field in these classes in one place and reads it in another."""
    hf = spelled_out({"model_type": family})
    assert config_from_hf(hf | {"partial_rotary_factor": 1.0}) == config_from_hf(hf)
    nested = {"rope_parameters": hf["rope_parameters"] | {"partial_rotary_factor": 0.5}}
    for change in ({"partial_rotary_factor": 0.5}, nested):
        with pytest.raises(CheckpointError, match="partial_rotary_factor") as error:
            config_from_hf(hf | change)
        assert not isinstance(error.value, UnsupportedModel), "transformers would run it, and turn every channel"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}}, "full_attention"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]}}, "mrope"),
        ({"logit_scale": 0.0625}, "logit_scale"),
        ({"layer_types": ["sliding_attention"] * 2, "use_sliding_window": False, "sliding_window": 64}, "sliding"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"attention_bias": True}, "bias"),
        ({"num_hidden_layers": 10**9}, "1000000000"),
        ({"tie_word_embeddings": False}, "lm_head"),
        ({"model_type": "mistral"}, "no place for"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "score"),
    ],
)
def test_a_folder_whose_config_lies_is_refused_and_never_handed_on(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """Also not by transformers, which would ignore most of it."""
    save_checkpoint(tmp_path / "model", random_model("qwen3"), train_tokenizer(["a b c"], vocab_size=260))
    (tmp_path / "model" / "wuya.json").unlink()
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=reason):
        load_any(tmp_path / "model")


def test_what_transformers_computes_and_we_do_not_is_handed_on() -> None:
    hf = PUBLISHED["Qwen3-0.6B"]
    for change in ({"hidden_act": "gelu"}, {"model_type": "bert"}):
        with pytest.raises(UnsupportedModel):
            config_from_hf(hf | change)


def test_the_rotary_base_is_read_from_any_of_its_three_places() -> None:
    hf = PUBLISHED["Qwen3-0.6B"]
    short = {key: value for key, value in hf.items() if key not in ("rope_theta", "rope_scaling")}
    yarn = {"rope_type": "yarn", "factor": 2.0}
    for change, base in (
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 7e5}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": yarn}, 5e5),
        ({}, 1e4),
    ):
        assert config_from_hf(short | change).rope_base == base
        assert config_from_hf(spelled_out(short | change)) == config_from_hf(short | change)


def test_layers_that_config_json_claims_must_be_in_the_file() -> None:
    from wuya.checkpoints.pretrained import state_from_hf

    hf = PUBLISHED["SmolLM2-135M"] | {"num_hidden_layers": 10**9}
    with pytest.raises(CheckpointError, match="1000000000"):
        state_from_hf(config_from_hf(hf), "llama", {}, scalar=False)


def test_fields_that_a_class_of_transformers_does_not_read_are_named() -> None:
    """Of the wrapper's models: they run all the same, with a warning."""
    config = transformers.FalconConfig(alibi=False)
    written = config.to_dict() | {"torch_dtype": "float32", "rope_theta": 1e5, "logit_scale": 0.0}
    assert ignored_by(transformers.FalconConfig, written) == []
    assert ignored_by(transformers.FalconConfig, written | {"logit_scale": 0.5, "odd": [1]}) == ["logit_scale", "odd"]
    assert ignored_by(transformers.CohereConfig, {"logit_scale": 0.5}) == []
