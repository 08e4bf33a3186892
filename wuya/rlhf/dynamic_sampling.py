"""DAPO's dynamic sampling: groups whose completions all score the same are replaced (arXiv:2503.14476, Eq. 11).

A group of equal scores has advantage 0 and only shrinks the batch. Other prompts are sampled in place of such groups
until none is left or the tries are used up; what is left then stays, which changes no gradient but the KL term's.

Shapes: P groups of G completions, B = P G episodes, T positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from wuya.losses.groups import equal_groups
from wuya.rlhf.rollouts import Rollouts
from wuya.training import distributed


@dataclass(frozen=True, slots=True)
class SampledGroups:
    """What one update learns from, and what it was chosen from."""

    first: Rollouts
    """The first try as it was sampled: the policy is measured on it, for the kept groups are a selection."""
    kept: Rollouts
    """This rank's groups to learn from, as many as were asked for."""
    counts: dict[str, float]
    """Metrics, over all ranks."""


def sample_groups(
    sample: Callable[[int, Sequence[int]], Rollouts],
    scores: Callable[[Rollouts], Tensor],
    *,
    group_size: int,
    num_groups: int,
    max_resampling: int,
    pad_id: int,
) -> SampledGroups:
    """Sample this rank's `num_groups` groups; one of equal scores is replaced, in at most `max_resampling` tries.

    A group is replaced where it stands, by the prompt that its place has in the next try: what an update learns from
    does not depend on the number of processes.

    Args:
        sample: (try, places) -> a group for each of these places of this rank, completions of one prompt being
            neighbours; every try has prompts of its own.
        scores: scores_B that advantages are made of, after the rule for missing ends.
    """
    first = sample(0, range(num_groups))
    missing = [place for place, equal in enumerate(_equal(scores(first), group_size)) if equal]
    num_equal, resampled = len(missing), 0
    parts, group_of_place = [first], list(range(num_groups))
    for attempt in range(1, max_resampling + 1):
        if not missing:
            break
        parts.append(sample(attempt, missing))
        equal_again = _equal(scores(parts[-1]), group_size)
        for number, (place, equal) in enumerate(zip(missing, equal_again, strict=True)):
            if not equal:
                group_of_place[place] = num_groups + resampled + number
        resampled += len(missing)
        missing = [place for place, equal in zip(missing, equal_again, strict=True) if equal]
    shared = torch.tensor([num_equal, resampled, len(missing), num_groups], dtype=torch.float64)
    equal_sum, resampled_sum, filled, groups = distributed.all_reduce_sum(shared).tolist()
    counts = {"rollout/equal_groups": equal_sum / groups}
    if max_resampling:
        counts |= {"rollout/resampled_groups": resampled_sum, "rollout/filled_groups": filled}
    kept = first if len(parts) == 1 else _groups(join_rollouts(parts, pad_id=pad_id), group_of_place, group_size)
    return SampledGroups(first, kept, counts)


def _equal(scores_B: Tensor, group_size: int) -> list[bool]:
    """Of each group, whether its completions score the same."""
    flags: list[bool] = equal_groups(scores_B.view(-1, group_size)).tolist()
    return flags


def _groups(rollouts: Rollouts, groups: Sequence[int], group_size: int) -> Rollouts:
    """The episodes of these groups, in this order."""
    rows = (torch.tensor(groups)[:, None] * group_size + torch.arange(group_size)).flatten().to(rollouts.ids_BT.device)
    return Rollouts(**{field.name: getattr(rollouts, field.name)[rows] for field in fields(Rollouts)})


def join_rollouts(parts: Sequence[Rollouts], *, pad_id: int) -> Rollouts:
    """Episodes of several batches one after another, padded on the right to one width."""
    width = max(part.ids_BT.shape[1] for part in parts)

    def joined(name: str) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        if name == "ids_BT":
            tensors = [F.pad(ids_BT, (0, width - ids_BT.shape[1]), value=pad_id) for ids_BT in tensors]
        elif name.endswith("_BT"):
            tensors = [F.pad(values_BT, (0, width - 1 - values_BT.shape[1])) for values_BT in tensors]
        return torch.cat(tensors)

    return Rollouts(**{field.name: joined(field.name) for field in fields(Rollouts)})
