"""Normalised words of a text as 64-bit hashes: what quality, deduplication and decontamination compare texts by.

GPT-3 (arXiv:2005.14165, appendices A and C) compares lower-cased words without punctuation. A word here is a run of
letters and digits, and each ideograph is a word of its own (Chinese has no spaces, so "13 words" would otherwise be 13
sentences). Everything is vectorised over the characters of a text, about 10 MB/s a core; words never exist as Python
strings.

Dimension key: C characters, W words, G n-grams.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

UInt64s = NDArray[np.uint64]
Ints = NDArray[np.int64]

SEPARATOR, LETTER, IDEOGRAPH = 0, 1, 2
MAX_PIECE_CHARS = 1 << 20
"""Longer texts are worked on in pieces, so that one book of 100 MB needs no more memory than a page."""
_WORD_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_NGRAM_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one text, in order."""

    hashes_W: UInt64s
    starts_W: Ints
    """Index of the first character of each word in the text."""
    ends_W: Ints
    """Index after its last character."""
    _ngrams: dict[int, UInt64s] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.hashes_W)

    def ngrams(self, n: int) -> UInt64s:
        """`ngram_hashes` of these words, computed once: several stages ask for the same."""
        if n not in self._ngrams:
            self._ngrams[n] = ngram_hashes(self.hashes_W, n)
        return self._ngrams[n]


def words_of(text: str) -> Words:
    """Lower-cased words without punctuation: hashes and character spans."""
    pieces: list[Words] = []
    start = 0
    while start < len(text):
        end = _piece_end(text, start)
        pieces.append(_piece_words(text[start:end], start))
        start = end
    if len(pieces) == 1:
        return pieces[0]
    if not pieces:
        return Words(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
    return Words(
        np.concatenate([piece.hashes_W for piece in pieces]),
        np.concatenate([piece.starts_W for piece in pieces]),
        np.concatenate([piece.ends_W for piece in pieces]),
    )


def ngram_hashes(hashes_W: UInt64s, n: int) -> UInt64s:
    """Hash of every run of `n` words, W - n + 1 of them (none when there are fewer than `n` words)."""
    count = len(hashes_W) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total_G = hashes_W[:count].copy()
    for offset in range(1, n):
        total_G *= _NGRAM_MULTIPLIER
        total_G += hashes_W[offset : offset + count]
    return mix(total_G)


def mix(values: UInt64s) -> UInt64s:
    """Scramble 64-bit integers so that every input bit moves every output bit (splitmix64's finaliser, a bijection)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def uniforms(hashes_N: UInt64s, *, seed: int, purpose: str) -> NDArray[np.float64]:
    """One number in [0, 1) per document, from its hash, the seed and the purpose only.

    So a document's fate depends neither on its neighbours nor on how many workers share the work.
    """
    key = np.uint64(int.from_bytes(f"{purpose}".encode()[:8].ljust(8, b"\0"), "little"))
    salt = mix(np.array([np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)]) ^ key)
    mixed_N = mix(mix(hashes_N.astype(np.uint64) ^ salt) + _WORD_MULTIPLIER)
    return (mixed_N >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _piece_end(text: str, start: int) -> int:
    """End of the next piece: after a space where there is one, so that no word is cut."""
    end = start + MAX_PIECE_CHARS
    if end >= len(text):
        return len(text)
    space = text.rfind(" ", start, end)
    return space + 1 if space > start else end


def _piece_words(text: str, offset: int) -> Words:
    if text.isascii():
        codes_C = np.frombuffer(text.encode("ascii"), np.uint8)
    else:
        codes_C = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    lower_table, kind_table = _tables()
    if codes_C.dtype == np.uint8:
        lower_C, kind_C = lower_table[codes_C], kind_table[codes_C]
    else:
        basic_C = np.minimum(codes_C, 0xFFFF)
        lower_C, kind_C = lower_table[basic_C].astype(np.uint64), kind_table[basic_C]
        astral_C = codes_C > 0xFFFF
        if astral_C.any():
            ideograph_C = (codes_C >= 0x20000) & (codes_C < 0x40000)
            emoji_C = (codes_C >= 0x1F000) & (codes_C < 0x20000)
            kind_C = np.where(astral_C, np.where(ideograph_C, IDEOGRAPH, np.where(emoji_C, SEPARATOR, LETTER)), kind_C)
            lower_C = np.where(astral_C, codes_C, lower_C).astype(np.uint64)
    before_C = np.concatenate(([SEPARATOR], kind_C[:-1])).astype(np.uint8)
    first_C = (kind_C != SEPARATOR) & ((before_C == SEPARATOR) | (before_C == IDEOGRAPH) | (kind_C == IDEOGRAPH))
    starts_W = np.flatnonzero(first_C)
    if not len(starts_W):
        return Words(np.empty(0, np.uint64), starts_W, starts_W)
    # A word's hash is the sum of its characters times powers of an odd number by their place in the word (mod 2^64).
    word_of_C = np.cumsum(first_C) - 1
    place_C = np.arange(len(codes_C)) - starts_W[np.maximum(word_of_C, 0)]
    values_C = lower_C * _powers()[place_C & 255]
    values_C[kind_C == SEPARATOR] = 0
    sums_W = np.add.reduceat(values_C, starts_W)
    lengths_W = np.add.reduceat((kind_C != SEPARATOR).astype(np.int64), starts_W)
    return Words(mix(sums_W), starts_W + offset, starts_W + lengths_W + offset)


@cache
def _powers() -> UInt64s:
    return np.array([pow(int(_WORD_MULTIPLIER), place, 1 << 64) for place in range(256)], np.uint64)


@cache
def _tables() -> tuple[UInt64s, NDArray[np.uint8]]:
    """For each character of the basic plane: its lower case and its kind."""
    lower, kind = np.arange(0x10000, dtype=np.uint64), np.zeros(0x10000, np.uint8)
    for code in range(0x10000):
        character = chr(code)
        if character.isalnum():
            kind[code] = IDEOGRAPH if _is_ideograph(code) else LETTER
            lowered = character.lower()
            lower[code] = ord(lowered) if len(lowered) == 1 else code
    return lower, kind


def _is_ideograph(code: int) -> bool:
    """Chinese characters and Japanese syllables, which are written without spaces."""
    return 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x3040 <= code <= 0x30FF
