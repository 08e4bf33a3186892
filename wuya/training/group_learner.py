"""Policy gradients without a value model: a group of completions of one prompt is each other's baseline.

    learner = GroupLearner(policy, settings, advantage=..., policy_loss=...)
    batch = learner.batch(rollouts)            # episodes of one prompt are neighbours, `group_size` each
    metrics = learner.learn(batch, update=0)

Shapes: P prompts, G completions of each, B = P G episodes, T positions (see losses/ppo.py). Like `ppo_learner.py` it
works on any policy with hidden states and logits: a GPT, an adapter on a trunk, a table in a test.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from wuya.config import require_divides, require_positive
from wuya.errors import ConfigError
from wuya.losses.ppo import scores_with_eos_rule
from wuya.training import distributed
from wuya.training.answer_rows import LONGEST_ROW, AnswerRows, answer_rows, answer_token_logprobs
from wuya.training.ema import Ema
from wuya.training.optimizer import build_optimizer, set_lr
from wuya.training.ppo_batches import Rollouts, minibatch_rows
from wuya.training.ppo_update import Learner, all_ranks, learning_rate_multiplier, optimizer_step


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """The constants of RLOO and GRPO."""

    num_updates: int = 500
    """Updates of the policy: each samples `rollout_batch_size` episodes."""
    rollout_batch_size: int = 512
    """Episodes (prompt + completion) sampled per update, summed over all ranks. GRPO paper: 1,024."""
    group_size: int = 4
    """Completions of each prompt, the baseline of each other. RLOO paper: 2 to 4; GRPO paper: 64."""
    minibatch_size: int = 512
    """Episodes per optimizer step, summed over all ranks. Papers: the whole batch, one step an update."""
    microbatch_tokens: int = 8192
    """Positions (padding included) of one forward and backward pass: what fits in memory. Changes no result."""
    num_epochs: int = 1
    """Passes over each batch of episodes. Papers: 1."""
    learning_rate: float = 1e-6
    """Peak learning rate. GRPO paper: 1e-6 for 7B; small models bear more."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer."""
    warmup_updates: int = 10
    """Updates in which the learning rate rises from a tenth of its peak."""
    linear_decay: bool = False
    """Let the learning rate fall to 0 at the end."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    max_grad_norm: float = 1.0
    """Largest L2 norm of the gradient in one step; 0 does not clip."""
    kl_coef: float = 0.04
    """beta: price of a nat of KL towards the reference; RLOO takes it off the score, GRPO adds it to the loss.
    GRPO paper: 0.04; RLOO paper: 0.03 to 0.1."""
    clip_range: float = 0.2
    """The ratio counts up to 1 +- this: of each token in GRPO, of the whole completion in RLOO."""
    missing_eos_penalty: float = 1.0
    """An answer that never ends scores min(score, 0) less this, as in PPO."""
    temperature: float = 1.0
    """Divides the logits in sampling and in every log-prob."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, per optimizer step; 0 keeps none. InstructGPT's PPO: 0.992."""
    seed: int = 0
    """Of prompt order, sampling and minibatches."""

    def __post_init__(self) -> None:
        require_positive(
            self, "num_updates", "rollout_batch_size", "minibatch_size", "microbatch_tokens", "num_epochs",
            "learning_rate", "clip_range", "temperature", "missing_eos_penalty",
        )  # fmt: skip
        require_divides(self, "rollout_batch_size", by="minibatch_size")
        require_divides(self, "minibatch_size", by="group_size")
        if self.group_size < 2:
            raise ConfigError("`group_size` must be at least 2: one completion has nothing to be compared with")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("`ema_decay` must be at least 0 and below 1", found=str(self.ema_decay))

    @property
    def num_prompts(self) -> int:
        """Prompts per update, over all ranks."""
        return self.rollout_batch_size // self.group_size


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """Episodes with everything their loss needs; rows are right-padded."""

    ids_BT: Tensor
    """int64 [B, T + 1]: prompt, completion, padding."""
    mask_BT: Tensor
    logprobs_BT: Tensor
    """nats, under the policy that sampled ("old")."""
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
            logprobs_BT=self.logprobs_BT[rows, : width - 1],
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
    """`losses.direct.rloo_policy_loss` or `grpo_policy_loss`, their constants filled in."""

    def __call__(
        self, logprobs_BT: Tensor, batch: GroupBatch, *, num_episodes: float
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


class GroupLearner:
    """A policy in training: weights, optimizer, moving average."""

    def __init__(
        self,
        policy: Any,
        settings: GroupSettings,
        *,
        advantage: Callable[[Tensor, Tensor], Tensor],
        policy_loss: GroupPolicyLoss,
        max_length: int = LONGEST_ROW,
        tolerance: float = 1e-4,
    ) -> None:
        """
        Args:
            policy: nn.Module that is a `LanguageModel`; its trainable parameters learn.
            advantage: (scores_PG after the rule for missing ends, kl_PG) -> advantages_PG.
            max_length: tokens the policy's context holds.
            tolerance: how far the first minibatch's mean ratio may be from 1; float32 needs 1e-4.
        """
        self.policy, self.settings = policy.eval(), settings  # dropout off
        self.advantage, self.policy_loss = advantage, policy_loss
        self.max_length, self.tolerance = max_length, tolerance
        optimizer = build_optimizer(
            policy, name=settings.optimizer, lr=settings.learning_rate, betas=(0.9, 0.95), eps=settings.adam_eps
        )
        self._learner = Learner("policy", [p for p in policy.parameters() if p.requires_grad], optimizer)
        self.ema = Ema(policy, settings.ema_decay) if settings.ema_decay else None

    def batch(self, rollouts: Rollouts) -> tuple[GroupBatch, Tensor]:
        """What to learn from episodes, and the scores_B after the rule for missing ends. Groups never span ranks."""
        scores_B = scores_with_eos_rule(
            rollouts.scores_B, rollouts.has_eos_B, missing_eos_penalty=self.settings.missing_eos_penalty
        )
        group = self.settings.group_size
        advantages_PG = self.advantage(scores_B.view(-1, group), rollouts.kl_B.view(-1, group))
        batch = GroupBatch(
            ids_BT=rollouts.ids_BT,
            mask_BT=rollouts.mask_BT,
            logprobs_BT=rollouts.logprobs_BT,
            ref_logprobs_BT=rollouts.ref_logprobs_BT,
            advantages_B=advantages_PG.reshape(-1),
            prompt_lengths_B=rollouts.prompt_lengths_B,
            lengths_B=rollouts.lengths_B,
        )
        return batch, scores_B

    def learn(self, batch: GroupBatch, *, update: int) -> dict[str, float]:
        """All epochs and minibatches of one update; metrics are means over the minibatches."""
        settings = self.settings
        multiplier = learning_rate_multiplier(
            update,
            warmup_updates=settings.warmup_updates,
            num_updates=settings.num_updates,
            linear_decay=settings.linear_decay,
        )
        set_lr(self._learner.optimizer, multiplier)
        totals: defaultdict[str, float] = defaultdict(float)
        count = 0
        for rows in self._minibatches(update):
            for name, value in self._step(batch, rows, first=update == 0 and count == 0).items():
                totals[name] += value
            count += 1
        return {name: total / count for name, total in totals.items()} | {"lr": multiplier}

    def _minibatches(self, update: int) -> Iterator[Tensor]:
        """This rank's rows of each minibatch: whole groups, so that a rank's share is a number of prompts."""
        settings = self.settings
        within_G = torch.arange(settings.group_size)
        for epoch in range(settings.num_epochs):
            for groups in minibatch_rows(
                settings.num_prompts,
                settings.minibatch_size // settings.group_size,
                seed=settings.seed,
                update=update,
                epoch=epoch,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
            ):
                yield (groups[:, None] * settings.group_size + within_G).reshape(-1)

    def _step(self, batch: GroupBatch, rows: Tensor, *, first: bool) -> dict[str, float]:
        settings = self.settings
        totals: defaultdict[str, float] = defaultdict(float)
        limits = {"max_length": self.max_length, "max_tokens": settings.microbatch_tokens}
        for read, part in batch.rows(rows).microbatches(**limits) if len(rows) else ():
            logprobs_C = answer_token_logprobs(
                self.policy, read, device=part.ids_BT.device, temperature=settings.temperature
            )
            logprobs_BT = read.put(logprobs_C, part.mask_BT)
            loss, stats = self.policy_loss(logprobs_BT, part, num_episodes=settings.minibatch_size)
            loss.backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss/policy_avg": loss.detach(), **stats}.items():
                totals[name] += float(value)
        stats_over_ranks = all_ranks(dict(totals))
        if first:
            ratio = stats_over_ranks["val/ratio"]
            assert abs(ratio - 1) < self.tolerance, f"first minibatch: ratio {ratio:.6f}, not 1"
        stats_over_ranks["policy/grad_norm"] = optimizer_step(self._learner, max_grad_norm=settings.max_grad_norm)
        if self.ema is not None:
            self.ema.update(self.policy)
        return stats_over_ranks

    def state_dict(self) -> dict[str, Any]:
        """All that learning needs to go on bit for bit: tensors and primitives."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self._learner.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self._learner.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
