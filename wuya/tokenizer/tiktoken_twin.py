"""The fast path: a tiktoken encoder built from a tokenizer.json, used only after it was seen to give the same ids.

tiktoken is several times as fast as `tokenizers`. It merges any two neighbours whose joint bytes are a token, in the
order of token ids, where `tokenizers` merges the listed pairs in the listed order. For merges that come from BPE
training the two agree, and `proven_twin` checks it: every token of the vocabulary and a set of awkward texts must give
equal ids.
"""

import json
import random
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import tiktoken
from tokenizers import Tokenizer as Backend

from wuya.tokenizer.pre_tokenizers import split_pattern

LONG_WHITESPACE = re.compile(r"\s{4096}")
"""tiktoken's regex engine overflows its stack on about a million spaces; such texts take the slow path."""


def overflows_tiktoken(text: str) -> bool:
    """Whether a text has to take the slow path."""
    return len(text) >= 4096 and LONG_WHITESPACE.search(text) is not None


def byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, which is how tokenizer.json spells tokens: character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = byte_characters()


def token_to_bytes(token: str) -> bytes | None:
    """The bytes a byte-level token stands for; None when it is not spelled in byte characters (some specials)."""
    try:
        return bytes(BYTE_OF[character] for character in token)
    except KeyError:
        return None


def proven_twin(backend: Backend, control: Collection[str] = ()) -> tiktoken.Encoding | None:
    """A tiktoken encoder that gives the same ids as `backend` (specials as text); None when there is none.

    Args:
        control: added tokens that no text becomes, whatever their `special` flag.
    """
    twin = _build(json.loads(backend.to_str()), control)
    if twin is None:
        return None
    texts = [*probe_texts(), *_vocabulary_texts(backend)]
    for text, encoding in zip(texts, backend.encode_batch(texts, add_special_tokens=False), strict=True):
        if twin.encode_ordinary(text) != encoding.ids:
            return None
    return twin


def _build(spec: dict[str, Any], control: Collection[str]) -> tiktoken.Encoding | None:
    """The tiktoken encoder for byte-level BPE whose ids rise in the order of the merges; None for anything else."""
    model = spec["model"]
    pattern = split_pattern(spec.get("pre_tokenizer"))
    if pattern is None or model.get("type") != "BPE" or spec.get("normalizer") is not None or model.get("dropout"):
        return None
    if any(not token["special"] and token["content"] not in control for token in spec.get("added_tokens", ())):
        return None  # other added words are matched in plain text, which tiktoken can't do
    vocab: dict[str, int] = model["vocab"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    tokens = [left + right for left, right in merges]
    ids = [vocab.get(token, -1) for token in tokens]
    if not ids or any(before >= after for before, after in pairwise([-1, *ids])):
        return None  # tiktoken merges in the order of ids
    ranks: dict[bytes, int] = {}
    for token in (*BYTE_OF, *tokens):
        spelled = token_to_bytes(token)
        if spelled is None or token not in vocab:
            return None  # a byte is missing from the vocabulary, or a merge is not of bytes
        ranks[spelled] = vocab[token]
    return tiktoken.Encoding("wuya", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def _vocabulary_texts(backend: Backend) -> list[str]:
    """Every token that is text by itself, in vocabulary order, glued and spaced: exercises each merge."""
    spelled = (token_to_bytes(token) for token, _ in sorted(backend.get_vocab(False).items(), key=lambda item: item[1]))
    words = [token.decode("utf-8", "ignore") for token in spelled if token]
    chunks = [words[start : start + 512] for start in range(0, len(words), 512)]
    return [separator.join(chunk) for chunk in chunks for separator in ("\n", "")]


def probe_texts() -> Sequence[str]:
    """Texts on which encoders are known to differ: white space, contractions, digits, scripts, bytes, new letters."""
    rng = random.Random(0)
    random_bytes = [bytes(rng.randrange(256) for _ in range(200)).decode("latin-1") for _ in range(8)]
    spaces = "".join(rng.choice(" \t\n\r\v\f\x85\xa0\u2003\u3000ab1.'") for _ in range(600))
    letters = "".join(
        chr(rng.choice((rng.randrange(0x20, 0x3000), rng.randrange(0xE000, 0x30000)))) for _ in range(1500)
    )
    return (
        "",
        " ",
        "Hello world! It's 2024, isn't it? I'LL've we'D'M they'Re 'S \u2019s '\u017f x'\u017fy 'tis",
        "  two   spaces\n\n\nlines\r\n\r\n\ttabs \n  indented\n    def f(x):\n\treturn x**2  # 3.14e-10\n ",
        "0 1 22 333 4444 1234567890 12,345.67 x1y22z \u0661\u0662\u0663 \u00bd\u00b2 \u2167 a 1  2   3\n4",
        "\u65e5\u672c\u8a9e\u3068\u4e2d\u6587\uff0c\u6807\u70b9\u3002 \ud55c\uad6d\uc5b4 "
        "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u05e2\u05d1\u05e8\u05d9\u05ea "
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "cafe\u0301 caf\u00e9 \u212b \ufb01 \u1e9e \u0130i\u0307 "
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd "
        "\ufe0f\u200b\u2060\ufeff",
        # letters and digits of Unicode 15.0, 15.1, 16.0 and 17.0: libraries of different years disagree on them
        "a\U00011f04b \U0002ebf0 \U00010d4a\U00010d40 \U0001e5d0\U0001e5f1 \U00010940 \U00011db0 "
        "\U000323b0 x\U0001ccf0y",
        "<|im_start|>user\nhi<|im_end|><|endoftext|><s></s>[INST] <|im_start",
        "\x00\x01\x7f\x80\xff\ufffd" + "".join(map(chr, range(256))),
        "a" * 300 + " " * 300 + "\n" * 300 + "!" * 300 + "ab" * 200 + "=-" * 100,
        spaces,
        letters,
        *random_bytes,
    )
