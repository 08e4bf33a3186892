import re

import numpy as np
import pytest

from wuya.data import words
from wuya.data.words import ngram_hashes, uniforms, words_of


def test_case_and_punctuation_do_not_matter() -> None:
    assert np.array_equal(words_of("Hello, World!").hashes_W, words_of("hello world").hashes_W)
    assert not np.array_equal(words_of("hello word").hashes_W, words_of("hello world").hashes_W)


@pytest.mark.parametrize(
    "text",
    [
        "Plain ASCII text: 3 words",
        "\u00c9t\u00e9 na\u00efve \u00fcber",
        "  lead and trail  ",
        "a\U0001f600b",
        "x" * 300 + " y",
    ],
)
def test_spans_are_those_of_runs_of_letters_and_digits(text: str) -> None:
    found = words_of(text)
    expected = [match.span() for match in re.finditer(r"[^\W_]+", text)]
    assert list(zip(found.starts_W.tolist(), found.ends_W.tolist(), strict=True)) == expected


def test_equal_words_have_equal_hashes_and_different_words_different_ones() -> None:
    text = " ".join(f"word{i} Word{i}!" for i in range(2000))
    hashes_W = words_of(text).hashes_W
    assert np.array_equal(hashes_W[::2], hashes_W[1::2])
    assert len(np.unique(hashes_W)) == 2000


def test_every_ideograph_is_a_word() -> None:
    found = words_of("\u4f60\u597d world\u4e16\u754c")
    assert list(zip(found.starts_W.tolist(), found.ends_W.tolist(), strict=True)) == [
        (0, 1), (1, 2), (3, 8), (8, 9), (9, 10)
    ]  # fmt: skip
    assert found.hashes_W[2] == words_of("World").hashes_W[0]


def test_a_text_without_words_has_none() -> None:
    assert len(words_of("")) == len(words_of("?!... \U0001f600")) == 0


def test_long_texts_in_pieces_give_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "some words of different lengths, again and again; " * 30
    whole = words_of(text)
    monkeypatch.setattr(words, "MAX_PIECE_CHARS", 64)
    pieces = words_of(text)
    assert np.array_equal(whole.hashes_W, pieces.hashes_W)
    assert np.array_equal(whole.starts_W, pieces.starts_W) and np.array_equal(whole.ends_W, pieces.ends_W)


def test_ngrams_depend_on_the_order_of_words() -> None:
    assert len(ngram_hashes(words_of("a b c d").hashes_W, 3)) == 2
    assert len(ngram_hashes(words_of("a b").hashes_W, 3)) == 0
    assert ngram_hashes(words_of("a b c").hashes_W, 3)[0] != ngram_hashes(words_of("c b a").hashes_W, 3)[0]
    assert ngram_hashes(words_of("x a b c").hashes_W, 3)[1] == ngram_hashes(words_of("a b c").hashes_W, 3)[0]


def test_uniform_draws_are_uniform_and_independent_between_purposes() -> None:
    hashes_N = np.arange(100_000, dtype=np.uint64)
    first, second = uniforms(hashes_N, seed=0, purpose="pareto"), uniforms(hashes_N, seed=0, purpose="validate")
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square with 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert not np.array_equal(first, uniforms(hashes_N, seed=1, purpose="pareto"))
