"""Signs of a policy that found one answer for everything: few distinct bigrams, one repeated answer, odd lengths."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from wuya.evals.bootstrap import Interval, jackknife_interval, order_interval, share_interval


@dataclass(frozen=True, slots=True)
class Diversity:
    """Over all answers of one model."""

    distinct_1: float
    distinct_2: float
    """Distinct bigrams of words divided by all bigrams (Li et al. 2016)."""
    most_common_share: float
    """Share of prompts that got the most frequent answer."""
    most_common_low: float
    most_common_high: float
    """Its 95 % interval (Wilson)."""
    most_common: str
    median_words: float
    mean_words: float

    def to_dict(self) -> dict[str, float | str]:
        """For JSON."""
        return asdict(self)


def diversity(texts: Sequence[str]) -> Diversity:
    """Raises: ValueError when there are no texts."""
    if not texts:
        raise ValueError("no answers to measure")
    tokenised = [text.lower().split() for text in texts]
    answer, count = Counter(" ".join(words) for words in tokenised).most_common(1)[0]
    lengths = [len(words) for words in tokenised]
    share = share_interval(count, len(texts))
    return Diversity(
        distinct_1=distinct_n(tokenised, 1),
        distinct_2=distinct_n(tokenised, 2),
        most_common_share=share.mean,
        most_common_low=share.low,
        most_common_high=share.high,
        most_common=answer,
        median_words=float(median(lengths)),
        mean_words=sum(lengths) / len(lengths),
    )


@dataclass(frozen=True, slots=True)
class VarietyBeside:
    """A model's variety as a share of another's on the same prompts: 1 is the same, 95 % intervals over prompts."""

    distinct_2: Interval
    median_words: Interval

    def to_dict(self) -> dict[str, dict[str, float | int]]:
        """For JSON."""
        return asdict(self)


def variety_beside(texts: Sequence[str], others: Sequence[str], *, seed: int = 0) -> VarietyBeside:
    """Compare answers to the same prompts, in the same order."""
    pairs = [(text.lower().split(), other.lower().split()) for text, other in zip(texts, others, strict=True)]

    def distinct(rows: NDArray[np.int64]) -> float:
        own, other = (distinct_n([pairs[row][side] for row in rows], 2) for side in (0, 1))
        return own / other if other else float("nan")

    lengths_P2 = np.array([(len(own), len(other)) for own, other in pairs])

    def length(rows: NDArray[np.int64]) -> float:
        own, other = np.median(lengths_P2[rows], axis=0)
        return float(own / max(other, 1))

    return VarietyBeside(
        distinct_2=jackknife_interval(distinct, len(pairs), seed=seed),
        median_words=order_interval(length, len(pairs), seed=seed),
    )


def distinct_n(tokenised: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams; 0 when no answer is n words long."""
    grams = [tuple(words[i : i + n]) for words in tokenised for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
