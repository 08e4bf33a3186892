"""Write a model as a GGUF file: weights, tokenizer and chat template in one, for llama.cpp, OpenVINO and their kin.

The mirror of `gguf`, through the `gguf` package. Vectors (norms, biases) stay float32, as llama.cpp's converter has it;
matrices take the wanted type, or float16 where Q8_0's blocks of 32 do not divide their rows. Rows of the embedding
beyond the tokenizer become unused tokens. The template loses its `generation` marks, which those engines don't know.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, TokenType
from gguf.quants import quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray
from torch import Tensor

from wuya.checkpoints.gguf_arch import add_shape, gguf_name, require_expressible, rope_tensors, to_gguf_layout
from wuya.checkpoints.pretrained import hf_family, state_to_hf
from wuya.errors import ConfigError
from wuya.files import make_folder, write_errors
from wuya.models.gpt import GPT
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.pre_tokenizers import PreTokenizerName, pre_tokenizer_name

Precision = Literal["float32", "float16", "bfloat16", "q8_0"]

TYPES: dict[Precision, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
LLAMA_CPP_NAMES = {"gpt2": "gpt-2", "llama3": "llama-bpe"}
"""Where llama.cpp's name of a pre-tokenizer is not ours."""


def save_gguf(path: Path | str, model: GPT, tokenizer: Tokenizer, *, precision: Precision = "float16") -> None:
    """Write a .gguf file, whole or not at all; raises ConfigError for what GGUF's architectures cannot express."""
    # rows that pad the vocabulary are no tokens, but other programs would sample them: they stay here
    path, config = Path(path), replace(model.config, vocab_size=min(model.config.vocab_size, tokenizer.vocab_size))
    family = hf_family(config)
    architecture = require_expressible(config, family)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = GGUFWriter(temporary, architecture)
    try:
        with write_errors(path):
            # llama.cpp looks for Phi-3's own special tokens in any file that is called so, and fails without them
            writer.add_name(re.sub("phi-?3", "phi", path.stem, flags=re.IGNORECASE))
            writer.add_file_type(TYPES[precision][1])
            add_shape(writer, config, architecture)
            _add_tokenizer(writer, tokenizer, config.vocab_size)
            kinds = []
            for name, weight in gguf_tensors(model, architecture, config.vocab_size):
                kinds.append(kind := _kind(weight.shape, precision))
                shape = quant_shape_to_byte_shape(weight.shape, kind)
                size = int(np.prod(shape))
                writer.add_tensor_info(name, shape, np.dtype(np.uint8), size, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for (_, weight), kind in zip(gguf_tensors(model, architecture, config.vocab_size), kinds, strict=True):
                writer.write_tensor_data(_packed(weight, kind))  # one at a time: memory stays flat
            writer.close()
            os.replace(temporary, path)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


def gguf_tensors(model: GPT, architecture: str, vocab_size: int) -> Iterator[tuple[str, Tensor]]:
    """A model's tensors under GGUF's names and in its layout, with the first `vocab_size` rows of the vocabulary."""
    yield from rope_tensors(model.config)
    for name, weight in state_to_hf(model.config, model.state_dict(), scalar=False).items():
        gguf = gguf_name(name, architecture)
        tensor = to_gguf_layout(weight, name, architecture, model.config)
        yield gguf, tensor[:vocab_size] if gguf in ("token_embd.weight", "output.weight") else tensor


def _kind(shape: tuple[int, ...], precision: Precision) -> GGMLQuantizationType:
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    kind = TYPES[precision][0]
    return kind if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def _packed(weight: Tensor, kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    packed = quantize(np.ascontiguousarray(weight.detach().float().cpu().numpy()), kind)
    return np.ascontiguousarray(packed).view(np.uint8)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
    spec: dict[str, Any] = json.loads(tokenizer.to_json())
    pre = pre_tokenizer_name(spec.get("pre_tokenizer"))
    if pre is None or spec["model"].get("type") != "BPE":
        raise ConfigError(
            "GGUF files hold byte-level BPE tokenizers of known families; this model's is none",
            found=f"model {spec['model'].get('type')}, pre-tokenizer {(spec.get('pre_tokenizer') or {}).get('type')}",
            hint=f"known: {', '.join(get_args(PreTokenizerName))}",
        )
    tokens = [f"[PAD{id}]" for id in range(size)]
    types = [TokenType.UNUSED] * size
    for token, id in spec["model"]["vocab"].items():
        tokens[id], types[id] = token, TokenType.NORMAL
    for added in spec.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(LLAMA_CPP_NAMES.get(pre, pre))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = spec["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    _add_ends(writer, tokenizer)
    writer.add_pad_token_id(tokenizer.pad_id)
    if tokenizer.bos_id is not None:
        writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_add_bos_token(tokenizer.frame[0] == [tokenizer.bos_id])  # before raw texts; templates write their own
    if tokenizer.chat_template:
        writer.add_chat_template(without_generation_marks(tokenizer.chat_template))


def _add_ends(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    """Every token that ends an answer: GGUF has a place for three, `eos`, `eot` (of the turn) and `eom`."""
    ends = tokenizer.turn_end
    writer.add_eos_token_id(tokenizer.eos_id)
    if ends.id != tokenizer.eos_id:
        writer.add_eot_token_id(ends.id)
    others = [id for id in ends.ids if id not in (ends.id, tokenizer.eos_id)]
    if others:
        writer.add_eom_token_id(others[0])


def without_generation_marks(template: str) -> str:
    """Comments, which trim whitespace just so, in place of the tags of transformers' assistant mask."""
    return re.sub(r"{%(-?)\s*(?:end)?generation\s*(-?)%}", r"{#\1 \2#}", template)
