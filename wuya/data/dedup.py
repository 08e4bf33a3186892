"""Duplicates: exact by hash, near ones by MinHash and locality-sensitive hashing (GPT-3, appendix A).

A document is the set of its word 5-grams (shingles). K hash functions each remember the smallest value over that set;
two documents agree in one place with probability equal to their Jaccard similarity, so the share of agreeing places
estimates it with error sqrt(J (1 - J) / K). Bands of places find candidates without comparing all pairs: a band of r
places is equal with probability J^r, any of b bands with 1 - (1 - J^r)^b. Candidates are then checked by their whole
signatures.

Memory: documents are never held. Signatures and bands lie on disk (bands column by column); one column of 64-bit
numbers is sorted at a time, so the peak is some 40 bytes a document. The first of a cluster stays, whatever the number
of workers.

GPT-3 used 10 hash functions within a dataset; we use 128 and look across sources too, the first-named source wins
(as WebText was taken out of Common Crawl).

Dimension key: N documents, W words, G shingles, K hash functions, B bands.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from wuya.data.words import Ints, UInt64s, Words, mix

UInt32s = NDArray[np.uint32]
Bools = NDArray[np.bool_]
CHUNK_SHINGLES = 2048
CHUNK_PAIRS = 1 << 15


def document_hash(text: str) -> int:
    """64 bits of BLAKE2b over the text without surrounding white space: equal texts, equal numbers.

    Two different texts of a million collide with probability 3e-8.
    """
    return int.from_bytes(
        hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def first_occurrences(hashes_N: UInt64s) -> Ints:
    """Index of the first document with the same hash; a document's own index where it is the first."""
    order_N = np.argsort(hashes_N, kind="stable")
    sorted_N = hashes_N[order_N]
    new_N = np.concatenate(([True], sorted_N[1:] != sorted_N[:-1])) if len(sorted_N) else np.empty(0, bool)
    firsts = order_N[new_N]
    leaders_N = np.empty(len(hashes_N), np.int64)
    leaders_N[order_N] = firsts[np.cumsum(new_N) - 1] if len(sorted_N) else firsts
    return leaders_N


@dataclass(frozen=True, slots=True)
class MinHash:
    """How documents are turned into signatures and bands."""

    num_hashes: int = 128
    num_bands: int = 32
    shingle_words: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        assert self.num_hashes % self.num_bands == 0, "bands must share the hashes evenly"

    def signature_of(self, words: Words) -> UInt32s:
        """[K] signature of a text; one shorter than a shingle is one shingle."""
        return self.signature(words.ngrams(min(self.shingle_words, max(len(words), 1))))

    def signature(self, shingles_G: UInt64s) -> UInt32s:
        """[K] smallest hash of the shingles under each of the K functions; all ones where there are none."""
        smallest_K = np.full(self.num_hashes, 0xFFFF_FFFF, np.uint32)
        multipliers_K, offsets_K = _functions(self.num_hashes, self.seed)
        keys_G = (shingles_G >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(keys_G), CHUNK_SHINGLES):
            values_KG = multipliers_K[:, None] * keys_G[None, start : start + CHUNK_SHINGLES]  # mod 2^32, a bijection
            values_KG += offsets_K[:, None]
            np.minimum(smallest_K, values_KG.min(axis=1), out=smallest_K)
        return smallest_K

    def bands(self, signatures_NK: UInt32s) -> UInt64s:
        """[N, B] one 64-bit hash of each band of a signature."""
        rows = self.num_hashes // self.num_bands
        parts_NBR = signatures_NK.reshape(len(signatures_NK), self.num_bands, rows).astype(np.uint64)
        total_NB = np.zeros(parts_NBR.shape[:2], np.uint64)
        for row in range(rows):
            total_NB = mix(total_NB + parts_NBR[:, :, row] + np.uint64(0x9E3779B97F4A7C15))
        return total_NB


def estimated_jaccard(left_NK: UInt32s, right_NK: UInt32s) -> NDArray[np.float64]:
    """[N] share of places in which two rows of signatures agree."""
    return np.asarray((left_NK == right_NK).mean(axis=-1), np.float64)


def near_duplicates(
    num_bands: int,
    read_band: Callable[[int], UInt64s],
    read_signatures: Callable[[Ints], UInt32s],
    candidates_N: Bools,
    *,
    threshold: float,
) -> Ints:
    """Group near-duplicates into clusters: [N] index of the first document of each document's cluster.

    Args:
        num_bands: how many bands there are.
        read_band: band number -> [N] hashes of this band, one a document.
        read_signatures: sorted or unsorted document indices [M] -> their signatures [M, K].
        candidates_N: documents that take part (not yet dropped, with at least one word).
        threshold: smallest estimated Jaccard similarity of a near-duplicate.

    In each bucket a document is compared with the one before it and with the first; clusters are connected components.
    """
    leaders_N = np.arange(len(candidates_N), dtype=np.int64)
    members = np.flatnonzero(candidates_N)
    for band in range(num_bands):
        hashes = read_band(band)[members]
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        same = np.concatenate(([False], hashes[1:] == hashes[:-1])) if len(hashes) else np.empty(0, bool)
        if not same.any():
            continue
        bucket_start = np.maximum.accumulate(np.where(same, 0, np.arange(len(hashes))))
        later = np.flatnonzero(same)
        right = members[order[later]]
        for left in (members[order[later - 1]], members[order[bucket_start[later]]]):
            _join_similar(leaders_N, left, right, read_signatures, threshold)
    return _flattened(leaders_N)


@cache
def _functions(num_hashes: int, seed: int) -> tuple[UInt32s, UInt32s]:
    """Multipliers and offsets of the K functions x -> a x + b mod 2^32."""
    rng = np.random.default_rng(seed)
    odd_K = rng.integers(0, 1 << 32, num_hashes, dtype=np.uint32) | np.uint32(1)
    return odd_K, rng.integers(0, 1 << 32, num_hashes, dtype=np.uint32)


def _join_similar(
    leaders_N: Ints, left: Ints, right: Ints, read_signatures: Callable[[Ints], UInt32s], threshold: float
) -> None:
    """Unite the clusters of those pairs whose signatures are similar enough."""
    for start in range(0, len(left), CHUNK_PAIRS):
        left_M, right_M = left[start : start + CHUNK_PAIRS], right[start : start + CHUNK_PAIRS]
        apart_M = leaders_N[left_M] != leaders_N[right_M]  # already in one cluster: nothing to find out
        left_M, right_M = left_M[apart_M], right_M[apart_M]
        if not len(left_M):
            continue
        similar_M = estimated_jaccard(read_signatures(left_M), read_signatures(right_M)) >= threshold
        for i, j in zip(left_M[similar_M].tolist(), right_M[similar_M].tolist(), strict=True):
            first, second = _root(leaders_N, i), _root(leaders_N, j)
            leaders_N[max(first, second)] = min(first, second)
            leaders_N[i] = leaders_N[j] = min(first, second)


def _root(leaders_N: Ints, index: int) -> int:
    while (above := int(leaders_N[index])) != index:
        leaders_N[index] = leaders_N[above]
        index = int(leaders_N[index])
    return index


def _flattened(leaders_N: Ints) -> Ints:
    """Every document points straight at the first of its cluster."""
    while True:
        higher_N = leaders_N[leaders_N]
        if np.array_equal(higher_N, leaders_N):
            return leaders_N
        leaders_N = higher_N
