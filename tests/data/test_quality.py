import numpy as np
import pytest

from wuya.data.quality import QualityClassifier, QualityRules, bottom_k, pareto_keep, rejection
from wuya.data.words import mix, words_of

RULES = QualityRules()
GOOD = "The old man walked to the harbour, as he did every morning, and looked for the boat that never came back."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("\u767d\u65e5\u4f9d\u5c71\u5c3d\uff0c\u9ec4\u6cb3\u5165\u6d77\u6d41\u3002", ""),
        (" \n\t ", "empty"),
        ("broken \ud800 text of some words", "invalid_unicode"),
        ("Hi there", "too_few_words"),
        (" ".join(["Zm9vYmFyYmF6cXV4Zm9vYmFy"] * 3), "mean_word_length"),
        ("a | b | c | ===== ----- ##### >>>>> <<<<<", "symbols"),
        (GOOD + "\x00\x01\ufffd" * 5, "control_characters"),
        ("Lorem ipsum dolor sit amet, consectetur", "lorem_ipsum"),
        ("\n".join(f"- item number {i}" for i in range(8)), "bullet_lines"),
        ("\n".join(f"Read more about topic {i} ..." for i in range(8)), "ellipsis_lines"),
        ("\n".join(["Accept all cookies to continue"] * 7 + [GOOD]), "repeated_lines"),
        ("buy cheap watches online now " * 30, "repeated_ngrams"),
    ],
)
def test_each_rule_has_a_name(text: str, reason: str) -> None:
    assert rejection(text, words_of(text), RULES) == reason


def test_disabled_rules_keep_all_but_empty_and_broken_text() -> None:
    rules = QualityRules(enabled=False)
    assert rejection("Hi", words_of("Hi"), rules) == ""
    assert rejection(" ", words_of(" "), rules) == "empty"


@pytest.mark.parametrize(
    ("score", "golden"), [(0.0, 0.001953), (0.1, 0.003099), (0.5, 0.026012), (0.9, 0.424098), (1.0, 1.0)]
)
def test_pareto_rule_keeps_with_probability_two_minus_score_to_the_minus_nine(score: float, golden: float) -> None:
    """Spec section 3, Verify (a); golden_checks.py: np.random.pareto(9) is Lomax, P(x > 1 - s) = (2 - s)^-9."""
    assert (2 - score) ** -9 == pytest.approx(golden, abs=1e-6)
    draws = 1_000_000
    hashes_N = mix(np.arange(draws, dtype=np.uint64))
    kept = float(pareto_keep(np.full(draws, score), hashes_N, seed=0).mean())
    by_numpy = float((np.random.default_rng(0).pareto(9, draws) > 1 - score).mean())
    error = 4 * np.sqrt(golden * (1 - golden) / draws) + 1e-9
    assert kept == pytest.approx(golden, abs=error + 1e-6)
    assert by_numpy == pytest.approx(golden, abs=error + 1e-6)


def test_a_documents_fate_does_not_depend_on_its_neighbours() -> None:
    scores_N, hashes_N = np.full(1000, 0.8), mix(np.arange(1000, dtype=np.uint64))
    together = pareto_keep(scores_N, hashes_N, seed=3)
    alone = [bool(pareto_keep(scores_N[i : i + 1], hashes_N[i : i + 1], seed=3)[0]) for i in range(1000)]
    assert together.tolist() == alone and 0 < together.sum() < 1000


def test_classifier_tells_prose_from_spam() -> None:
    rng = np.random.default_rng(0)
    prose, spam = "the old man sea boat harbour morning wind".split(), "click buy cheap now offer free win the".split()

    def documents(vocabulary: list[str], count: int) -> list[str]:
        return [" ".join(rng.choice(vocabulary, 30)) for _ in range(count)]

    def hashes(texts: list[str]) -> list[np.ndarray]:
        return [words_of(text).hashes_W for text in texts]

    classifier = QualityClassifier.train(hashes(documents(prose, 40)), hashes(documents(spam, 40)))
    good = [classifier.score(words) for words in hashes(documents(prose, 20))]
    bad = [classifier.score(words) for words in hashes(documents(spam, 20))]
    assert min(good) > 0.8 and max(bad) < 0.2


def test_a_sample_by_hash_is_the_same_whatever_the_order() -> None:
    hashes_N = mix(np.arange(500, dtype=np.uint64))
    chosen = set(hashes_N[bottom_k(hashes_N, 50, seed=0, purpose="classify")].tolist())
    backwards = set(hashes_N[::-1][bottom_k(hashes_N[::-1], 50, seed=0, purpose="classify")].tolist())
    assert chosen == backwards and len(chosen) == 50
