"""Rankings as numbers: dense ranks with ties, the pairs they imply, and what makes one invalid.

Ranks are dense: 1 is the best, equal numbers are a tie, no number is left out. [2, 1, 1, 3] is dense, [3, 1, 1, 4] not.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from wuya.errors import DataError
from wuya.records import Comparison, Ranking

_HINT = "ranks are dense: 1 is best, equal numbers tie, no number is left out; for example [2, 1, 1, 3]"


def dense_ranks(utilities: Sequence[float], *, tie_threshold: float = 0.0) -> tuple[int, ...]:
    """Ranks of utilities, highest first. Whoever is at most `tie_threshold` below the best of a group ties with it."""
    ranks = [0] * len(utilities)
    rank, best = 0, float("inf")
    for index in sorted(range(len(utilities)), key=lambda i: -utilities[i]):
        if rank == 0 or best - utilities[index] > tie_threshold:
            rank, best = rank + 1, utilities[index]
        ranks[index] = rank
    return tuple(ranks)


def check_ranks(ranks: Sequence[int], num_candidates: int, *, where: str = "the ranking") -> None:
    """Raise DataError unless `ranks` place each of at least two candidates and are dense."""
    if num_candidates < 2:
        raise DataError(
            f"{where} has fewer than two candidates",
            found=f"K = {num_candidates}",
            hint="a ranking compares at least 2",
        )
    if len(ranks) != num_candidates:
        raise DataError(
            f"{where} does not place every candidate",
            found=f"{len(ranks)} ranks for {num_candidates} candidates",
            hint="give each candidate a rank; equal ranks are ties",
        )
    if any(isinstance(rank, bool) or not isinstance(rank, int) for rank in ranks):
        raise DataError(f"{where} has a rank that is not a whole number", found=repr(list(ranks)), hint=_HINT)
    if set(ranks) != set(range(1, max(ranks, default=0) + 1)):
        raise DataError(f"{where} is not dense", found=repr(list(ranks)), hint=_HINT)


def check_ranking(ranking: Ranking, *, where: str = "the ranking") -> None:
    """Raise DataError unless the ranking can be trained on."""
    check_ranks(ranking.ranks, len(ranking.candidates), where=where)


def ranked_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Indices (preferred, other) of all C(K,2) pairs, ties dropped (InstructGPT section 3.5)."""
    pairs = ((i, j) if ranks[i] < ranks[j] else (j, i) for i, j in combinations(range(len(ranks)), 2))
    return [(i, j) for i, j in pairs if ranks[i] != ranks[j]]


def order_agreement(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of pairs that two rankings of the same answers order the same way; a tie against an order counts half."""
    pairs = list(combinations(range(len(a)), 2))
    signs = [((a[i] > a[j]) - (a[i] < a[j]), (b[i] > b[j]) - (b[i] < b[j])) for i, j in pairs]
    return sum(1.0 if x == y else 0.5 if x * y == 0 else 0.0 for x, y in signs) / len(signs) if signs else 1.0


def comparisons_of(ranking: Ranking, *, group: str = "") -> Iterator[Comparison]:
    """The ranking's pairs as comparisons of one group, ties dropped."""
    for chosen, rejected in ranked_pairs(ranking.ranks):
        yield Comparison(
            prompt=ranking.prompt,
            chosen=ranking.candidates[chosen].text,
            rejected=ranking.candidates[rejected].text,
            labeler=ranking.labeler,
            group=group or ranking.prompt.id,
        )


def parse_order(text: str, num_candidates: int) -> tuple[int, ...]:
    """Ranks from what a person types, best first: `2>1=3>4` gives (2, 1, 2, 3)."""
    compact = re.sub(r"\s+", "", text)
    if not re.fullmatch(r"\d+([>=]\d+)*", compact):
        raise DataError("can't read this order", found=text.strip(), hint="best first, = for a tie, as in 2>1=3>4")
    ranks: dict[int, int] = {}
    for rank, tied in enumerate(compact.split(">"), start=1):
        for number in map(int, tied.split("=")):
            if not 1 <= number <= num_candidates:
                raise DataError(f"there is no answer {number}", found=text.strip(), hint=f"1 to {num_candidates}")
            if number in ranks:
                raise DataError(f"answer {number} is placed twice", found=text.strip(), hint="place each answer once")
            ranks[number] = rank
    missing = [n for n in range(1, num_candidates + 1) if n not in ranks]
    if missing:
        raise DataError(f"not placed: {', '.join(map(str, missing))}", found=text.strip(), hint="place every answer")
    return tuple(ranks[n] for n in range(1, num_candidates + 1))


def format_order(ranks: Sequence[int]) -> str:
    """The inverse of `parse_order`: (2, 1, 2, 3) gives `2>1=3>4`."""
    groups = ("=".join(str(i + 1) for i, r in enumerate(ranks) if r == rank) for rank in sorted(set(ranks)))
    return ">".join(groups)
