"""No prompt is both ranked and trained on, in whatever order rounds are added."""

from itertools import pairwise

import pytest

from wuya.data.messages import prompt_key
from wuya.data.prompt_shares import Share, next_share
from wuya.errors import DataError
from wuya.records import Message, Prompt


def prompts(first: int, last: int) -> list[Prompt]:
    return [Prompt("same id", (Message("user", f"question {n}"),)) for n in range(first, last)]


def rounds(plan: list[tuple[int, int]], *, per_round: int = 3) -> list[Share]:
    """Shares of rounds given as (prompts in the file, rounds wanted) when each began."""
    shares: list[Share] = []
    for number, (size, total) in enumerate(plan, start=1):
        left = total - number + 1
        shares.append(next_share(prompts(0, size), shares, rounds_left=left, per_round=per_round))
    return shares


@pytest.mark.parametrize(
    "plan",
    [
        [(20, 3)] * 3,
        [(20, 1), (23, 2), (26, 3)],
        [(20, 2), (20, 2), (29, 5), (29, 5), (40, 5)],
        [(20, 3), (30, 3), (30, 3)],
    ],
    ids=["at once", "one by one", "raised", "the file grew"],
)
def test_what_is_ranked_was_never_trained_on_and_never_will_be(plan: list[tuple[int, int]]) -> None:
    shares = rounds(plan)
    ranked = [prompt_key(prompt) for share in shares for prompt in share.ranked]
    assert len(set(ranked)) == len(ranked) == 3 * len(plan)
    for share in shares:
        assert share.trained and not {prompt_key(prompt) for prompt in share.trained} & set(ranked)
    assert all(set(before.trained) <= set(after.trained) for before, after in pairwise(shares))


def test_a_prompt_that_is_there_twice_counts_once() -> None:
    share = next_share(prompts(0, 4) * 2, (), rounds_left=1, per_round=3)
    assert len(share.ranked) == 3 and len(share.trained) == 1


def test_more_rounds_without_new_prompts_are_refused_at_once() -> None:
    with pytest.raises(DataError, match="too few prompts for 2 more rounds"):
        rounds([(20, 1), (22, 3)])
    with pytest.raises(DataError, match="too few prompts"):
        next_share(prompts(0, 3), (), rounds_left=1, per_round=3)  # nothing for PPO
