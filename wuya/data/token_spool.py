"""Encoded documents between tokenizing and mixing, on disk; then written in training order as shards."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wuya.data.dedup import Bools
from wuya.data.mixture import SourceShare, document_order
from wuya.data.prepared import Tokenized
from wuya.data.spool import Column
from wuya.data.words import Ints


class TokenSpool:
    """Tokens of all documents end to end; a document is (source, held out or not, offset, length, bytes)."""

    def __init__(self, folder: Path, *, vocab_size: int) -> None:
        self._tokens = Column(folder / "tokens", np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._lengths, self._num_bytes = array("q"), array("q")
        self._sources, self._held_out = array("B"), array("B")

    def add(self, batch: Tokenized, sources: NDArray[np.uint8], held_out: Bools) -> None:
        """Append the fragments of a batch."""
        self._tokens.append(batch.ids)
        self._lengths.frombytes(batch.lengths.astype(np.int64).tobytes())
        self._num_bytes.frombytes(batch.num_bytes.astype(np.int64).tobytes())
        self._sources.frombytes(sources.astype(np.uint8).tobytes())
        self._held_out.frombytes(held_out.astype(np.uint8).tobytes())

    def flush(self) -> None:
        """Make everything appended readable."""
        self._tokens.flush()

    @property
    def num_held_out(self) -> int:
        """Documents held out for validation."""
        return sum(self._held_out)

    def close(self) -> None:
        """Delete the file."""
        self._tokens.close()

    def totals(self, source: int, *, held_out: bool) -> dict[str, int]:
        """Documents, tokens and bytes of one source in training or validation."""
        chosen = self._chosen(source, held_out=held_out)
        return {
            "documents": len(chosen),
            "tokens": int(self.lengths_N[chosen].sum()),
            "bytes": int(np.frombuffer(self._num_bytes, np.int64)[chosen].sum()),
        }

    def training(self, shares: Sequence[SourceShare], *, seed: int) -> Iterator[NDArray[np.integer]]:
        """Token arrays of the training documents in mixed order."""
        documents = [self._chosen(source, held_out=False) for source in range(len(shares))]
        sources_N, places_N = document_order(
            [self.lengths_N[chosen] for chosen in documents], [share.tokens for share in shares], seed=seed
        )
        for start in range(0, len(sources_N), 1 << 16):  # a list of all of them would take 72 bytes a document
            rows = slice(start, start + (1 << 16))
            for source, place in zip(sources_N[rows].tolist(), places_N[rows].tolist(), strict=True):
                yield self._document(int(documents[source][place]))

    def validation(self) -> Iterator[NDArray[np.integer]]:
        """Token arrays of the held-out documents, each once, in the order they were read."""
        for index in np.flatnonzero(np.frombuffer(self._held_out, np.uint8)).tolist():
            yield self._document(index)

    @property
    def lengths_N(self) -> Ints:
        """[N] tokens of each document."""
        return np.frombuffer(self._lengths, np.int64)

    def _chosen(self, source: int, *, held_out: bool) -> Ints:
        sources_N, held_out_N = np.frombuffer(self._sources, np.uint8), np.frombuffer(self._held_out, np.uint8)
        return np.flatnonzero((sources_N == source) & (held_out_N == held_out))

    def _document(self, index: int) -> NDArray[np.integer]:
        return self._tokens.slice(int(self._offsets()[index]), int(self._lengths[index]))

    def _offsets(self) -> Ints:
        if len(getattr(self, "_offsets_N", ())) != len(self._lengths) + 1:
            self._offsets_N = np.concatenate(([0], np.cumsum(self.lengths_N)))
        return self._offsets_N
