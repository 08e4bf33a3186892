"""Gradients of one PPO minibatch: policy, value, pre-training mix. They add up in `.grad` until a model steps.

Every loss is divided by the count of the *whole* minibatch, over all microbatches and ranks, so neither the split into
microbatches nor the number of processes changes a gradient. Shapes as in rlhf/rollouts.py.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from wuya.data.batches import PretrainingBatches, length_sorted_microbatches
from wuya.losses.ppo import ppo_policy_loss, ppo_value_loss
from wuya.models.protocols import LanguageModel, TokenValues
from wuya.rlhf.answer_rows import AnswerRows, sequence_rows
from wuya.rlhf.model_outputs import completion_logprobs, completion_values
from wuya.training import distributed
from wuya.training.token_logprobs import hidden_logprobs

PolicyLoss = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""Signature of `losses.ppo.ppo_policy_loss`; what `--policy_loss my.py:fn` replaces."""


@dataclass(frozen=True, slots=True)
class PPOBatch:
    """Episodes with everything their losses need; the first four and `lengths_B` are those of `Rollouts`."""

    ids_BT: Tensor
    mask_BT: Tensor
    old_logprobs_BT: Tensor
    old_values_BT: Tensor
    advantages_BT: Tensor
    """Whitened over the whole rollout batch."""
    returns_BT: Tensor
    """Targets of the value model, not whitened."""
    lengths_B: Tensor

    def rows(self, rows: Tensor) -> "PPOBatch":
        """The given rows, without columns that are padding in all of them."""
        width = int(self.lengths_B[rows].max())
        cut = {field.name: getattr(self, field.name)[rows] for field in fields(PPOBatch)}
        columns = {"ids_BT": width, "lengths_B": None}
        return PPOBatch(**{name: tensor[..., : columns.get(name, width - 1)] for name, tensor in cut.items()})

    def microbatches(self, rows: Tensor, max_tokens: int) -> list["PPOBatch"]:
        """The given rows, those of like length together, at most `max_tokens` positions (padding included) in each."""
        groups = length_sorted_microbatches(self.lengths_B[rows].tolist(), max_tokens)
        return [self.rows(rows[torch.tensor(group)]) for group in groups]


def policy_gradients(
    policy: LanguageModel,
    parts: Iterable[PPOBatch],
    *,
    num_tokens: Tensor,
    clip_range: float,
    temperature: float,
    policy_loss: PolicyLoss = ppo_policy_loss,
) -> dict[str, float]:
    """Add the gradient of the clipped objective, a mean over `num_tokens` completion tokens; returns its statistics.

    Args:
        parts: the minibatch's microbatches on this rank.
        num_tokens: completion tokens of the minibatch, all ranks.
    """

    def loss(part: PPOBatch, rows: AnswerRows) -> tuple[Tensor, dict[str, Tensor]]:
        logprobs_C = completion_logprobs(policy, rows, device=part.ids_BT.device, temperature=temperature)
        return policy_loss(rows.put(logprobs_C, part.mask_BT), part.old_logprobs_BT, part.advantages_BT, part.mask_BT,
                           clip_range=clip_range, num_tokens=num_tokens)  # fmt: skip

    return _add_gradients("loss/policy_avg", loss, parts)


def value_gradients(
    value_model: TokenValues, parts: Iterable[PPOBatch], *, num_tokens: Tensor, value_clip_range: float
) -> dict[str, float]:
    """Add the gradient of the value loss, a mean over `num_tokens` tokens; arguments as for `policy_gradients`."""

    def loss(part: PPOBatch, rows: AnswerRows) -> tuple[Tensor, dict[str, Tensor]]:
        values_C = completion_values(value_model, rows, device=part.ids_BT.device)
        return ppo_value_loss(rows.put(values_C, part.mask_BT), part.old_values_BT, part.returns_BT, part.mask_BT,
                              value_clip_range=value_clip_range, num_tokens=num_tokens)  # fmt: skip

    return _add_gradients("loss/value_avg", loss, parts)


def _add_gradients(name: str, loss_of: Callable[..., Any], parts: Iterable[PPOBatch]) -> dict[str, float]:
    totals: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        loss, stats = loss_of(part, sequence_rows(part.ids_BT, part.mask_BT))
        loss.backward()
        for key, value in {name: loss.detach(), **stats}.items():
            totals[key] += float(value)
    return distributed.sum_stats(totals)


def pretraining_gradients(
    policy: Any,
    pretraining: PretrainingBatches,
    *,
    step: int,
    ptx_coef: float,
    microbatch_tokens: int,
) -> dict[str, float]:
    """Add ptx_coef x the gradient of the mean nats per token of pre-training text (InstructGPT Eq. 2's gamma term).

    InstructGPT does not print its reductions, so its gamma = 27.8 says nothing about ours: a mean over tokens, beside
    a PPO loss that is a mean over tokens too. `step` counts the policy's optimizer steps.
    """
    inputs_BT, targets_BT = pretraining.batch(step, rank=distributed.rank(), world_size=distributed.world_size())
    device = next(policy.parameters()).device
    inputs_BT, targets_BT = inputs_BT.to(device), targets_BT.to(device)
    rows, num_tokens = max(1, microbatch_tokens // inputs_BT.shape[1]), pretraining.tokens_per_batch
    total = 0.0
    for inputs, targets in zip(torch.split(inputs_BT, rows), torch.split(targets_BT, rows), strict=True):
        loss = -hidden_logprobs(policy, policy(inputs).flatten(0, 1), targets.flatten()).sum() / num_tokens
        (ptx_coef * loss).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return distributed.sum_stats({"loss/ptx": total})
