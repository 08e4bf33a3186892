"""Which documents are worth training on: heuristic rules with named reasons, and a classifier with GPT-3's Pareto rule.

The rules are those of Gopher (arXiv:2112.11446, appendix A1.1) and C4 (arXiv:1910.10683, section 2.2) that need no word
list, with milder limits, since chats are short. The classifier is GPT-3's (arXiv:2005.14165, appendix A): logistic
regression on hashed words, good text against raw text, and a document with score s in [0, 1] stays when
`np.random.pareto(9) > 1 - s`, that is with probability (2 - s)^-9: nearly always at s = 1, and once in 500 at s = 0, so
that odd but real text keeps a chance.

Dimension key: N documents, W words, F features.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wuya.data.words import UInt64s, Words, uniforms

Floats = NDArray[np.float64]
PARETO_ALPHA = 9.0
NUM_FEATURES = 1 << 18
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufffd]")


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRules:
    """Limits of the heuristic filters; a document outside any of them is dropped and the reason counted."""

    enabled: bool = True
    """False keeps every document that has text at all."""
    min_words: int = 3
    """Shortest document. Gopher: 50; ours is for chats too. An ideograph counts as a word."""
    max_words: int = 10_000_000
    """Longest document. Gopher: 100,000; ours keeps whole books."""
    min_mean_word_chars: float = 1.0
    """Lower limit of the mean word length. Gopher: 3 (English); Chinese words here have one character."""
    max_mean_word_chars: float = 15.0
    """Upper limit of the mean word length: catches base64 and URLs. Gopher: 10."""
    max_symbol_share: float = 0.5
    """Share of characters that are neither letters, digits nor white space (emoji, markup, tables)."""
    max_control_share: float = 0.01
    """Share of control and replacement characters: binary data or text decoded with the wrong charset."""
    max_repeated_line_share: float = 0.5
    """Share of the characters in lines that occurred before. Gopher: 0.2; songs and dialogues repeat."""
    max_repeated_ngram_share: float = 0.6
    """Share of the word 5-grams that occurred before in the document (only from 50 words on). Gopher: 0.15."""
    max_bullet_line_share: float = 0.9
    """Share of lines that start with a bullet (Gopher: 0.9), from five lines on."""
    max_ellipsis_line_share: float = 0.3
    """Share of lines that end with an ellipsis (Gopher: 0.3), from five lines on."""


def rejection(text: str, words: Words, rules: QualityRules) -> str:
    """The first rule a document breaks, by name; the empty string when it may stay."""
    if not text.strip():
        return "empty"
    if not text.isascii() and _has_surrogates(text):
        return "invalid_unicode"
    if not rules.enabled:
        return ""
    num_words = len(words)
    if num_words < rules.min_words:
        return "too_few_words"
    if num_words > rules.max_words:
        return "too_many_words"
    letters = int((words.ends_W - words.starts_W).sum())
    if not rules.min_mean_word_chars <= letters / num_words <= rules.max_mean_word_chars:
        return "mean_word_length"
    spaces = sum(map(text.count, " \n\t\r"))
    if len(text) - letters - spaces > rules.max_symbol_share * len(text):
        return "symbols"
    if _CONTROL.search(text) and len(_CONTROL.findall(text)) > rules.max_control_share * len(text):
        return "control_characters"
    if "lorem ipsum" in text.lower():
        return "lorem_ipsum"
    return _line_rejection(text, rules) or _repetition_rejection(words, rules)


def pareto_keep(scores_N: Floats, hashes_N: UInt64s, *, seed: int, alpha: float = PARETO_ALPHA) -> NDArray[np.bool_]:
    """[N] GPT-3's rule `np.random.pareto(alpha) > 1 - score`, drawn for each document from its own hash.

    NumPy's pareto is the Lomax distribution, P(X > x) = (1 + x)^-alpha; here by inversion of a uniform number.
    """
    uniform_N = uniforms(hashes_N, seed=seed, purpose="pareto")
    lomax_N = (1.0 - uniform_N) ** (-1.0 / alpha) - 1.0
    return np.asarray(lomax_N > 1.0 - scores_N)


@dataclass(frozen=True, slots=True)
class QualityClassifier:
    """Logistic regression on hashed bags of words (Spark's Tokenizer + HashingTF in the paper)."""

    weights_F: NDArray[np.float32]
    bias: float

    @classmethod
    def train(cls, positives: Iterable[UInt64s], negatives: Iterable[UInt64s]) -> "QualityClassifier":
        """Fit on the word hashes of good and of raw documents; both classes weigh the same."""
        from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
        from sklearn.linear_model import LogisticRegression

        indices: list[NDArray[np.int32]] = []
        values: list[NDArray[np.float32]] = []
        labels: list[int] = []
        for label, documents in ((1, positives), (0, negatives)):
            for hashes_W in documents:
                features, counts = _features(hashes_W)
                indices.append(features)
                values.append(counts)
                labels.append(label)
        rows = np.concatenate(([0], np.cumsum([len(features) for features in indices])))
        matrix = csr_matrix((np.concatenate(values), np.concatenate(indices), rows), shape=(len(labels), NUM_FEATURES))
        model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=200)
        model.fit(matrix, np.asarray(labels))
        return cls(model.coef_[0].astype(np.float32), float(model.intercept_[0]))

    def score(self, hashes_W: UInt64s) -> float:
        """Probability that a document is of the good kind, 0 to 1."""
        features, values = _features(hashes_W)
        logit = float(np.dot(self.weights_F[features], values)) + self.bias
        return float(1.0 / (1.0 + np.exp(-np.clip(logit, -50, 50))))


def bottom_k(hashes_N: UInt64s, k: int, *, seed: int, purpose: str) -> NDArray[np.int64]:
    """A sample of at most `k` documents that depends on their hashes only, in their order."""
    keys_N = uniforms(hashes_N, seed=seed, purpose=purpose)
    if len(keys_N) <= k:
        return np.arange(len(keys_N), dtype=np.int64)
    return np.sort(np.argpartition(keys_N, k)[:k]).astype(np.int64)


def _features(hashes_W: UInt64s) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Word counts, dampened and of unit length so that long documents don't score higher for being long."""
    features, counts = np.unique((hashes_W & np.uint64(NUM_FEATURES - 1)).astype(np.int32), return_counts=True)
    values = np.log1p(counts).astype(np.float32)
    return features, values / max(float(np.linalg.norm(values)), 1e-9)


def _has_surrogates(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _line_rejection(text: str, rules: QualityRules) -> str:
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 5:
        return ""
    if sum(line[0] in "-*\u2022\u00b7" for line in lines) > rules.max_bullet_line_share * len(lines):
        return "bullet_lines"
    if sum(line.endswith(("...", "\u2026")) for line in lines) > rules.max_ellipsis_line_share * len(lines):
        return "ellipsis_lines"
    unique = sum(map(len, set(lines)))
    total = sum(map(len, lines))
    return "repeated_lines" if total - unique > rules.max_repeated_line_share * total else ""


def _repetition_rejection(words: Words, rules: QualityRules) -> str:
    if len(words) < 50:
        return ""
    grams = words.ngrams(5)
    repeated = len(grams) - len(np.unique(grams))
    return "repeated_ngrams" if repeated > rules.max_repeated_ngram_share * len(grams) else ""
