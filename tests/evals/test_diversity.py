import pytest

from wuya.evals.diversity import distinct_n, diversity


def test_one_answer_for_everything_is_seen() -> None:
    same = diversity(["That is great!"] * 9 + ["no"])
    assert same.most_common_share == pytest.approx(0.9)
    assert same.most_common == "that is great!"
    assert same.distinct_2 == pytest.approx(2 / 18)


def test_distinct_n_counts_over_all_answers() -> None:
    assert distinct_n([["a", "b", "c"], ["a", "b"]], 2) == pytest.approx(2 / 3)
    assert distinct_n([["a"], []], 2) == 0.0


def test_lengths_are_words() -> None:
    assert diversity(["one two three", "one", "one two"]).median_words == 2
