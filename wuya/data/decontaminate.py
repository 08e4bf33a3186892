"""Keep evaluation sets out of the training text (GPT-3, arXiv:2005.14165, appendix C).

A *collision* is a run of 13 words of a training document that also occurs in an evaluation set. Around each one 200
characters on either side are cut out with it; what is left are fragments, those under 200 characters are dropped, and a
document that falls into more than 10 pieces is dropped whole. A 13-gram found in more than 10 training documents is a
common phrase and ignored.

(The paper says "a 200 character window around"; we read it, as EleutherAI's clean-up script does, as 200 characters on
each side.) Evaluation examples shorter than 13 words can never collide; they are counted, so that nobody believes they
were checked.

Dimension key: G 13-grams of a document, E 13-grams of the evaluation sets, H collisions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wuya.data.words import Ints, UInt64s, Words, ngram_hashes, words_of

NGRAM_WORDS = 13
WINDOW_CHARS = 200
MIN_FRAGMENT_CHARS = 200
MAX_PIECES = 10
MAX_DOCUMENTS_PER_NGRAM = 10


@dataclass(frozen=True, slots=True)
class EvaluationNgrams:
    """The sorted hashes of all word 13-grams of the evaluation sets."""

    hashes_E: UInt64s
    num_examples: int
    num_too_short: int
    """Examples with fewer words than an n-gram: they can't be found in the training text this way."""
    ngram_words: int = NGRAM_WORDS

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, ngram_words: int = NGRAM_WORDS) -> "EvaluationNgrams":
        """Collect the n-grams of every evaluation example."""
        parts: list[UInt64s] = []
        num_examples = num_too_short = 0
        for text in texts:
            grams = ngram_hashes(words_of(text).hashes_W, ngram_words)
            num_examples += 1
            num_too_short += not len(grams)
            parts.append(grams)
        hashes = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
        return cls(hashes, num_examples, num_too_short, ngram_words)

    def collisions(self, words: Words) -> tuple[Ints, Ints, Ints]:
        """Where a document repeats an evaluation set: [H] number of the n-gram in `hashes_E`, first, end character."""
        grams_G = words.ngrams(self.ngram_words)
        if not len(grams_G) or not len(self.hashes_E):
            empty = np.empty(0, np.int64)
            return empty, empty, empty
        places_G = np.minimum(np.searchsorted(self.hashes_E, grams_G), len(self.hashes_E) - 1)
        hits_H = np.flatnonzero(self.hashes_E[places_G] == grams_G)
        return places_G[hits_H], words.starts_W[hits_H], words.ends_W[hits_H + self.ngram_words - 1]


def rare_ngrams(documents_H: Ints, ngrams_H: Ints, num_ngrams: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """[E] True for the n-grams that count as contamination: those found in at most 10 training documents.

    Args:
        documents_H: document of each collision.
        ngrams_H: its n-gram.
        num_ngrams: E.
    """
    pairs = np.unique(np.stack([ngrams_H, documents_H]), axis=1)
    return np.bincount(pairs[0], minlength=num_ngrams) <= MAX_DOCUMENTS_PER_NGRAM


def clean(text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[str], str]:
    """Cut the collisions out of one document: the fragments that stay, and why none do (or the empty string).

    Args:
        spans: (first, end) character of each collision, in any order.
    """
    if not spans:
        return [text], ""
    pieces: list[str] = []
    start = 0
    for first, end in _windows(sorted(spans)):
        pieces.append(text[start : max(first, start)])
        start = min(end, len(text))
    pieces.append(text[start:])
    if len(pieces) > MAX_PIECES:
        return [], f"contaminated: splits into more than {MAX_PIECES} pieces"
    fragments = [piece for piece in pieces if len(piece) >= MIN_FRAGMENT_CHARS]
    return fragments, "" if fragments else f"contaminated: no fragment of {MIN_FRAGMENT_CHARS} characters is left"


def _windows(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts to cut: every collision with 200 characters either side, overlapping ones merged."""
    merged: list[tuple[int, int]] = []
    for first, end in spans:
        first, end = first - WINDOW_CHARS, end + WINDOW_CHARS
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged
