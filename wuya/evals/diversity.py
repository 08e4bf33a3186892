"""Signs of a policy that found one answer for everything: few distinct bigrams, one repeated answer, odd lengths."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Diversity:
    """Over all answers of one model."""

    distinct_1: float
    distinct_2: float
    """Distinct bigrams of words divided by all bigrams (Li et al. 2016)."""
    most_common_share: float
    """Share of prompts that got the most frequent answer."""
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
    return Diversity(
        distinct_1=distinct_n(tokenised, 1),
        distinct_2=distinct_n(tokenised, 2),
        most_common_share=count / len(texts),
        most_common=answer,
        median_words=float(median(lengths)),
        mean_words=sum(lengths) / len(lengths),
    )


def distinct_n(tokenised: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams; 0 when no answer is n words long."""
    grams = [tuple(words[i : i + n]) for words in tokenised for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
