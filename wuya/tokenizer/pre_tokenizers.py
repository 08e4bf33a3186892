"""How text is cut into pieces before BPE merges bytes inside each piece: the regular expressions of the common models.

A pre-tokenizer is named as in GGUF files (`tokenizer.ggml.pre`), so llama.cpp and vLLM know what we train.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import PreTokenizer

from wuya.errors import DataError

PreTokenizerName = Literal["qwen2", "gpt2", "smollm", "llama3"]

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2 (2019): spaces stick to the word after them."""
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2, ours too: digits one by one, line breaks kept together."""
LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
"""Llama 3 (and GPT-4): as Qwen2's, digits in groups of up to three."""
SMOLLM_PATTERN = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
"""SmolLM: digits are split off one by one, then GPT-2's expression cuts the rest; here both in one expression."""


def named_pre_tokenizer(name: PreTokenizerName) -> PreTokenizer:
    """The pre-tokenizer of a model family, ready for a `tokenizers.Tokenizer`."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in {"gpt2", "smollm"})
    if name == "gpt2":
        return byte_level
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    pattern = {"qwen2": QWEN2_PATTERN, "llama3": LLAMA3_PATTERN}[name]
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def make_byte_level(backend: Backend, pre_tokenizer: PreTokenizerName) -> None:
    """Spell tokens in GPT-2's byte characters, cut as the named family does."""
    backend.pre_tokenizer = named_pre_tokenizer(pre_tokenizer)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)


def byte_level_backend(
    vocab: dict[str, int],
    merges: Sequence[tuple[str, str]],
    pre_tokenizer: PreTokenizerName,
    special_tokens: Mapping[str, int],
    added_tokens: Mapping[str, int],
) -> Backend:
    """Byte-level BPE of a known family with added tokens at given ids; see `Tokenizer.from_parts`."""
    try:
        bpe = models.BPE(vocab=vocab, merges=list(merges), ignore_merges=pre_tokenizer == "llama3")
    except Exception as error:
        raise DataError("the tokenizer's merges do not fit its vocabulary", found=str(error)[:200]) from error
    backend = Backend(bpe)
    make_byte_level(backend, pre_tokenizer)
    for token, id in sorted({**special_tokens, **added_tokens}.items(), key=lambda item: item[1]):
        if token in special_tokens:
            backend.add_special_tokens([special_token(token)])
        else:
            backend.add_tokens([AddedToken(token, special=False, normalized=False)])
        if backend.token_to_id(token) != id:
            raise DataError(f"special token `{token}` cannot have id {id}", found=f"id {backend.token_to_id(token)}")
    return backend


def special_token(token: str) -> AddedToken:
    """A control token: found whole, never normalised."""
    return AddedToken(token, special=True, normalized=False)


def pre_tokenizer_name(spec: dict[str, Any] | None) -> PreTokenizerName | None:
    """The family whose cuts this `pre_tokenizer` entry of a tokenizer.json makes; None if it is none of ours."""
    names: dict[str | None, PreTokenizerName] = {
        QWEN2_PATTERN: "qwen2", GPT2_PATTERN: "gpt2", SMOLLM_PATTERN: "smollm", LLAMA3_PATTERN: "llama3",
    }  # fmt: skip
    return names.get(split_pattern(spec))


def split_pattern(spec: dict[str, Any] | None) -> str | None:
    """The one regular expression that cuts as this `pre_tokenizer` entry of a tokenizer.json does; None if none does.

    None means only that tiktoken can't be used. What is answered here is checked on real text before it is trusted.
    """
    spec = spec or {}
    steps: list[dict[str, Any]] = spec["pretokenizers"] if spec.get("type") == "Sequence" else [spec]
    *first, last = steps
    if not last or last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if not first:
        return GPT2_PATTERN if last.get("use_regex", True) else None
    if len(first) > 1:
        return None
    kind = first[0].get("type")
    if kind == "Digits" and first[0].get("individual_digits") and last.get("use_regex", True):
        return SMOLLM_PATTERN
    if kind == "Split" and not last.get("use_regex", True):
        pattern = first[0].get("pattern", {}).get("Regex")
        isolated = first[0].get("behavior") == "Isolated" and not first[0].get("invert")
        return str(pattern) if pattern and isolated else None
    return None
