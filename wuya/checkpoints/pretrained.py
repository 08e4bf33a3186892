"""The border to Hugging Face: their config.json and tensor names to ours and back, for ten families of decoders.

`families.py` reads and writes config.json, by an allow-list of fields; here are the class names and the tensors. Two
things differ in storage: we keep q, k, v (and gate, up) as the rows of one matrix, as Phi-3 alone does, and the two GPT
classes keep every matrix transposed (`Conv1D`). What a family cannot express is refused with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast, get_args

import torch
from torch import Tensor

from wuya.checkpoints.families import SPECS, family_of, read_config
from wuya.checkpoints.families import Family as Family
from wuya.checkpoints.hf_fields import Fields
from wuya.errors import CheckpointError, UnsupportedModel
from wuya.models.config import GPTConfig, RopeScaling

FAMILIES: tuple[Family, ...] = get_args(Family)
OWN_FAMILY = "wuya"  # model_type of what no Hugging Face class can express; loads here only
IGNORED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", "position_ids")  # buffers in old files
SCORE_BIAS = "score.bias"
"""What our reward models subtract, negated; the `score` layer of transformers has none, and says so when it loads."""
NORMS = {
    "pre": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "output": {"attention_output_norm": "post_attention_layernorm", "mlp_output_norm": "post_feedforward_layernorm"},
    "both": {
        "attention_norm": "input_layernorm", "attention_output_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm", "mlp_output_norm": "post_feedforward_layernorm",
    },
}  # fmt: skip
"""Names of a layer's norms, ours to theirs, by `norm_position`."""


# ---- config.json
def config_from_hf(hf: Mapping[str, Any]) -> GPTConfig:
    """Our description of the model that a Hugging Face config.json describes.

    Raises UnsupportedModel where our decoder would compute something else, CheckpointError where a field is missing.
    """
    family = hf.get("model_type")
    if family == OWN_FAMILY:
        return _own_config(hf)
    if family in FAMILIES:
        return read_config(hf, cast(Family, family))
    raise UnsupportedModel(
        "this architecture is not one that wuya's own decoder runs",
        found=f"model_type {family!r}, architectures {hf.get('architectures')}",
        hint=f"supported: {', '.join(FAMILIES)}",
    )


def _own_config(hf: Mapping[str, Any]) -> GPTConfig:
    """Fields that a file of an older version lacks have their defaults; unknown ones are of a newer version."""
    reader, values = Fields(hf), dict[str, Any]()
    for field in fields(GPTConfig):
        value = reader.raw(field.name, field.default)
        if value is MISSING:
            raise CheckpointError(f"config.json lacks the field `{field.name}`", found=", ".join(sorted(hf)[:12]))
        if field.type in (int, "int") and (isinstance(value, bool) or not isinstance(value, int) or value >= 2**31):
            raise CheckpointError(f"`{field.name}` of config.json is not a size", found=repr(value)[:80])
        values[field.name] = tuple(value) if isinstance(value, list) else value
    reader.refuse_others()
    if isinstance(scaling := values["rope_scaling"], dict):
        lists = {key: tuple(value) for key, value in scaling.items() if isinstance(value, list)}
        values["rope_scaling"] = RopeScaling(**{**scaling, **lists})
    return GPTConfig(**values)


def hf_family(config: GPTConfig) -> Family:
    """The Hugging Face family that computes exactly what this config does; a ConfigError says what is in the way."""
    return family_of(config)


def config_to_hf(
    config: GPTConfig, *, scalar: bool, eos_id: int | list[int] | None, pad_id: int | None
) -> dict[str, Any]:
    """config.json for transformers (4 and 5), vLLM and llama.cpp. Raises ConfigError where no class fits."""
    family = hf_family(config)
    spec = SPECS[family]
    hf: dict[str, Any] = {"architectures": [spec.prefix + (spec.scalar_suffix if scalar else spec.lm_suffix)]}
    hf |= {"model_type": family, **spec.write(config)}
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
    rules = list(_classic_rules(config, family) if classic else _modern_rules(config, fused=family == "phi3"))
    if scalar:
        rules.append(TensorRule("head.weight", ("score.weight",)))
    elif not config.tie_embeddings:
        rules.append(TensorRule("head.weight", ("lm_head.weight",)))
    return rules


def _modern_rules(config: GPTConfig, *, fused: bool) -> Iterator[TensorRule]:
    """All families since Llama; with `fused` q, k, v and gate, up are single tensors, as here."""
    yield TensorRule("embedding.weight", ("model.embed_tokens.weight",))
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        for norm, name in NORMS[config.norm_position].items():
            yield TensorRule(f"{ours}.{norm}.weight", (f"{theirs}.{name}.weight",))
        if config.qk_norm:
            yield TensorRule(f"{ours}.attention.q_norm.weight", (f"{theirs}.self_attn.q_norm.weight",))
            yield TensorRule(f"{ours}.attention.k_norm.weight", (f"{theirs}.self_attn.k_norm.weight",))
        qkv = ("qkv_proj",) if fused else ("q_proj", "k_proj", "v_proj")
        gate_up = ("gate_up_proj",) if fused else ("gate_proj", "up_proj")
        for kind in ("weight", "bias"):
            is_weight = kind == "weight"
            if is_weight or config.attention_bias:
                names = tuple(f"{theirs}.self_attn.{part}.{kind}" for part in qkv)
                yield TensorRule(f"{ours}.attention.qkv.{kind}", names, rows=() if fused else config.qkv_rows)
            if is_weight or config.output_bias:
                yield TensorRule(f"{ours}.attention.out.{kind}", (f"{theirs}.self_attn.o_proj.{kind}",))
            if is_weight or config.mlp_bias:
                names = tuple(f"{theirs}.mlp.{part}.{kind}" for part in gate_up)
                yield TensorRule(f"{ours}.mlp.gate_up.{kind}", names, rows=() if fused else (config.mlp_dim,) * 2)
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
    classic = family in ("gpt2", "openai-gpt")
    tensors = with_prefix(tensors, "transformer." if classic else "model.")
    require_layers(config, tensors, "transformer.h." if classic else "model.layers.")
    rules = tensor_rules(config, family, scalar=scalar)
    if scalar and SCORE_BIAS in tensors:
        rules.append(TensorRule("head.bias", (SCORE_BIAS,)))
    wanted = {name for rule in rules for name in rule.theirs}
    if missing := sorted(wanted - set(tensors)):
        raise CheckpointError("tensors are missing from the checkpoint", found=f"no {_some(missing)}")
    extra = {name for name in tensors if name not in wanted and not name.endswith(IGNORED)}
    if config.tie_embeddings and "lm_head.weight" in extra:
        require_tied(tensors, rules[0].theirs[0])
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


def require_layers(config: GPTConfig, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse a config.json with other layers than the file, before anything is built by its word."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    if len(numbers) != config.num_layers:
        raise CheckpointError(
            "config.json and the tensors disagree on the number of layers",
            found=f"{config.num_layers} in config.json, tensors of {len(numbers)}",
        )


def require_tied(tensors: Mapping[str, Tensor], embedding: str) -> None:
    """Refuse an output matrix of its own beside `tie_word_embeddings: true`: one of the two is wrong."""
    head, table = tensors["lm_head.weight"], tensors[embedding]
    if head.shape != table.shape or not torch.equal(head, table):
        raise CheckpointError(
            "config.json says that the output matrix is the embedding table (`tie_word_embeddings: true`), "
            "but the file holds another `lm_head.weight`",
            found=f"lm_head.weight {tuple(head.shape)}, {embedding} {tuple(table.shape)}, not equal",
            hint="set `tie_word_embeddings` to false if the model was trained with its own output matrix, "
            "or remove the tensor if it is left over",
        )


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
