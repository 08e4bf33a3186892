"""Groups of equal scores are replaced, up to the tries that are allowed, and what was done is counted."""

from collections.abc import Sequence

import pytest
import torch

from wuya.rlhf.dynamic_sampling import join_rollouts, sample_groups
from wuya.rlhf.rollouts import Rollouts


def rollouts(*groups: tuple[float, float], start: int, width: int = 4) -> Rollouts:
    """Groups of two episodes; ids tell which group of which try an episode comes from."""
    count = 2 * len(groups)
    ids_BT = (torch.arange(start, start + len(groups)).repeat_interleave(2)[:, None]).expand(count, width).clone()
    zeros_BT = torch.zeros(count, width - 1)
    return Rollouts(
        ids_BT=ids_BT, mask_BT=zeros_BT + 1, old_logprobs_BT=zeros_BT - 1, ref_logprobs_BT=zeros_BT - 2,
        old_values_BT=zeros_BT, scores_B=torch.tensor([score for group in groups for score in group]).float(),
        has_eos_B=torch.ones(count, dtype=torch.bool), prompt_lengths_B=torch.full((count,), 1),
        completion_lengths_B=torch.full((count,), width - 1),
    )  # fmt: skip


TRIES = {
    0: rollouts((1, 1), (0, 1), (2, 2), start=10),
    1: rollouts((3, 3), (0, 5), start=20, width=6),
    2: rollouts((7, 8), start=30),
}


def sampled(max_resampling: int) -> tuple[list[int], dict[str, float], list[tuple[int, list[int]]]]:
    asked = []

    def sample(attempt: int, places: Sequence[int]) -> Rollouts:
        asked.append((attempt, list(places)))
        return TRIES[attempt]

    found = sample_groups(
        sample, lambda r: r.scores_B, group_size=2, num_groups=3, max_resampling=max_resampling, pad_id=99
    )
    assert found.first is TRIES[0] and len(found.kept.scores_B) == 6
    return found.kept.ids_BT[::2, 0].tolist(), found.counts, asked


def test_without_resampling_the_batch_is_as_sampled_and_equal_groups_are_counted() -> None:
    assert sampled(0) == ([10, 11, 12], {"rollout/equal_groups": 2 / 3}, [(0, [0, 1, 2])])


def test_every_try_replaces_equal_groups_where_they_stand_until_none_is_left() -> None:
    groups, counts, asked = sampled(5)
    assert groups == [30, 11, 21] and asked == [(0, [0, 1, 2]), (1, [0, 2]), (2, [0])]
    assert counts["rollout/resampled_groups"] == 3 and counts["rollout/filled_groups"] == 0


def test_when_the_tries_are_used_up_what_is_left_stays() -> None:
    groups, counts, _ = sampled(1)
    assert groups == [10, 11, 21] and counts["rollout/filled_groups"] == 1


def test_joined_episodes_keep_their_numbers_and_padding() -> None:
    joined = join_rollouts([TRIES[0], TRIES[1]], pad_id=99)
    assert joined.ids_BT.shape == (10, 6) and joined.mask_BT.shape == (10, 5)
    assert (joined.ids_BT[:6, 4:] == 99).all() and (joined.mask_BT[:6, 3:] == 0).all()
    assert joined.kl_B.tolist() == pytest.approx([3.0] * 6 + [5.0] * 4)
    assert joined.completion(6) == [20] * 5
