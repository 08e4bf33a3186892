"""Read llama.cpp's GGUF files: weights, tokenizer and chat template.

Metadata becomes a config.json (`gguf_metadata`), tensors get Hugging Face's names and layout (`gguf_arch`); then both
take the same road as a Hugging Face folder (pretrained.py). Quantised tensors (Q4_1, Q8_0, ...) are expanded here, by
the `gguf` package. `gguf_writer` writes such files.
"""

from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from gguf import GGUFReader
from gguf.constants import TokenType
from gguf.quants import dequantize
from tokenizers import Tokenizer as Backend

from wuya.checkpoints.gguf_arch import ROPE_TENSORS, hf_name, to_hf_layout
from wuya.checkpoints.gguf_metadata import Metadata, hf_config
from wuya.checkpoints.gguf_sentencepiece import sentencepiece_backend
from wuya.checkpoints.pretrained import Family, config_from_hf, state_from_hf
from wuya.checkpoints.weights import assign, on_meta, require_same_vocabulary
from wuya.errors import CheckpointError
from wuya.models.config import GPTConfig
from wuya.models.gpt import GPT
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.pre_tokenizers import PreTokenizerName, byte_level_backend
from wuya.tokenizer.templates import CHATML
from wuya.tokenizer.texts import bos_processor


def load_gguf(path: Path | str) -> tuple[GPT, Tokenizer]:
    """The model (float32) and tokenizer of a GGUF file."""
    path, reader = Path(path), _open(Path(path))
    metadata = Metadata(reader, path)
    hf = hf_config(metadata, {tensor.name for tensor in reader.tensors})
    config, architecture, tensors = config_from_hf(hf), metadata.need("general.architecture"), {}
    for tensor in reader.tensors:
        if tensor.name not in ROPE_TENSORS:
            weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            name = hf_name(tensor.name, architecture, path)
            tensors[name] = to_hf_layout(weight, name, architecture, config)
    state = state_from_hf(config, cast(Family, hf["model_type"]), tensors, scalar=False)
    model, tokenizer = assign(on_meta(config, state, GPT), state, path), read_tokenizer(metadata)
    require_same_vocabulary(model, tokenizer, where=str(path))
    return model, tokenizer


def describe_gguf(path: Path) -> tuple[GPTConfig, Tokenizer]:
    """The architecture and tokenizer of a GGUF file, without its weights."""
    reader = _open(path)
    fields = Metadata(reader, path)
    return config_from_hf(hf_config(fields, {tensor.name for tensor in reader.tensors})), read_tokenizer(fields)


class _Reader(GGUFReader):
    """The library's reader on a plain view of the mapped file: `numpy.memmap` runs Python code at every slice, and a
    vocabulary of 49,152 pieces takes 300,000 of them (7 s of 12 for SmolLM2's file on one core, 3 s without). Past the
    end of the file it finds empty arrays for as long as a damaged count says; here that is an error."""

    def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **keywords: Any) -> Any:
        self.data = self.data.view(np.ndarray)  # type: ignore[assignment]
        found = super()._get(offset, dtype, count, *args, **keywords)
        if found.size < count:
            raise ValueError("it ends in the middle of a field")
        return found


def _open(path: Path) -> GGUFReader:
    try:
        return _Reader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"`{path}` is not a whole GGUF file", found=str(error), hint="download it again"
        ) from error


def _texts(fields: Metadata, key: str) -> list[str]:
    found = fields.need(key)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise CheckpointError(f"`{key}` in `{fields.path}` is no list of texts", found=str(found)[:60])
    return found


def _merges(fields: Metadata) -> list[tuple[str, str]]:
    pairs = []
    for merge in _texts(fields, "tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")  # no piece holds a space: bytes are GPT-2's printable characters
        if not space or " " in right:
            raise CheckpointError(f"a merge in `{fields.path}` is not two pieces", found=repr(merge)[:60])
        pairs.append((left, right))
    return pairs


def _types(fields: Metadata, num_tokens: int) -> list[int]:
    types = fields.need("tokenizer.ggml.token_type")
    if not isinstance(types, list) or len(types) != num_tokens:
        found = f"{len(types) if isinstance(types, list) else 'no list'} of {num_tokens:,}"
        raise CheckpointError(f"`{fields.path}` does not say what kind each token is", found=found)
    return types


def _token_id(fields: Metadata, name: str, num_tokens: int, default: int | None = None) -> int | None:
    """The id of a token by its role; one that the vocabulary lacks is refused."""
    key = f"tokenizer.ggml.{name}_token_id"
    id = fields.get(key, default)
    if id is not None and not (isinstance(id, int) and 0 <= id < num_tokens):
        raise CheckpointError(f"`{key}` in `{fields.path}` is no token", found=f"{str(id)[:40]} of {num_tokens:,}")
    return id


def read_tokenizer(fields: Metadata) -> Tokenizer:
    """The tokenizer of a GGUF file (byte-level BPE, SentencePiece), with its chat template or else ChatML."""
    kind, pre = fields.need("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt2")
    pre = {"gpt-2": "gpt2", "llama-bpe": "llama3"}.get(str(pre), pre)
    if kind != "llama" and (kind != "gpt2" or pre not in get_args(PreTokenizerName)):
        raise CheckpointError(
            f"the tokenizer of `{fields.path}` is not supported",
            found=f"model `{kind}`, pre-tokenizer `{pre}`",
            hint=f"supported: SentencePiece (`llama`), byte-level BPE with {', '.join(get_args(PreTokenizerName))}",
        )
    tokens = _texts(fields, "tokenizer.ggml.tokens")
    types = _types(fields, len(tokens))
    fields.need("tokenizer.ggml.eos_token_id")
    begin, end, *ends = (_token_id(fields, name, len(tokens)) for name in ("bos", "eos", "eot", "eom"))
    assert end is not None
    pad = _token_id(fields, "padding", len(tokens), end)
    assert pad is not None
    backend = _sentencepiece(fields, tokens, types) if kind == "llama" else _byte_level(fields, tokens, types, str(pre))
    bos_token = None if begin is None else tokens[begin]
    if begin is not None and fields.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre == "llama3"):
        backend.post_processor = bos_processor(tokens[begin], begin)
    template = fields.get("tokenizer.chat_template", CHATML)
    return Tokenizer(
        backend,
        {"eos_token": tokens[end], "pad_token": tokens[pad], "bos_token": bos_token},
        chat_template=template if isinstance(template, str) else CHATML,
        end_ids=[id for id in ends if id is not None],
        template_name=f"the chat template in `{fields.path}`",
    )


def _byte_level(fields: Metadata, tokens: list[str], types: list[int], pre: str) -> Backend:
    ids = {type: {tokens[id]: id for id, own in enumerate(types) if own == type} for type in TokenType}
    vocab = {token: id for id, token in enumerate(tokens) if types[id] != TokenType.UNUSED}
    name = cast(PreTokenizerName, pre)
    return byte_level_backend(vocab, _merges(fields), name, ids[TokenType.CONTROL], ids[TokenType.USER_DEFINED])


def _sentencepiece(fields: Metadata, tokens: list[str], types: list[int]) -> Backend:
    scores = fields.need("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens) or not all(isinstance(x, float) for x in scores):
        raise CheckpointError(f"`{fields.path}` does not have a score for each of its {len(tokens):,} tokens")
    space_before = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    return sentencepiece_backend(tokens, scores, types, space_before=space_before)
