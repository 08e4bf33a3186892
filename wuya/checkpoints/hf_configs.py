"""config.json of each family: one function reads it into a GPTConfig, one writes it.

Absent fields have the defaults of the family's configuration class in `transformers`, which differ between families
(`head_dim` is 128 in Qwen3, `sliding_window` 4096 in Mistral). tests/checkpoints/test_hf_configs.py compares both.
"""

from typing import Any, Literal

from wuya.checkpoints.hf_fields import Fields, as_number
from wuya.checkpoints.hf_rope import declared_length, read_rope, rope_of, write_rope, write_scaling
from wuya.errors import CheckpointError, UnsupportedModel
from wuya.models.config import GPTConfig


def read_modern(fields: Fields, *, family: str = "", context: float = 10_000.0, **changes: Any) -> GPTConfig:
    """What all families since Llama share."""
    fields.require("hidden_act", "silu", default="silu")
    rope = read_rope(fields, default_base=context, family=family)
    heads = fields.size("num_attention_heads")
    width = fields.size("hidden_size")
    head_dim = fields.size("head_dim", width // heads)
    shared: dict[str, Any] = {
        "vocab_size": fields.size("vocab_size"), "context_length": rope.context_length,
        "num_layers": fields.size("num_hidden_layers"), "model_dim": width, "num_heads": heads,
        "num_kv_heads": fields.size("num_key_value_heads", heads), "head_dim": head_dim,
        "mlp_dim": fields.size("intermediate_size"), "rope_base": rope.base, "rope_scaling": rope.scaling,
        "rotary_channels": 0 if rope.fraction == 1.0 else int(head_dim * rope.fraction), "qk_norm": False,
        "tie_embeddings": fields.flag("tie_word_embeddings", False), "norm_eps": fields.number("rms_norm_eps", 1e-6),
    }  # fmt: skip
    return GPTConfig(**shared | changes)


def write_modern(config: GPTConfig, family: str) -> dict[str, Any]:
    """The fields that all families since Llama have."""
    return {
        "max_position_embeddings": declared_length(config), "num_hidden_layers": config.num_layers,
        "hidden_size": config.model_dim, "intermediate_size": config.mlp_dim, "hidden_act": "silu",
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim, "rms_norm_eps": config.norm_eps, "attention_dropout": 0.0,
        **write_rope(config, family),
    }  # fmt: skip


def read_windows(fields: Fields, *, default_window: int | None) -> tuple[int, tuple[int, ...]]:
    """Window and local layers of a family where every layer has the window, if there is one."""
    layers = min(fields.size("num_hidden_layers"), 10_000)
    window = fields.raw("sliding_window", default_window)
    if window is not None and (not isinstance(window, int) or window < 1):
        raise CheckpointError("`sliding_window` of config.json is not a number of tokens", found=repr(window))
    return (window, tuple(range(layers))) if window is not None else (0, ())


def layer_numbers(kinds: object, layers: int) -> tuple[int, ...]:
    """Numbers of the layers with sliding attention."""
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise CheckpointError("`layer_types` of config.json does not name every layer once", found=str(kinds)[:80])
    if unknown := set(map(str, kinds)) - {"full_attention", "sliding_attention"}:
        raise UnsupportedModel("`layer_types` of this checkpoint is not supported", found=unknown.pop())
    return tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")


def write_layer_types(config: GPTConfig) -> list[str]:
    """Which kind of attention each layer has."""
    return ["sliding_attention" if i in config.local_layers else "full_attention" for i in range(config.num_layers)]


def read_llama(fields: Fields) -> GPTConfig:
    bias = fields.flag("attention_bias", False)
    return read_modern(fields, attention_bias=bias, output_bias=bias, mlp_bias=fields.flag("mlp_bias", False))


def write_llama(config: GPTConfig) -> dict[str, Any]:
    return write_modern(config, "llama") | {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}


def read_mistral(fields: Fields) -> GPTConfig:
    window, local = read_windows(fields, default_window=4096)
    fields.size("num_key_value_heads", 8)
    heads = fields.raw("num_key_value_heads", 8) or fields.size("num_attention_heads")
    return read_modern(fields, window=window, local_layers=local, num_kv_heads=heads)


def write_mistral(config: GPTConfig) -> dict[str, Any]:
    return write_modern(config, "mistral") | {"sliding_window": config.window or None}


def read_qwen(fields: Fields, **changes: Any) -> GPTConfig:
    """Qwen 2 and 3: windows only with `use_sliding_window`, from layer `max_window_layers` on or by `layer_types`."""
    layers = fields.size("num_hidden_layers")
    use = fields.flag("use_sliding_window", False)
    last_full = fields.get("max_window_layers", 28)
    declared = fields.raw("sliding_window", 4096)
    window = declared if use else None
    kinds = fields.get("layer_types")
    if kinds is None and window is not None and last_full < layers:
        kinds = ["full_attention"] * last_full + ["sliding_attention"] * (layers - last_full)
    local = layer_numbers(kinds, layers) if kinds is not None else ()
    if local and not use:
        raise UnsupportedModel(
            "`layer_types` names sliding attention, which `use_sliding_window: false` switches off",
            found="both in one config.json",
        )
    if local and window is None:
        raise CheckpointError(
            "`layer_types` names sliding attention, but there is no `sliding_window`", found=str(kinds)
        )
    heads = fields.raw("num_key_value_heads", 32) or fields.size("num_attention_heads")
    return read_modern(fields, window=window or 0 if local else 0, local_layers=local, num_kv_heads=heads, **changes)


def read_qwen2(fields: Fields) -> GPTConfig:
    return read_qwen(fields, attention_bias=True)


def read_qwen3(fields: Fields) -> GPTConfig:
    bias = fields.flag("attention_bias", False)
    width = fields.size("head_dim", 128)
    return read_qwen(fields, attention_bias=bias, output_bias=bias, qk_norm=True, head_dim=width)


def write_qwen(config: GPTConfig, family: str) -> dict[str, Any]:
    hf = write_modern(config, family) | {"use_sliding_window": bool(config.local_layers)}
    if config.local_layers:
        hf |= {"sliding_window": config.window, "layer_types": write_layer_types(config)}
    return hf if family == "qwen2" else hf | {"attention_bias": config.attention_bias}


def read_phi3(fields: Fields) -> GPTConfig:
    window, local = read_windows(fields, default_window=None)
    eps = fields.number("rms_norm_eps", 1e-5)
    dropout = fields.number("resid_pdrop", 0.0)
    return read_modern(fields, family="phi3", window=window, local_layers=local, norm_eps=eps, dropout=dropout)


def write_phi3(config: GPTConfig) -> dict[str, Any]:
    hf = write_modern(config, "phi3") | {"sliding_window": config.window or None}
    return hf | {"resid_pdrop": config.dropout, "embd_pdrop": config.dropout}


def read_olmo2(fields: Fields) -> GPTConfig:
    bias = fields.flag("attention_bias", False)
    return read_modern(
        fields, norm_position="output", qk_norm=True, qk_norm_width="all", attention_bias=bias, output_bias=bias,
        norm_eps=fields.number("rms_norm_eps", 1e-5),
    )  # fmt: skip


def write_olmo2(config: GPTConfig) -> dict[str, Any]:
    return write_modern(config, "olmo2") | {"attention_bias": config.attention_bias}


def read_smollm3(fields: Fields) -> GPTConfig:
    """Every `no_rope_layer_interval`-th layer has no positions, or those whose entry in `no_rope_layers` is 0."""
    layers = fields.size("num_hidden_layers")
    interval = fields.size("no_rope_layer_interval", 4)
    turned = fields.get("no_rope_layers")
    if turned is not None and (not isinstance(turned, list) or len(turned) != layers):
        raise CheckpointError("`no_rope_layers` of config.json does not name every layer once", found=str(turned)[:80])
    numbers = range(min(layers, 10_000))
    nope = [i for i in numbers if (not turned[i] if turned is not None else (i + 1) % interval == 0)]
    fields.require("use_sliding_window", False, default=False)
    fields.raw("sliding_window")
    fields.raw("max_window_layers")
    if layer_numbers(fields.get("layer_types", ["full_attention"] * len(numbers)), len(numbers)):
        raise UnsupportedModel("sliding attention is not supported for this family", found="layer_types")
    bias, mlp_bias = fields.flag("attention_bias", False), fields.flag("mlp_bias", False)
    heads = fields.raw("num_key_value_heads", 4) or fields.size("num_attention_heads")
    return read_modern(
        fields, context=2_000_000.0, nope_layers=tuple(nope), attention_bias=bias, output_bias=bias, mlp_bias=mlp_bias,
        num_kv_heads=heads, tie_embeddings=fields.flag("tie_word_embeddings", True),
    )  # fmt: skip


def write_smollm3(config: GPTConfig) -> dict[str, Any]:
    turned = [int(i not in config.nope_layers) for i in range(config.num_layers)]
    hf = write_modern(config, "smollm3") | {"no_rope_layers": turned, "layer_types": write_layer_types(config)}
    return hf | {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias, "use_sliding_window": False}


def read_gemma3(fields: Fields) -> GPTConfig:
    """Gemma 3's text models: local layers with a base of their own, five of six unless `layer_types` says otherwise."""
    fields.require("hidden_activation", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
    fields.raw("hidden_act")  # of an older form; the class reads hidden_activation
    fields.require("attn_logit_softcapping", None)
    fields.require("use_bidirectional_attention", False, None, default=False)
    layers, width = fields.size("num_hidden_layers"), fields.size("hidden_size")
    pattern = fields.size("sliding_window_pattern", 6)
    if fields.get("layer_types") is None:
        fields.require("_sliding_window_pattern", pattern, default=pattern)
    fields.raw("_sliding_window_pattern")
    numbers = range(min(layers, 10_000))
    kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in numbers]
    local = layer_numbers(fields.get("layer_types", kinds), len(numbers))
    window = fields.size("sliding_window", 4096)
    nested = fields.get("rope_parameters", {})
    everywhere, locally = (dict(nested.get(f"{kind}_attention") or {}) for kind in ("full", "sliding"))
    if unknown := set(nested) - {"full_attention", "sliding_attention"}:
        raise UnsupportedModel("`rope_parameters` of Gemma 3 are by layer type", found=f"`{sorted(unknown)[0]}`")
    everywhere |= fields.get("rope_scaling", {})
    theta, local_theta = fields.get("rope_theta", 1e6), fields.get("rope_local_base_freq", 1e4)
    base = as_number("rope_theta", everywhere.get("rope_theta") or theta)
    rope = rope_of(fields, everywhere, base=base)
    local_base = as_number("rope_local_base_freq", locally.get("rope_theta") or local_theta)
    if rope_of(fields, locally, base=local_base).scaling is not None:
        raise UnsupportedModel("rescaled rotary positions of local layers are not supported", found=str(locally))
    bias = fields.flag("attention_bias", False)
    return GPTConfig(
        vocab_size=fields.size("vocab_size"), context_length=rope.context_length, num_layers=layers, model_dim=width,
        num_heads=fields.size("num_attention_heads"), num_kv_heads=fields.size("num_key_value_heads", 4),
        head_dim=fields.size("head_dim", 256), mlp_dim=fields.size("intermediate_size"), norm_position="both",
        norm_offset=1.0, rope_base=base, rope_scaling=rope.scaling, window=window if local else 0, local_layers=local,
        local_rope_base=local_base, mlp="geglu", attention_bias=bias, output_bias=bias,
        attention_scale=fields.number("query_pre_attn_scalar", 256) ** -0.5, embedding_scale=width**0.5,
        tie_embeddings=fields.flag("tie_word_embeddings", True), norm_eps=fields.number("rms_norm_eps", 1e-6),
        softcap=fields.number("final_logit_softcapping", 0.0),
    )  # fmt: skip


def write_gemma3(config: GPTConfig) -> dict[str, Any]:
    hf = write_modern(config, "gemma3_text")
    del hf["hidden_act"]
    settings = write_scaling(config.rope_scaling)
    return hf | {
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": config.attention_bias,
        "query_pre_attn_scalar": as_whole(config.attention_scale**-2),
        "final_logit_softcapping": config.softcap or None, "attn_logit_softcapping": None,
        "use_bidirectional_attention": False, "sliding_window": config.window or 4096,
        "layer_types": write_layer_types(config), "rope_local_base_freq": config.local_rope_base,
        "rope_parameters": {
            "full_attention": {"rope_theta": config.rope_base, **settings},
            "sliding_attention": {"rope_theta": config.local_rope_base, "rope_type": "default"},
        },
    }  # fmt: skip


def as_whole(value: float) -> float:
    """A whole number where rounding alone kept it from being one."""
    return round(value) if abs(value - round(value)) < 1e-6 * value else value


def read_gpt2(fields: Fields) -> GPTConfig:
    fields.require("scale_attn_weights", True, default=True)
    fields.require("scale_attn_by_inverse_layer_idx", False, default=False)
    fields.require("add_cross_attention", False, default=False)
    fields.require("activation_function", "gelu_new", "gelu_pytorch_tanh", default="gelu_new")
    return read_classic(fields, norm_position="pre", mlp_dim=fields.size("n_inner", 4 * fields.size("n_embd")))


def read_openai(fields: Fields) -> GPTConfig:
    fields.require("afn", "gelu", default="gelu")
    fields.require("tie_word_embeddings", True, default=True)
    return read_classic(fields, norm_position="post", mlp_dim=4 * fields.size("n_embd"))


def read_classic(fields: Fields, *, norm_position: Literal["pre", "post"], mlp_dim: int) -> GPTConfig:
    """GPT-1 and GPT-2."""
    width, heads, length = fields.size("n_embd"), fields.size("n_head"), fields.context("n_positions")
    fields.require("n_ctx", length, default=length)
    return GPTConfig(
        vocab_size=fields.size("vocab_size"), context_length=length, num_layers=fields.size("n_layer"), model_dim=width,
        num_heads=heads, num_kv_heads=heads, head_dim=width // heads, mlp_dim=mlp_dim,
        norm="layernorm", norm_position=norm_position, positions="learned", mlp="gelu", qk_norm=False,
        attention_bias=True, output_bias=True, mlp_bias=True, tie_embeddings=fields.flag("tie_word_embeddings", True),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5), dropout=fields.number("resid_pdrop", 0.1),
    )  # fmt: skip


def write_classic(config: GPTConfig, **others: Any) -> dict[str, Any]:
    """GPT-1 and GPT-2."""
    return {
        "n_positions": config.context_length, "n_layer": config.num_layers, "n_embd": config.model_dim,
        "n_head": config.num_heads, "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": config.dropout, **others,
    }  # fmt: skip
