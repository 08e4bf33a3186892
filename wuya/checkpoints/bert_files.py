"""BERT folders in and out: `BertForPreTraining`, `BertForMaskedLM` and the bare `BertModel` of `transformers`.

    model, tokenizer = load_bert("runs/bert")        # or any published folder with `model_type: bert`
    save_bert(folder, model, tokenizer)

An encoder that BERT's class cannot compute (rotary positions, RMSNorm: any of our architectures with full attention) is
stored with `model_type: wuya` under our own names, and loads here only. Decoders have checkpoint.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wuya.checkpoints.checkpoint import load_tokenizer, provenance, resolve_checkpoint, write_folder, write_tensors
from wuya.checkpoints.checksums import require_whole
from wuya.checkpoints.families import CLASSIC, Spec
from wuya.checkpoints.hf_fields import Fields
from wuya.checkpoints.hf_folder import WEIGHTS, read_config, read_tensors
from wuya.checkpoints.pretrained import OWN_FAMILY, TensorRule, config_from_hf, require_layers, with_prefix
from wuya.checkpoints.weights import assign, on_meta, require_same_vocabulary
from wuya.errors import CheckpointError, UnsupportedModel
from wuya.models.bert import HEADS, Bert, Head
from wuya.models.config import GPTConfig
from wuya.tokenizer.bpe import Tokenizer

PREFIXES: dict[Head, str] = {
    "masked": "cls.predictions.", "pooler": "bert.pooler.", "next_sentence": "cls.seq_relationship.",
}  # fmt: skip
"""Where each head's tensors lie in their files."""
OWN_PREFIXES: dict[Head, str] = {"masked": "masked.", "pooler": "pooler.", "next_sentence": "pair."}
DECODER = "cls.predictions.decoder."


def load_bert(
    path: Path | str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Bert, Tokenizer]:
    """The encoder and tokenizer of a checkpoint or run folder. Raises: CheckpointError, UnsupportedModel."""
    folder = resolve_checkpoint(path)
    model, tokenizer = load_encoder(folder, device=device, dtype=dtype), load_tokenizer(folder)
    require_same_vocabulary(model, tokenizer, where=str(folder))
    return model, tokenizer


def load_encoder(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Bert:
    """The encoder of a checkpoint folder, with the heads that are there, without its tokenizer."""
    hf = read_config(folder)
    if hf.get("model_type") == OWN_FAMILY:
        config, state = config_from_hf(hf), read_tensors(folder)
    else:
        config = bert_config_from_hf(hf)
        state = bert_state_from_hf(config, read_tensors(folder))
    if config.attention != "full":
        raise CheckpointError(
            f"`{folder}` is a decoder, an encoder is needed here", found=f"{hf.get('architectures')}, causal attention"
        )
    heads = [head for head in HEADS if any(name.startswith(OWN_PREFIXES[head]) for name in state)]
    model = on_meta(config, state, lambda config: Bert(config, heads=heads))
    assign(model, {name: tensor.to(device=device, dtype=dtype, copy=True) for name, tensor in state.items()}, folder)
    require_whole(folder)
    return model


def save_bert(
    folder: Path | str,
    model: Bert,
    tokenizer: Tokenizer,
    *,
    recipe: str = "",
    parents: Mapping[str, Path | str] | None = None,
    extra: Mapping[str, object] | None = None,
) -> None:
    """Write a checkpoint folder, whole or not at all; arguments as in `save_checkpoint`."""
    require_same_vocabulary(model, tokenizer, where=str(folder))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if not BERT.missing(model.config):
        hf, tensors = bert_config_to_hf(model), bert_state_to_hf(model, state)
    else:
        hf = {"architectures": ["WuyaForPreTraining"], "model_type": OWN_FAMILY, **asdict(model.config)}
        tensors = state
    hf |= {"pad_token_id": tokenizer.pad_id, "dtype": str(model.trunk.dtype).removeprefix("torch.")}
    facts = provenance(tokenizer, recipe=recipe, parents=parents or {}, extra=extra or {})
    write_folder(
        folder,
        tokenizer,
        lambda temporary: write_tensors(tensors, temporary / WEIGHTS),
        {"config.json": hf, "wuya.json": facts},
    )


# ---- config.json
def bert_config_from_hf(hf: Mapping[str, Any]) -> GPTConfig:
    """The architecture that a config.json of BERT describes; each of its fields is understood or refused."""
    if hf.get("model_type") != "bert":
        raise UnsupportedModel(
            "this architecture is not an encoder that wuya knows",
            found=f"model_type {hf.get('model_type')!r}, architectures {hf.get('architectures')}",
            hint="supported: bert",
        )
    fields = Fields(hf)
    config = read_bert(fields)
    fields.raw("classifier_dropout")
    fields.refuse_others()
    return config


def read_bert(fields: Fields) -> GPTConfig:
    fields.require("position_embedding_type", "absolute", default="absolute")
    fields.require("is_decoder", False, default=False)
    fields.require("add_cross_attention", False, default=False)
    fields.require("tie_word_embeddings", True, default=True)
    fields.require("hidden_act", "gelu", "gelu_new", "gelu_pytorch_tanh", default="gelu")
    fields.number("attention_probs_dropout_prob", 0.1)
    width, heads = fields.size("hidden_size", 768), fields.size("num_attention_heads", 12)
    return GPTConfig(
        attention="full", vocab_size=fields.size("vocab_size", 30_522),
        context_length=fields.context("max_position_embeddings"), num_layers=fields.size("num_hidden_layers", 12),
        model_dim=width, num_heads=heads, num_kv_heads=heads, head_dim=width // heads,
        mlp_dim=fields.size("intermediate_size", 3072), norm="layernorm", norm_position="post", positions="learned",
        token_types=fields.size("type_vocab_size", 2), embedding_norm=True, qk_norm=False, attention_bias=True,
        output_bias=True, mlp_bias=True, norm_eps=fields.number("layer_norm_eps", 1e-12),
        mlp="gelu_exact" if fields.get("hidden_act", "gelu") == "gelu" else "gelu",
        dropout=fields.number("hidden_dropout_prob", 0.1),
    )  # fmt: skip


def write_bert(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size, "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.num_layers, "hidden_size": config.model_dim,
        "num_attention_heads": config.num_heads, "intermediate_size": config.mlp_dim,
        "type_vocab_size": config.token_types, "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu" if config.mlp == "gelu_exact" else "gelu_new", "tie_word_embeddings": True,
        "hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout,
    }  # fmt: skip


BERT = Spec(
    "Bert", read_bert, write_bert,
    (CLASSIC - {"a GELU MLP (it has no SwiGLU)"}) | {"full attention", "token types", "a norm of the embeddings",
                                                    "norms after each sum (it is not pre-norm)"},
    frozenset({"an exact GELU", "a GELU MLP (it has no SwiGLU)", "mlp_dim other than 4 model_dim"}),
    "ForPreTraining",
)  # fmt: skip


def bert_config_to_hf(model: Bert) -> dict[str, Any]:
    """config.json that `transformers` loads with exactly the heads that are there."""
    has = {head for head in HEADS if any(name.startswith(OWN_PREFIXES[head]) for name in model.state_dict())}
    suffix = "ForPreTraining" if has == set(HEADS) else "ForMaskedLM" if has == {"masked"} else "Model"
    return {"architectures": [BERT.prefix + suffix], "model_type": "bert", **write_bert(model.config)}


# ---- tensors
def tensor_rules(config: GPTConfig) -> Iterator[TensorRule]:
    """Every parameter of a BERT with all heads, and its place in their file."""
    yield TensorRule("trunk.embedding.weight", ("bert.embeddings.word_embeddings.weight",))
    yield TensorRule("trunk.position_embedding.weight", ("bert.embeddings.position_embeddings.weight",))
    yield TensorRule("trunk.type_embedding.weight", ("bert.embeddings.token_type_embeddings.weight",))
    modules: dict[str, tuple[str, ...]] = {"trunk.embedding_norm": ("bert.embeddings.LayerNorm",)}
    for i in range(config.num_layers):
        ours, theirs = f"trunk.blocks.{i}", f"bert.encoder.layer.{i}"
        modules |= {
            f"{ours}.attention.qkv": tuple(f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")),
            f"{ours}.attention.out": (f"{theirs}.attention.output.dense",),
            f"{ours}.attention_norm": (f"{theirs}.attention.output.LayerNorm",),
            f"{ours}.mlp.up": (f"{theirs}.intermediate.dense",),
            f"{ours}.mlp.down": (f"{theirs}.output.dense",),
            f"{ours}.mlp_norm": (f"{theirs}.output.LayerNorm",),
        }
    modules |= {
        "pooler": ("bert.pooler.dense",),
        "pair": ("cls.seq_relationship",),
        "masked.transform": ("cls.predictions.transform.dense",),
        "masked.norm": ("cls.predictions.transform.LayerNorm",),
    }
    for module, names in modules.items():
        rows = config.qkv_rows if len(names) == 3 else ()
        for kind in ("weight", "bias"):
            yield TensorRule(f"{module}.{kind}", tuple(f"{name}.{kind}" for name in names), rows=rows)
    yield TensorRule("masked.bias", ("cls.predictions.bias",))


def bert_state_from_hf(config: GPTConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from a file's tensors, all of which must be used; heads may be absent as a whole."""
    renamed = {name.replace(".gamma", ".weight").replace(".beta", ".bias"): t for name, t in tensors.items()}
    heads = {name: tensor for name, tensor in renamed.items() if name.startswith("cls.")}
    tensors = heads | dict(with_prefix({k: v for k, v in renamed.items() if k not in heads}, "bert."))
    require_layers(config, tensors, "bert.encoder.layer.")
    absent = [prefix for prefix in PREFIXES.values() if not any(name.startswith(prefix) for name in tensors)]
    rules = [rule for rule in tensor_rules(config) if not rule.theirs[0].startswith(tuple(absent))]
    wanted = {name for rule in rules for name in rule.theirs}
    if missing := sorted(wanted - set(tensors)):
        raise CheckpointError("tensors are missing from the checkpoint", found=f"no {', '.join(missing[:4])}")
    copies = {DECODER + "weight": "bert.embeddings.word_embeddings.weight", DECODER + "bias": "cls.predictions.bias"}
    for copy, original in copies.items():
        if copy in tensors and not torch.equal(tensors[copy], tensors[original]):
            raise CheckpointError(
                "this BERT has an output matrix of its own; wuya's is the embedding table",
                found=f"{copy} differs from {original}",
            )
    extra = sorted(set(tensors) - wanted - set(copies) - {"bert.embeddings.position_ids"})
    if extra:
        raise CheckpointError(
            "the checkpoint holds tensors this architecture has no place for", found=", ".join(extra[:4])
        )
    return {rule.ours: rule.to_ours(tensors) for rule in rules}


def bert_state_to_hf(model: Bert, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of their file; the tied output matrix is left out, as they leave it out."""
    rules = [rule for rule in tensor_rules(model.config) if rule.ours in state]
    return {name: tensor for rule in rules for name, tensor in rule.to_theirs(state[rule.ours])}
