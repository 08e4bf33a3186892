"""Ranks with ties: dense, complete, and turned into the right pairs."""

import itertools

import numpy as np
import pytest

from wuya.errors import DataError
from wuya.feedback.rankings import (
    check_ranking,
    check_ranks,
    comparisons_of,
    dense_ranks,
    format_order,
    parse_order,
    ranked_pairs,
)
from wuya.records import Candidate, Message, Prompt, Ranking


def test_dense_ranks_by_hand() -> None:
    assert dense_ranks([0.1, 3.0, 2.95, -1.0], tie_threshold=0.1) == (2, 1, 1, 3)
    assert dense_ranks([5, 5, 5]) == (1, 1, 1)
    assert dense_ranks([]) == ()


def test_a_chain_of_small_steps_is_not_one_tie() -> None:
    assert dense_ranks([0.0, 0.1, 0.2, 0.3], tie_threshold=0.15) == (2, 2, 1, 1)


def test_dense_ranks_of_random_utilities_are_valid_and_ordered() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        utilities = rng.normal(size=int(rng.integers(2, 9))).round(1).tolist()
        ranks = dense_ranks(utilities)
        check_ranks(ranks, len(utilities))
        for i, j in itertools.permutations(range(len(ranks)), 2):
            assert (ranks[i] < ranks[j]) == (utilities[i] > utilities[j])


@pytest.mark.parametrize(
    ("ranks", "k", "message"),
    [
        ((1,), 1, "fewer than two"),
        ((1, 2), 3, "does not place every candidate"),
        ((1, 3), 2, "not dense"),
        ((0, 1), 2, "not dense"),
        ((2, 2), 2, "not dense"),
        ((1, -1), 2, "not dense"),
        ((1, 2.0), 2, "whole number"),
        ((1, True), 2, "whole number"),
        ((1, None), 2, "whole number"),
    ],
)
def test_invalid_ranks_are_refused_with_the_reason(ranks: tuple[int, ...], k: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_ranks(ranks, k)


def test_pairs_drop_ties_and_count_all_others() -> None:
    assert ranked_pairs((2, 1, 2)) == [(1, 0), (1, 2)]
    assert len(ranked_pairs(range(1, 7))) == 15
    assert len(ranked_pairs(range(1, 10))) == 36, "InstructGPT: 36 comparisons of K = 9"
    assert ranked_pairs((1, 1)) == []


def test_comparisons_keep_their_group() -> None:
    prompt = Prompt("p1", (Message("user", "hi"),))
    ranking = Ranking(prompt, tuple(Candidate(t) for t in "abc"), (3, 1, 2), "ann")
    check_ranking(ranking)
    pairs = list(comparisons_of(ranking))
    assert {(p.chosen, p.rejected) for p in pairs} == {("b", "a"), ("c", "a"), ("b", "c")}
    assert {(p.group, p.labeler) for p in pairs} == {("p1", "ann")}


def test_typed_order() -> None:
    assert parse_order("2>1=3>4", 4) == (2, 1, 2, 3)
    assert parse_order(" 1 = 2 ", 2) == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't read"),
        ("a>b", "can't read"),
        ("1>>2", "can't read"),
        ("1>2", "not placed: 3"),
        ("1>2>2>3", "placed twice"),
        ("1>2>3>4", "no answer 4"),
        ("0>1>2>3", "no answer 0"),
    ],
)
def test_typed_order_with_mistakes(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_order(text, 3)


def test_format_is_the_inverse_of_parse() -> None:
    for ranks in [(2, 1, 2, 3), (1, 1), (1, 2, 3), (3, 2, 1)]:
        assert parse_order(format_order(ranks), len(ranks)) == ranks
