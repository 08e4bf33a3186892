"""The border to Hugging Face: their config.json and tensor names to ours and back, for five families of decoders.

OpenAIGPT, GPT2, Llama, Qwen2 and Qwen3 (and each one's `ForSequenceClassification`). Vendor spellings are translated
here and nowhere else. Two things differ in storage: we keep q, k, v (and gate, up) as the rows of one matrix, and the
two GPT classes keep every matrix transposed (`Conv1D`). What a family cannot express is refused with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from wuya.errors import CheckpointError, ConfigError
from wuya.models.config import GPTConfig

Family = Literal["qwen3", "qwen2", "llama", "gpt2", "openai-gpt"]
FAMILIES: tuple[Family, ...] = get_args(Family)
CLASS_PREFIX = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama", "gpt2": "GPT2", "openai-gpt": "OpenAIGPT"}
LM_SUFFIX = {"gpt2": "LMHeadModel", "openai-gpt": "LMHeadModel"}
OWN_FAMILY = "wuya"  # model_type of what no Hugging Face class can express; loads here only
IGNORED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", "position_ids")  # buffers in old files


# ---- config.json -> GPTConfig
def config_from_hf(hf: Mapping[str, Any]) -> GPTConfig:
    """Our description of the model that a Hugging Face config.json describes."""
    try:
        return _config_from_hf(hf)
    except KeyError as error:
        raise CheckpointError(f"config.json lacks the field {error}", found=", ".join(sorted(hf)[:12])) from error


def _config_from_hf(hf: Mapping[str, Any]) -> GPTConfig:
    family = hf.get("model_type")
    if family == OWN_FAMILY:
        return _own_config(hf)
    if family == "gpt2":
        _require(hf, "scale_attn_weights", True)
        _require(hf, "scale_attn_by_inverse_layer_idx", False)
        _require(hf, "add_cross_attention", False)
        _require_one_of(hf, "activation_function", ("gelu_new", "gelu_pytorch_tanh"), default="gelu_new")
        return _classic_config(hf, norm_position="pre", mlp_dim=hf.get("n_inner") or 4 * hf["n_embd"])
    if family == "openai-gpt":
        _require_one_of(hf, "afn", ("gelu",), default="gelu")
        return _classic_config(hf, norm_position="post", mlp_dim=4 * hf["n_embd"])
    if family in ("llama", "qwen2", "qwen3"):
        return _modern_config(hf, family)
    raise CheckpointError(
        "this architecture is not one that wuya can run",
        found=f"model_type {family!r}, architectures {hf.get('architectures')}",
        hint=f"supported: {', '.join(FAMILIES)}",
    )


def _classic_config(hf: Mapping[str, Any], *, norm_position: Literal["pre", "post"], mlp_dim: int) -> GPTConfig:
    return GPTConfig(
        vocab_size=hf["vocab_size"], context_length=hf["n_positions"], num_layers=hf["n_layer"], model_dim=hf["n_embd"],
        num_heads=hf["n_head"], num_kv_heads=hf["n_head"], head_dim=hf["n_embd"] // hf["n_head"], mlp_dim=mlp_dim,
        norm="layernorm", norm_position=norm_position, positions="learned", mlp="gelu", qk_norm=False,
        attention_bias=True, output_bias=True, mlp_bias=True, tie_embeddings=hf.get("tie_word_embeddings", True),
        norm_eps=hf.get("layer_norm_epsilon", 1e-5), dropout=hf.get("resid_pdrop", 0.1),
    )  # fmt: skip


def _modern_config(hf: Mapping[str, Any], family: str) -> GPTConfig:
    _require_one_of(hf, "hidden_act", ("silu",), default="silu")
    rope = hf.get("rope_parameters") or {}  # transformers 5; before: rope_theta, and rope_scaling where it is rescaled
    for settings in (rope, hf.get("rope_scaling") or {}):
        if (kind := settings.get("rope_type") or settings.get("type") or "default") != "default":
            raise CheckpointError("rescaled rotary positions are not supported", found=f"rope_type {kind!r}")
    if hf.get("use_sliding_window") and "sliding_attention" in (hf.get("layer_types") or ["sliding_attention"]):
        raise CheckpointError("sliding-window attention is not supported", found="use_sliding_window true")
    heads = hf["num_attention_heads"]
    bias = {"qwen2": (True, False)}.get(family, (hf.get("attention_bias", False),) * 2)
    return GPTConfig(
        vocab_size=hf["vocab_size"], context_length=hf["max_position_embeddings"], num_layers=hf["num_hidden_layers"],
        model_dim=hf["hidden_size"], num_heads=heads, num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or hf["hidden_size"] // heads, mlp_dim=hf["intermediate_size"],
        rope_base=float(rope.get("rope_theta") or hf.get("rope_theta") or 10_000.0), qk_norm=family == "qwen3",
        attention_bias=bias[0], output_bias=bias[1], mlp_bias=family == "llama" and hf.get("mlp_bias", False),
        tie_embeddings=hf.get("tie_word_embeddings", False), norm_eps=hf.get("rms_norm_eps", 1e-6),
    )  # fmt: skip


def _own_config(hf: Mapping[str, Any]) -> GPTConfig:
    return GPTConfig(**{field.name: hf[field.name] for field in fields(GPTConfig)})


def _require(hf: Mapping[str, Any], key: str, value: object) -> None:
    _require_one_of(hf, key, (value,), default=value)


def _require_one_of(hf: Mapping[str, Any], key: str, values: tuple[object, ...], *, default: object) -> None:
    if hf.get(key, default) not in values:
        raise CheckpointError(
            f"`{key}` of this checkpoint is not supported",
            found=repr(hf[key]),
            hint=f"supported: {', '.join(map(repr, values))}",
        )


# ---- GPTConfig -> config.json
def hf_family(config: GPTConfig) -> Family:
    """The Hugging Face family that computes exactly what this config does; a ConfigError says what is in the way."""
    if config.softcap:
        raise _inexpressible("it caps its logits (`softcap`)")
    if config.mlp == "relu2":
        raise _inexpressible("its MLP is a squared ReLU (`mlp: relu2`)")
    if config.norm == "layernorm":
        facts = {
            "learned positions": config.positions == "learned",
            "a GELU MLP": config.mlp == "gelu",
            "no QK-norm": not config.qk_norm,
            "biases everywhere": config.attention_bias and config.output_bias and config.mlp_bias,
            "one key/value head a query head": config.num_kv_heads == config.num_heads,
            "head_dim = model_dim / num_heads": config.head_dim * config.num_heads == config.model_dim,
            "mlp_dim = 4 model_dim and tied embeddings, when post-norm": config.norm_position == "pre"
            or (config.mlp_dim == 4 * config.model_dim and config.tie_embeddings),
        }
        family: Family = "gpt2" if config.norm_position == "pre" else "openai-gpt"
    else:
        family = "qwen3" if config.qk_norm else "llama"
        if not config.qk_norm and config.attention_bias and not config.output_bias:
            family = "qwen2"
        facts = {
            "pre-norm": config.norm_position == "pre",
            "rotary positions": config.positions == "rope",
            "a SwiGLU MLP": config.mlp == "swiglu",
            "no bias in the MLP": not config.mlp_bias or family == "llama",
            "output_bias = attention_bias": family == "qwen2" or config.output_bias == config.attention_bias,
        }
    if missing := [fact for fact, holds in facts.items() if not holds]:
        raise _inexpressible(f"{CLASS_PREFIX[family]} needs {'; '.join(missing)}")
    return family


def _inexpressible(reason: str) -> ConfigError:
    return ConfigError(
        f"no Hugging Face class computes what this model does: {reason}",
        hint="train with a preset of the modern line (`demo`, `tiny`, `modern(...)`), which is exactly Qwen3",
    )


def config_to_hf(config: GPTConfig, *, scalar: bool, eos_id: int | None, pad_id: int | None) -> dict[str, Any]:
    """config.json for transformers (4 and 5), vLLM and llama.cpp. Raises ConfigError where no class fits."""
    family = hf_family(config)
    suffix = "ForSequenceClassification" if scalar else LM_SUFFIX.get(family, "ForCausalLM")
    hf: dict[str, Any] = {"architectures": [CLASS_PREFIX[family] + suffix], "model_type": family}
    if family in ("gpt2", "openai-gpt"):
        hf |= {
            "n_positions": config.context_length, "n_layer": config.num_layers, "n_embd": config.model_dim,
            "n_head": config.num_heads, "layer_norm_epsilon": config.norm_eps,
            "resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": config.dropout,
        }  # fmt: skip
        hf |= {"activation_function": "gelu_new", "n_inner": config.mlp_dim} if family == "gpt2" else {"afn": "gelu"}
    else:
        hf |= {
            "max_position_embeddings": config.context_length, "num_hidden_layers": config.num_layers,
            "hidden_size": config.model_dim, "intermediate_size": config.mlp_dim, "hidden_act": "silu",
            "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim, "rms_norm_eps": config.norm_eps, "attention_dropout": 0.0,
            "rope_theta": config.rope_base,
            "rope_parameters": {"rope_theta": config.rope_base, "rope_type": "default"},
        }  # fmt: skip
        if family != "qwen2":
            hf["attention_bias"] = config.attention_bias
        if family == "llama":
            hf["mlp_bias"] = config.mlp_bias
        else:
            hf["use_sliding_window"] = False
    hf |= {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tie_embeddings}
    hf |= {"bos_token_id": None, "eos_token_id": eos_id, "pad_token_id": pad_id}
    if scalar:
        hf |= {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
    return hf


# ---- tensors
@dataclass(frozen=True, slots=True)
class TensorRule:
    """One parameter of ours and the tensor(s) it is in their file: several are stacked by rows, in order."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()
    transposed: bool = False

    def to_ours(self, tensors: Mapping[str, Tensor]) -> Tensor:
        parts = [tensors[name].T if self.transposed else tensors[name] for name in self.theirs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def to_theirs(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        if len(self.theirs) == 1:
            yield self.theirs[0], tensor.T.contiguous() if self.transposed else tensor
        else:
            for name, part in zip(self.theirs, torch.split(tensor, list(self.rows)), strict=True):
                yield name, part.clone()  # a file may not hold two tensors of one storage


def tensor_rules(config: GPTConfig, family: Family, *, scalar: bool) -> list[TensorRule]:
    """Every parameter of a GPT with its place in a checkpoint of `family`; a scalar head is `score.weight`."""
    classic = family in ("gpt2", "openai-gpt")
    rules = list(_classic_rules(config, family) if classic else _modern_rules(config))
    if scalar:
        rules.append(TensorRule("head.weight", ("score.weight",)))
    elif not config.tie_embeddings:
        rules.append(TensorRule("head.weight", ("lm_head.weight",)))
    return rules


def _modern_rules(config: GPTConfig) -> Iterator[TensorRule]:
    yield TensorRule("embedding.weight", ("model.embed_tokens.weight",))
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield TensorRule(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",))
        yield TensorRule(f"{ours}.mlp_norm.weight", (f"{theirs}.post_attention_layernorm.weight",))
        if config.qk_norm:
            yield TensorRule(f"{ours}.attention.q_norm.weight", (f"{theirs}.self_attn.q_norm.weight",))
            yield TensorRule(f"{ours}.attention.k_norm.weight", (f"{theirs}.self_attn.k_norm.weight",))
        for kind in ("weight", "bias"):
            is_weight = kind == "weight"
            if is_weight or config.attention_bias:
                names = tuple(f"{theirs}.self_attn.{part}_proj.{kind}" for part in "qkv")
                yield TensorRule(f"{ours}.attention.qkv.{kind}", names, rows=config.qkv_rows)
            if is_weight or config.output_bias:
                yield TensorRule(f"{ours}.attention.out.{kind}", (f"{theirs}.self_attn.o_proj.{kind}",))
            if is_weight or config.mlp_bias:
                names = (f"{theirs}.mlp.gate_proj.{kind}", f"{theirs}.mlp.up_proj.{kind}")
                yield TensorRule(f"{ours}.mlp.gate_up.{kind}", names, rows=(config.mlp_dim,) * 2)
                yield TensorRule(f"{ours}.mlp.down.{kind}", (f"{theirs}.mlp.down_proj.{kind}",))
    yield TensorRule("final_norm.weight", ("model.norm.weight",))


def _classic_rules(config: GPTConfig, family: Family) -> Iterator[TensorRule]:
    tokens, positions = ("wte", "wpe") if family == "gpt2" else ("tokens_embed", "positions_embed")
    yield TensorRule("embedding.weight", (f"transformer.{tokens}.weight",))
    yield TensorRule("position_embedding.weight", (f"transformer.{positions}.weight",))
    matrices = {
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    norms = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
    for i in range(config.num_layers):
        for kind in ("weight", "bias"):
            for ours, theirs in norms.items():
                yield TensorRule(f"blocks.{i}.{ours}.{kind}", (f"transformer.h.{i}.{theirs}.{kind}",))
            for ours, theirs in matrices.items():
                yield TensorRule(
                    f"blocks.{i}.{ours}.{kind}", (f"transformer.h.{i}.{theirs}.{kind}",), transposed=kind == "weight"
                )
    if family == "gpt2":
        yield TensorRule("final_norm.weight", ("transformer.ln_f.weight",))
        yield TensorRule("final_norm.bias", ("transformer.ln_f.bias",))


def state_from_hf(
    config: GPTConfig, family: Family, tensors: Mapping[str, Tensor], *, scalar: bool
) -> dict[str, Tensor]:
    """Our state dict (trunk and, with `scalar`, `head.weight`) from a file's tensors, all of which must be used."""
    tensors = with_prefix(tensors, "transformer." if family in ("gpt2", "openai-gpt") else "model.")
    rules = tensor_rules(config, family, scalar=scalar)
    wanted = {name for rule in rules for name in rule.theirs}
    if missing := sorted(wanted - set(tensors)):
        raise CheckpointError("tensors are missing from the checkpoint", found=f"no {_some(missing)}")
    extra = {name for name in tensors if name not in wanted and not name.endswith(IGNORED)}
    if config.tie_embeddings:
        extra.discard("lm_head.weight")
    if extra:
        raise CheckpointError(
            "the checkpoint holds tensors this architecture has no place for", found=_some(sorted(extra))
        )
    return {rule.ours: rule.to_ours(tensors) for rule in rules}


def state_to_hf(config: GPTConfig, state: Mapping[str, Tensor], *, scalar: bool) -> dict[str, Tensor]:
    """The tensors of a Hugging Face file from a state dict of ours, named as in `tensor_rules`."""
    rules = tensor_rules(config, hf_family(config), scalar=scalar)
    return {name: tensor for rule in rules for name, tensor in rule.to_theirs(state[rule.ours])}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    """Files saved from a bare trunk (as the first GPT-2 release) lack the trunk's name; put it on."""
    if any(name.startswith(prefix) for name in tensors):
        return tensors
    return {
        name if name.startswith(("lm_head.", "score.")) else prefix + name: tensor for name, tensor in tensors.items()
    }


def _some(names: Iterable[str], limit: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
