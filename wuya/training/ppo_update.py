"""Gradients and steps of one PPO minibatch: policy, value, pre-training mix; the pieces meet in `.grad`.

Every loss is divided by the count of the *whole* minibatch, over all microbatches and ranks, so neither the split into
microbatches nor the number of processes changes a gradient.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wuya.errors import NotFinite
from wuya.losses.language_model import cross_entropy
from wuya.losses.ppo import ppo_policy_loss, ppo_value_loss
from wuya.training import distributed
from wuya.training.optimizer import Optimizer, clip_gradients
from wuya.training.ppo_batches import LanguageModel, PPOBatch, TokenValues, completion_logprobs, completion_values
from wuya.training.schedule import constant_with_warmup

PolicyLoss = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""Signature of `losses.ppo.ppo_policy_loss`; what `--policy_loss my.py:fn` replaces."""


@dataclass(frozen=True, slots=True)
class Learner:
    """Parameters in training with their optimizer."""

    name: str
    """For messages: `policy` or `value model`."""
    parameters: Sequence[nn.Parameter]
    optimizer: Optimizer


def policy_gradients(
    policy: LanguageModel,
    parts: Iterable[PPOBatch],
    *,
    num_tokens: Tensor,
    clip_range: float,
    temperature: float,
    policy_loss: PolicyLoss = ppo_policy_loss,
) -> dict[str, float]:
    """Add the gradient of the clipped objective, a mean over `num_tokens` completion tokens.

    Args:
        parts: the minibatch's microbatches on this rank.
        num_tokens: completion tokens of the minibatch, all ranks.

    Returns: statistics as this rank's share of the mean; their sum over ranks is the mean.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        logprobs_BT = completion_logprobs(policy, part.ids_BT, part.mask_BT, temperature=temperature)
        loss, stats = policy_loss(
            logprobs_BT,
            part.logprobs_BT,
            part.advantages_BT,
            part.mask_BT,
            clip_range=clip_range,
            num_tokens=num_tokens,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        for name, value in {"loss/policy_avg": loss.detach(), **stats}.items():
            totals[name] += float(value)
    return dict(totals)


def value_gradients(
    value_model: TokenValues, parts: Iterable[PPOBatch], *, num_tokens: Tensor, value_clip_range: float
) -> dict[str, float]:
    """Add the gradient of the value loss, a mean over `num_tokens` tokens; arguments as for `policy_gradients`."""
    totals: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        values_BT = completion_values(value_model, part.ids_BT, part.mask_BT)
        loss, stats = ppo_value_loss(
            values_BT,
            part.values_BT,
            part.returns_BT,
            part.mask_BT,
            value_clip_range=value_clip_range,
            num_tokens=num_tokens,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        for name, value in {"loss/value_avg": loss.detach(), **stats}.items():
            totals[name] += float(value)
    return dict(totals)


def pretraining_gradients(
    policy: LanguageModel,
    inputs_BT: Tensor,
    targets_BT: Tensor,
    *,
    num_tokens: int,
    ptx_coef: float,
    microbatch_tokens: int,
) -> dict[str, float]:
    """Add ptx_coef x the gradient of the mean nats a token of pre-training text (InstructGPT Eq. 2's gamma term).

    A backward pass of its own, before the one optimizer step. InstructGPT does not print its reductions, so its
    gamma = 27.8 says nothing about ours: a mean over tokens, beside a PPO loss that is a mean over tokens too.

    Args:
        num_tokens: target tokens of the whole pre-training minibatch, all ranks.
    """
    rows = max(1, microbatch_tokens // inputs_BT.shape[1])
    total = 0.0
    for inputs, targets in zip(torch.split(inputs_BT, rows), torch.split(targets_BT, rows), strict=True):
        logits_NV = policy.logits(policy(inputs)).flatten(0, 1)
        loss = cross_entropy(logits_NV, targets.flatten())[0] / num_tokens
        (ptx_coef * loss).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return {"loss/ptx": total}


def optimizer_step(learner: Learner, *, max_grad_norm: float) -> float:
    """Add gradients over ranks, clip, step, clear. Returns the norm before clipping.

    Raises NotFinite, with the weights untouched, when the gradient is NaN or infinite.
    """
    distributed.reduce_gradients(learner.parameters)
    norm = clip_gradients(learner.parameters, max_grad_norm)
    if not math.isfinite(norm):
        learner.optimizer.zero_grad()
        raise NotFinite(
            f"the gradient of the {learner.name} is not finite",
            found=f"norm {norm}",
            hint="the last checkpoint is good; lower the learning rate, or look at the rollouts with `--dump_rollouts`",
        )
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    return norm


def learning_rate_multiplier(update: int, *, warmup_updates: int, num_updates: int, linear_decay: bool) -> float:
    """Multiplier of the peak learning rates in PPO update number `update`, 0 being the first.

    InstructGPT: from a tenth of the peak over the first 10 iterations, then constant (section C.4). With `linear_decay`
    it also falls in a straight line to 0 after `num_updates`, as in OpenAI's earlier lm-human-preferences.
    """
    multiplier = constant_with_warmup(update, warmup_updates, 0.1)
    return multiplier * (1 - update / num_updates) if linear_decay else multiplier


def ema_initial_share(decay: float, num_steps: int) -> float:
    """Share of the starting weights in an exponential moving average after `num_steps` optimizer steps: decay^n.

    InstructGPT's .992 leaves nothing after its 4,000 steps, but 60 % after 64: short runs need a smaller decay.
    """
    return float(decay**num_steps)


def all_ranks(stats: dict[str, float]) -> dict[str, float]:
    """Sum each statistic over ranks; one without episodes in this minibatch has none."""
    totals: defaultdict[str, float] = defaultdict(float)
    shared: list[Any] = distributed.gather(stats)
    for rank in shared:
        for name, value in rank.items():
            totals[name] += value
    return dict(totals)
