"""How much of each source a training run sees, and in which order (GPT-3, arXiv:2005.14165, table 2.2).

A source has a *share* of the training tokens that need not follow its size: Wikipedia was 0.6 % of GPT-3's text but 3 %
of its batches, so it was seen 3.4 times, and Common Crawl less than half a time. Within an epoch nothing is drawn
twice.

Dimension key: S sources, D documents of a source, N documents in training order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wuya.data.words import Ints
from wuya.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SourceShare:
    """What one source contributes to the training tokens."""

    name: str
    available_tokens: int
    """Tokens of the source after preparation, each counted once."""
    share: float
    """Its part of all training tokens, 0 to 1."""
    tokens: int
    """Tokens drawn from it."""

    @property
    def epochs(self) -> float:
        """How often each of its tokens is seen on average."""
        return self.tokens / self.available_tokens if self.available_tokens else 0.0


def natural_shares(available: Mapping[str, int]) -> list[SourceShare]:
    """Every document once: shares follow size."""
    total = sum(available.values())
    return [SourceShare(name, tokens, tokens / total if total else 0.0, tokens) for name, tokens in available.items()]


def weighted_shares(
    available: Mapping[str, int],
    weights: Mapping[str, float],
    *,
    total_tokens: int,
    max_epochs: Mapping[str, float | None] | None = None,
) -> list[SourceShare]:
    """Shares in proportion to the weights, whatever the sizes.

    Args:
        available: tokens each source holds.
        weights: relative share of each source; they need not sum to 1 (GPT-3's printed ones sum to 1.01).
        total_tokens: length of the training run.
        max_epochs: at most so many passes over a source; what it can't fill goes to the others in proportion. When
            every source is at its limit the run is shorter than asked.
    """
    limits = {name: _limit(tokens, (max_epochs or {}).get(name)) for name, tokens in available.items()}
    open_names = [name for name in available if weights[name] > 0 and available[name] > 0]
    if not open_names:
        raise ConfigError("no source has both a positive weight and tokens", found=", ".join(available))
    tokens = dict.fromkeys(available, 0.0)
    left = float(total_tokens)
    while open_names and left > 0.5:
        weight_sum = sum(weights[name] for name in open_names)
        wanted = {name: left * weights[name] / weight_sum for name in open_names}
        full = [name for name in open_names if tokens[name] + wanted[name] >= limits[name]]
        for name in full or open_names:
            drawn = limits[name] - tokens[name] if full else wanted[name]
            tokens[name] += drawn
            left -= drawn
        open_names = [name for name in open_names if name not in full] if full else []
    drawn_total = sum(tokens.values())
    return [SourceShare(name, available[name], tokens[name] / drawn_total, round(tokens[name])) for name in available]


def document_order(document_tokens: Sequence[Ints], targets: Sequence[int], *, seed: int) -> tuple[Ints, Ints]:
    """The training order: ([N] source, [N] document) such that each source contributes its tokens, evenly mixed.

    Args:
        document_tokens: for each source, [D] tokens of its documents.
        targets: for each source, the tokens to draw; whole documents are drawn until the target is reached.
        seed: of the permutations. Each epoch of a source is its own permutation, so nothing repeats within an epoch.
    """
    drawn = [
        _draws(tokens_D, target, seed=seed, source=i)
        for i, (tokens_D, target) in enumerate(zip(document_tokens, targets, strict=True))
    ]
    sources_N = interleaved([len(documents) for documents in drawn], seed=seed)
    documents_N = np.empty(len(sources_N), np.int64)
    for source, documents in enumerate(drawn):
        documents_N[sources_N == source] = documents
    return sources_N, documents_N


def interleaved(counts: Sequence[int], *, seed: int) -> Ints:
    """A random order of the sources in which source i occurs exactly counts[i] times."""
    order_N = np.repeat(np.arange(len(counts), dtype=np.uint8), counts)
    np.random.default_rng((seed, 0x6D6978)).shuffle(order_N)
    return order_N.astype(np.int64)


def _draws(tokens_D: Ints, target: int, *, seed: int, source: int) -> Ints:
    """Documents of one source in training order, epoch after epoch, until the target is reached."""
    parts: list[NDArray[np.int64]] = []
    left, epoch = target, 0
    total = int(tokens_D.sum())
    while left > 0 and total > 0:
        order = np.random.default_rng((seed, source, epoch)).permutation(len(tokens_D))
        if left < total:
            reached = np.cumsum(tokens_D[order])
            order = order[: int(np.searchsorted(reached, left)) + 1]
        parts.append(order)
        left -= int(tokens_D[order].sum())
        epoch += 1
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _limit(tokens: int, max_epochs: float | None) -> float:
    return float("inf") if max_epochs is None else tokens * max_epochs
