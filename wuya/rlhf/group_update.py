"""Gradients of one minibatch of RLOO or GRPO: a group of completions of one prompt is each other's baseline.

Shapes: P prompts, G completions of each, B = P G episodes, T positions (see losses/ppo.py).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wuya.data.batches import minibatch_rows
from wuya.models.protocols import LanguageModel
from wuya.rlhf.answer_rows import LONGEST_ROW, AnswerRows, answer_rows
from wuya.rlhf.model_outputs import completion_logprobs
from wuya.rlhf.rollouts import Rollouts
from wuya.training import distributed


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """Episodes with everything their loss needs; rows are right-padded."""

    ids_BT: Tensor
    """int64 [B, T + 1]: prompt, completion, padding."""
    mask_BT: Tensor
    old_logprobs_BT: Tensor
    """nats, under the policy that sampled."""
    ref_logprobs_BT: Tensor
    advantages_B: Tensor
    prompt_lengths_B: Tensor
    lengths_B: Tensor
    """Tokens of each row without padding."""

    def rows(self, rows: Tensor) -> "GroupBatch":
        """The given rows, without columns that are padding in all of them."""
        width = int(self.lengths_B[rows].max())
        return GroupBatch(
            ids_BT=self.ids_BT[rows, :width],
            mask_BT=self.mask_BT[rows, : width - 1],
            old_logprobs_BT=self.old_logprobs_BT[rows, : width - 1],
            ref_logprobs_BT=self.ref_logprobs_BT[rows, : width - 1],
            advantages_B=self.advantages_B[rows],
            prompt_lengths_B=self.prompt_lengths_B[rows],
            lengths_B=self.lengths_B[rows],
        )

    def microbatches(self, *, max_length: int, max_tokens: int) -> Iterator[tuple[AnswerRows, "GroupBatch"]]:
        """All episodes in parts of at most `max_tokens` positions, padding included, a prompt laid out once for its
        group: what the policy reads, and the episodes of the part in the order they lie there."""
        ends = zip(self.ids_BT.tolist(), self.prompt_lengths_B.tolist(), self.lengths_B.tolist(), strict=True)
        prompts, answers = zip(*((ids[:start], ids[start:end]) for ids, start, end in ends), strict=True)
        for part in answer_rows(prompts, answers, max_length=max_length, max_tokens=max_tokens):
            yield part, self.rows(part.answer_B.to(self.ids_BT.device))


class GroupPolicyLoss(Protocol):
    """`losses.groups.rloo_policy_loss` or `grpo_policy_loss`, their constants filled in."""

    def __call__(
        self, logprobs_BT: Tensor, batch: GroupBatch, *, num_episodes: float, num_tokens: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Episodes and completion tokens are those of the whole minibatch, all ranks: what losses are divided by."""
        ...


def group_batch(rollouts: Rollouts, advantages_PG: Tensor) -> GroupBatch:
    """Episodes, completions of one prompt being neighbours, with the advantage of each."""
    return GroupBatch(
        ids_BT=rollouts.ids_BT,
        mask_BT=rollouts.mask_BT,
        old_logprobs_BT=rollouts.old_logprobs_BT,
        ref_logprobs_BT=rollouts.ref_logprobs_BT,
        advantages_B=advantages_PG.reshape(-1),
        prompt_lengths_B=rollouts.prompt_lengths_B,
        lengths_B=rollouts.lengths_B,
    )


def group_minibatches(
    num_prompts: int, prompts_per_minibatch: int, *, group_size: int, seed: int, update: int, epochs: int
) -> Iterator[Tensor]:
    """This rank's episodes of each minibatch: whole groups, so that a rank's share is a number of prompts."""
    within_G = torch.arange(group_size)
    for groups in minibatch_rows(
        num_prompts, prompts_per_minibatch, seed=seed, update=update, epochs=epochs,
        rank=distributed.rank(), world_size=distributed.world_size(),
    ):  # fmt: skip
        yield (groups[:, None] * group_size + within_G).reshape(-1)


def group_gradients(
    policy: LanguageModel,
    batch: GroupBatch,
    rows: Tensor,
    *,
    policy_loss: GroupPolicyLoss,
    num_episodes: int,
    temperature: float,
    microbatch_tokens: int,
    max_length: int = LONGEST_ROW,
) -> dict[str, float]:
    """Add the gradient of the given episodes' loss.

    Args:
        rows: this rank's episodes of the minibatch.
        num_episodes: of the minibatch, all ranks.
        max_length: tokens the policy's context holds.

    Returns: statistics of the minibatch.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    num_tokens = max(1.0, float(distributed.all_reduce_sum(batch.mask_BT[rows].sum())))
    limits = {"max_length": max_length, "max_tokens": microbatch_tokens}
    for read, part in batch.rows(rows).microbatches(**limits) if len(rows) else ():
        logprobs_C = completion_logprobs(policy, read, device=part.ids_BT.device, temperature=temperature)
        loss, stats = policy_loss(
            read.put(logprobs_C, part.mask_BT), part, num_episodes=num_episodes, num_tokens=num_tokens
        )
        loss.backward()  # type: ignore[no-untyped-call]
        for name, value in {"loss/policy_avg": loss.detach(), **stats}.items():
            totals[name] += float(value)
    return distributed.sum_stats(totals)
