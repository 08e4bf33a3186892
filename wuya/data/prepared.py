"""A corpus on its way through preparation: surviving texts and their numbers on disk, and the work on batches of them.

The functions at the end run in worker processes; they see a batch and a read-only state, and nothing else.

Dimension key: M documents of a batch, N documents of the corpus, K MinHash functions, B bands, H collisions.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wuya.data.decontaminate import EvaluationNgrams, clean
from wuya.data.dedup import Bools, MinHash, UInt32s, document_hash
from wuya.data.ledger import excerpt
from wuya.data.quality import QualityClassifier, QualityRules, rejection
from wuya.data.spool import Column, TextSpool
from wuya.data.words import Ints, UInt64s, words_of
from wuya.tokenizer.bpe import Tokenizer

BATCH_CHARS = 1 << 19
BATCH_DOCUMENTS = 1024


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    """What a worker needs to look at documents for the first time."""

    rules: QualityRules
    minhash: MinHash | None
    """None: no fuzzy de-duplication, so no signatures."""
    evaluation: EvaluationNgrams | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What one pass over a batch finds out."""

    reasons: list[str]
    """For each of the M documents why it is dropped, or the empty string."""
    hashes_M: UInt64s
    num_words_M: NDArray[np.int32]
    signatures_MK: UInt32s
    """Rows of dropped documents are zero, as in `bands_MB`."""
    bands_MB: UInt64s
    collisions: Ints
    """[H, 4] document of the batch, number of the evaluation n-gram, first and end character."""


def analyse(settings: AnalysisSettings, texts: Sequence[str]) -> Analysis:
    """Filter, hash, sign and check a batch of texts against the evaluation sets."""
    size = len(texts)
    reasons: list[str] = []
    hashes_M, num_words_M = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    minhash = settings.minhash
    signatures_MK = np.zeros((size, minhash.num_hashes if minhash else 0), np.uint32)
    collisions: list[Ints] = []
    for place, text in enumerate(texts):
        words = words_of(text)
        reasons.append(rejection(text, words, settings.rules))
        if reasons[-1]:
            continue
        hashes_M[place], num_words_M[place] = document_hash(text), len(words)
        if minhash:
            signatures_MK[place] = minhash.signature_of(words)
        if settings.evaluation:
            ngrams_H, firsts_H, ends_H = settings.evaluation.collisions(words)
            if len(ngrams_H):
                collisions.append(np.stack([np.full(len(ngrams_H), place), ngrams_H, firsts_H, ends_H], axis=1))
    bands_MB = minhash.bands(signatures_MK) if minhash else np.zeros((size, 0), np.uint64)
    found = np.concatenate(collisions) if collisions else np.empty((0, 4), np.int64)
    return Analysis(reasons, hashes_M, num_words_M, signatures_MK, bands_MB, found)


def score(classifier: QualityClassifier, texts: Sequence[str]) -> NDArray[np.float64]:
    """[M] how good each text looks, 0 to 1."""
    return np.array([classifier.score(words_of(text).hashes_W) for text in texts], np.float64)


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A batch as tokens."""

    ids: NDArray[np.uint32]
    """All fragments end to end, the end-of-document token after each."""
    lengths: Ints
    """Tokens of each fragment."""
    owners: Ints
    """Document of the batch each fragment comes from."""
    num_bytes: Ints
    """UTF-8 bytes of each fragment."""
    tails: Bools
    """True for the ends of documents that are held out for validation."""
    reasons: list[str]
    """For each document why nothing of it is left, or the empty string."""


@dataclass(frozen=True, slots=True)
class ToTokenize:
    """A document that is about to be encoded."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    """(first, end) characters of collisions with evaluation sets, to be cut out."""
    tail_fraction: float = 0.0
    """Share of the text, its end, that is held out for validation."""


def tokenize(tokenizer: Tokenizer, batch: Sequence[ToTokenize]) -> Tokenized:
    """Cut the collisions out of each text, set held-out ends apart and encode what is left."""
    fragments: list[str] = []
    owners: list[int] = []
    tails: list[bool] = []
    reasons: list[str] = []
    for place, document in enumerate(batch):
        pieces, reason = clean(document.text, document.spans)
        reasons.append(reason)
        for piece in pieces:
            cut = _line_start(piece, len(piece) - int(len(piece) * document.tail_fraction))
            for part, is_tail in ((piece[:cut], False), (piece[cut:], True)):
                if part:
                    fragments.append(part)
                    owners.append(place)
                    tails.append(is_tail)
    encoded = tokenizer.encode_batch(fragments)
    lengths = np.array([len(ids) + 1 for ids in encoded], np.int64)
    ids = np.full(int(lengths.sum()), tokenizer.document_end_id, np.uint32)
    start = 0
    for fragment_ids, length in zip(encoded, lengths.tolist(), strict=True):
        ids[start : start + length - 1] = fragment_ids
        start += length
    num_bytes = np.array([len(fragment.encode()) for fragment in fragments], np.int64)
    return Tokenized(ids, lengths, np.array(owners, np.int64), num_bytes, np.array(tails, bool), reasons)


def _line_start(text: str, place: int) -> int:
    """The first start of a line at or after a place; the place itself where the line is long."""
    end = text.find("\n", place, place + 1000)
    return end + 1 if end >= 0 else place


class SpooledCorpus:
    """The documents that passed the filters, in the order of the sources, with what `analyse` found."""

    def __init__(self, folder: Path, minhash: MinHash | None) -> None:
        self.texts, self.ids = TextSpool(folder / "texts"), TextSpool(folder / "ids")
        self.sources_N = array("B")
        self.hashes = Column(folder / "hashes", np.uint64)
        self.num_words = Column(folder / "num_words", np.int32)
        self.signatures = Column(folder / "signatures", np.uint32, minhash.num_hashes) if minhash else None
        self.bands = [Column(folder / f"band_{i:02d}", np.uint64) for i in range(minhash.num_bands if minhash else 0)]
        self.collisions = Column(folder / "collisions", np.int64, 4)
        """[H, 4] document, n-gram, first and end character; ordered by document."""

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, texts: Sequence[str], ids: Sequence[str], sources: Sequence[int], analysis: Analysis) -> None:
        """Append the documents of a batch that were not dropped."""
        kept_M = np.array([not reason for reason in analysis.reasons], bool)
        numbers_M = np.cumsum(kept_M) - 1 + len(self)
        if len(analysis.collisions):
            rows = analysis.collisions.copy()
            rows[:, 0] = numbers_M[rows[:, 0]]
            self.collisions.append(rows)
        for place in np.flatnonzero(kept_M).tolist():
            self.texts.append(texts[place])
            self.ids.append(ids[place])
            self.sources_N.append(sources[place])
        self.hashes.append(analysis.hashes_M[kept_M])
        self.num_words.append(analysis.num_words_M[kept_M])
        if self.signatures:
            self.signatures.append(analysis.signatures_MK[kept_M])
        for band, column in enumerate(self.bands):
            column.append(analysis.bands_MB[kept_M, band])

    def columns(self) -> list[Column | TextSpool]:
        """All files."""
        numbers: list[Column | TextSpool] = [self.texts, self.ids, self.hashes, self.num_words, self.collisions]
        return numbers + list(self.bands) + ([self.signatures] if self.signatures else [])

    def flush(self) -> None:
        """Make everything appended readable."""
        for column in self.columns():
            column.flush()

    def close(self) -> None:
        """Delete the files."""
        for column in self.columns():
            column.close()

    def example(self, index: int, same_as: int | None = None) -> dict[str, object]:
        """A dropped document as the manifest shows it, beside the one it duplicates."""
        example: dict[str, object] = {"id": self.ids[index], "text": excerpt(self.texts[index])}
        return example if same_as is None else {**example, "same_as": self.example(same_as)}

    def batches(self, indices: Ints) -> Iterator[tuple[Ints, list[str]]]:
        """Read some documents in batches of bounded size: (their indices, their texts)."""
        chosen: list[int] = []
        texts: list[str] = []
        chars = 0
        for index in map(int, indices):
            text = self.texts[index]
            if chosen and (chars + len(text) > BATCH_CHARS or len(chosen) == BATCH_DOCUMENTS):
                yield np.array(chosen, np.int64), texts
                chosen, texts, chars = [], [], 0
            chosen.append(index)
            texts.append(text)
            chars += len(text)
        if chosen:
            yield np.array(chosen, np.int64), texts
