"""The other trainer of merges: `rustbpe` (nanochat's), several times as fast as `tokenizers`, an optional dependency.

Both learn the most frequent pair first. Of pairs that are equally frequent `tokenizers` takes the one whose tokens come
first in GPT-2's spelling of bytes, rustbpe the one whose tokens come first as bytes; so the two tokenizers differ in
some merges and ids, and compress the same. Hence it is a choice and not automatic: a tokenizer must not depend on what
happens to be installed.
"""

from collections.abc import Iterable
from itertools import pairwise

from wuya.errors import ConfigError
from wuya.tokenizer.pre_tokenizers import QWEN2_PATTERN

SPARE = 64
"""Learned beyond what was asked for: two merges may give the same bytes, which are one token."""


def learned_tokens(texts: Iterable[str], num_tokens: int) -> list[bytes]:
    """The 256 bytes, then `num_tokens` - 256 merges (fewer if no pair is left) in the order they were learned."""
    try:
        import rustbpe
    except ImportError as error:
        raise ConfigError("the trainer rustbpe is not installed", hint="pip install 'wuya[rustbpe]'") from error
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), num_tokens + SPARE, pattern=QWEN2_PATTERN)
    return list(dict.fromkeys(token for token, _ in trainer.get_mergeable_ranks()))[:num_tokens]


def merges_of(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The two parts of every token behind the 256 bytes: what the merges before it make of its bytes."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for rank, token in enumerate(tokens[256:], 256):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            found = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            place = found.index(min(found))
            assert found[place] < rank, f"no merge leads to {token!r}"
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        merges.append((parts[0], parts[1]))
    return merges
