"""PPO without text: from episodes to advantages to gradient steps on a policy and a value model.

    learner = PPOLearner(policy, value_model, settings, pretraining=batches)
    batch, rewards_BT, final_scores_B = learner.batch(rollouts)
    metrics = learner.learn(batch, update=0)

Works on any policy with hidden states and logits: a GPT, adapters on a shared trunk, a table in a test.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wuya.config import require_divides, require_positive
from wuya.data.batches import PretrainingBatches
from wuya.errors import ConfigError
from wuya.losses.ppo import adapted_kl_coef, gae, kl_shaped_rewards, ppo_policy_loss, scores_with_eos_rule, whiten
from wuya.training import distributed
from wuya.training.ema import Ema
from wuya.training.optimizer import build_optimizer, set_lr
from wuya.training.ppo_batches import PPOBatch, Rollouts, minibatch_rows
from wuya.training.ppo_update import (
    Learner,
    PolicyLoss,
    all_ranks,
    learning_rate_multiplier,
    optimizer_step,
    policy_gradients,
    pretraining_gradients,
    value_gradients,
)

AdvantageFunction = Callable[..., tuple[Tensor, Tensor]]
"""Signature of `losses.ppo.gae`: (rewards_BT, values_BT, mask_BT, *, gamma, lam) -> (advantages_BT, returns_BT)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOSettings:
    """The constants of PPO; defaults are InstructGPT's where it prints them."""

    num_updates: int = 500
    """Updates of the policy: each samples `rollout_batch_size` episodes. Paper: 256k episodes / 512 = 500."""
    rollout_batch_size: int = 512
    """Episodes (prompt + completion) sampled per update, summed over all ranks. Paper: 512."""
    minibatch_size: int = 64
    """Episodes per optimizer step, summed over all ranks. Paper: 64."""
    microbatch_tokens: int = 8192
    """Positions (padding included) of one forward and backward pass: what fits in memory. Changes no result."""
    ppo_epochs: int = 1
    """Passes over each batch of episodes. Paper: 1."""
    learning_rate: float = 8e-6
    """Peak learning rate of the policy. The paper scans 2.55e-6 to 2.55e-5; plain PPO diverges above 8.05e-6."""
    value_learning_rate: float = 9e-6
    """Peak learning rate of the value model. Paper: 9e-6 (1.3B and 6B)."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer of both models. Paper: Adam."""
    warmup_updates: int = 10
    """Updates in which the learning rates rise from a tenth of their peak. Paper: 10."""
    linear_decay: bool = False
    """Let the learning rates fall to 0 at the end, as lm-human-preferences does. Paper: constant."""
    adam_eps: float = 1e-5
    """Adam's epsilon. lm-human-preferences: 1e-5."""
    max_grad_norm: float = 1.0
    """Largest L2 norm of a model's gradient in one step; 0 does not clip."""
    value_warmup_updates: int = 1
    """Updates before the first, in which only the value model learns, on episodes of the unchanged policy."""
    value_warmup_epochs: int = 2
    """Passes over the episodes of each of those updates."""
    kl_coef: float = 0.02
    """beta of InstructGPT Eq. 2: score given up per nat of KL(policy || reference). Paper: 0.02."""
    target_kl: float = 0.0
    """Nats a completion that an adaptive kl_coef aims at (Ziegler et al.: 6); 0 keeps it fixed, as the paper does."""
    kl_horizon: int = 10_000
    """Episodes over which the adaptive coefficient reacts. Ziegler et al.: 10,000."""
    gamma: float = 1.0
    """Discount per token. Paper: none."""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation."""
    clip_range: float = 0.2
    """The policy's ratio counts up to 1 +- this. Paper: 0.2."""
    value_clip_range: float = 0.2
    """Values may move this far from where they were in one update; 0 does not clip."""
    whiten_rewards: bool = False
    """Divide the per-token rewards by their standard deviation before GAE (summarize-from-feedback's option)."""
    missing_eos_penalty: float = 1.0
    """An answer that never ends scores min(score, 0) less this."""
    temperature: float = 1.0
    """Divides the logits in sampling and in every log-prob: policy, old policy, reference. Paper: 1."""
    ptx_coef: float = 0.0
    """gamma of InstructGPT Eq. 2: weight of the pre-training loss (PPO-ptx); 0 is plain PPO. Paper: 27.8, in reductions
    it does not print. Ours are means over tokens: start at 0.1 to 0.2 and look whether loss/ptx stays flat."""
    ptx_ratio: float = 8.0
    """Pre-training windows per episode. Paper: 8 times as many examples as episodes."""
    ptx_context_length: int = 256
    """Tokens of one pre-training window."""
    ema_decay: float = 0.992
    """Decay of the moving average of the policy's weights, per optimizer step; 0 keeps none. Paper: 0.992."""
    ship_ema: bool = True
    """Save the moving average as the policy (and measure its KL); false saves the last weights."""
    seed: int = 0
    """Of prompt order, sampling, minibatches and pre-training windows."""

    def __post_init__(self) -> None:
        require_positive(
            self, "num_updates", "rollout_batch_size", "minibatch_size", "microbatch_tokens", "ppo_epochs",
            "learning_rate", "value_learning_rate", "kl_horizon", "clip_range", "temperature", "missing_eos_penalty",
        )  # fmt: skip
        require_divides(self, "rollout_batch_size", by="minibatch_size")
        if self.ptx_coef:
            require_positive(self, "ptx_ratio", "ptx_context_length")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("`ema_decay` must be at least 0 and below 1", found=str(self.ema_decay))

    @property
    def total_updates(self) -> int:
        """Updates with the value model's warm-up."""
        return self.value_warmup_updates + self.num_updates

    @property
    def steps_per_update(self) -> int:
        """Optimizer steps of the policy in one update."""
        return self.ppo_epochs * self.rollout_batch_size // self.minibatch_size

    @property
    def ptx_batch_size(self) -> int:
        """Pre-training windows per optimizer step, summed over all ranks."""
        return max(1, round(self.ptx_ratio * self.minibatch_size))


class PPOLearner:
    """Policy and value model in training: weights, optimizers, moving average, KL coefficient."""

    def __init__(
        self,
        policy: Any,
        value_model: Any,
        settings: PPOSettings,
        *,
        pretraining: PretrainingBatches | None = None,
        policy_loss: PolicyLoss = ppo_policy_loss,
        advantage: AdvantageFunction = gae,
        tolerance: float = 1e-4,
    ) -> None:
        """
        Args:
            policy: nn.Module that is a `LanguageModel`; its trainable parameters learn.
            value_model: nn.Module that has `TokenValues`; its trainable parameters learn, with their own optimizer.
            pretraining: windows for the ptx loss; `settings.ptx_batch_size` a batch. Needed if ptx_coef > 0.
            policy_loss, advantage: stand in for `ppo_policy_loss` and `gae`.
            tolerance: how far the first minibatch's mean ratio may be from 1; float32 needs 1e-4.
        """
        self.policy, self.value_model, self.settings = policy.eval(), value_model.eval(), settings  # dropout off
        self.pretraining, self.policy_loss, self.advantage = pretraining, policy_loss, advantage
        self.tolerance = tolerance
        self.kl_coef = settings.kl_coef
        self._policy = self._learner("policy", policy, settings.learning_rate)
        self._value = self._learner("value model", value_model, settings.value_learning_rate)
        self.ema = Ema(policy, settings.ema_decay) if settings.ema_decay else None

    def _learner(self, name: str, model: nn.Module, learning_rate: float) -> Learner:
        optimizer = build_optimizer(
            model, name=self.settings.optimizer, lr=learning_rate, betas=(0.9, 0.95), eps=self.settings.adam_eps
        )
        return Learner(name, [p for p in model.parameters() if p.requires_grad], optimizer)

    def batch(self, rollouts: Rollouts) -> tuple[PPOBatch, Tensor, Tensor]:
        """What to learn from episodes: the batch, its rewards_BT, and the scores_B after the rule for missing ends."""
        settings, mask_BT = self.settings, rollouts.mask_BT
        scores_B = scores_with_eos_rule(
            rollouts.scores_B, rollouts.has_eos_B, missing_eos_penalty=settings.missing_eos_penalty
        )
        rewards_BT = kl_shaped_rewards(
            scores_B, rollouts.logprobs_BT, rollouts.ref_logprobs_BT, mask_BT, kl_coef=self.kl_coef
        )
        if settings.whiten_rewards:
            rewards_BT = whiten(rewards_BT, mask_BT, shift_mean=False, all_ranks_sum=distributed.all_reduce_sum)
        advantages_BT, returns_BT = self.advantage(
            rewards_BT, rollouts.values_BT, mask_BT, gamma=settings.gamma, lam=settings.gae_lambda
        )
        batch = PPOBatch(
            ids_BT=rollouts.ids_BT,
            mask_BT=mask_BT,
            logprobs_BT=rollouts.logprobs_BT,
            values_BT=rollouts.values_BT,
            advantages_BT=whiten(advantages_BT, mask_BT, all_ranks_sum=distributed.all_reduce_sum),
            returns_BT=returns_BT,
            lengths_B=rollouts.lengths_B,
        )
        return batch, rewards_BT, scores_B

    def learn(self, batch: PPOBatch, *, update: int) -> dict[str, float]:
        """All epochs and minibatches of one update; metrics are means over the minibatches.

        Args:
            update: counts from 0, the value model's warm-up first.
        """
        settings = self.settings
        policy_update = update - settings.value_warmup_updates
        warming_up = policy_update < 0
        multiplier = 1.0
        if not warming_up:
            multiplier = learning_rate_multiplier(
                policy_update,
                warmup_updates=settings.warmup_updates,
                num_updates=settings.num_updates,
                linear_decay=settings.linear_decay,
            )
        set_lr(self._policy.optimizer, multiplier)
        set_lr(self._value.optimizer, multiplier)
        totals: defaultdict[str, float] = defaultdict(float)
        count = 0
        for rows in self._minibatches(update, settings.value_warmup_epochs if warming_up else settings.ppo_epochs):
            parts = list(batch.rows(rows).microbatches(settings.microbatch_tokens)) if len(rows) else []
            num_tokens = distributed.all_reduce_sum(batch.mask_BT[rows].sum())
            stats = self._value_step(parts, num_tokens, warming_up)
            if not warming_up:
                step = policy_update * settings.steps_per_update + count
                stats |= self._policy_step(parts, num_tokens, step, batch.ids_BT.device)
            for name, value in stats.items():
                totals[name] += value
            count += 1
        return {name: total / count for name, total in totals.items()} | {"lr": multiplier, "warming_up": warming_up}

    def _minibatches(self, update: int, epochs: int) -> Iterator[Tensor]:
        for epoch in range(epochs):
            yield from minibatch_rows(
                self.settings.rollout_batch_size,
                self.settings.minibatch_size,
                seed=self.settings.seed,
                update=update,
                epoch=epoch,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
            )

    def _value_step(self, parts: list[PPOBatch], num_tokens: Tensor, warming_up: bool) -> dict[str, float]:
        settings = self.settings
        free = warming_up or settings.value_clip_range == 0
        stats = value_gradients(
            self.value_model,
            parts,
            num_tokens=num_tokens,
            value_clip_range=math.inf if free else settings.value_clip_range,
        )
        stats = all_ranks(stats)
        return stats | {"value/grad_norm": optimizer_step(self._value, max_grad_norm=settings.max_grad_norm)}

    def _policy_step(
        self, parts: list[PPOBatch], num_tokens: Tensor, step: int, device: torch.device
    ) -> dict[str, float]:
        settings = self.settings
        stats = policy_gradients(
            self.policy,
            parts,
            num_tokens=num_tokens,
            clip_range=settings.clip_range,
            temperature=settings.temperature,
            policy_loss=self.policy_loss,
        )
        if settings.ptx_coef:
            assert self.pretraining is not None
            inputs_BT, targets_BT = self.pretraining.batch(
                step, rank=distributed.rank(), world_size=distributed.world_size()
            )
            stats |= pretraining_gradients(
                self.policy,
                inputs_BT.to(device),
                targets_BT.to(device),
                num_tokens=self.pretraining.tokens_per_batch,
                ptx_coef=settings.ptx_coef,
                microbatch_tokens=settings.microbatch_tokens,
            )
        stats = all_ranks(stats)
        if step == 0 and "val/ratio" in stats:
            ratio = stats["val/ratio"]
            assert abs(ratio - 1) < self.tolerance, (
                f"first minibatch: ratio {ratio:.6f}, not 1: old and new log-probs differ"
            )
        stats["policy/grad_norm"] = optimizer_step(self._policy, max_grad_norm=settings.max_grad_norm)
        if self.ema is not None:
            self.ema.update(self.policy)
        return stats

    def adapt_kl_coef(self, observed_kl: float) -> None:
        """Move kl_coef towards `target_kl`, if there is one. `observed_kl`: nats a completion, of this update."""
        if self.settings.target_kl:
            self.kl_coef = adapted_kl_coef(
                self.kl_coef,
                observed_kl=observed_kl,
                target_kl=self.settings.target_kl,
                num_episodes=self.settings.rollout_batch_size,
                horizon=self.settings.kl_horizon,
            )

    def state_dict(self) -> dict[str, Any]:
        """All that learning needs to go on bit for bit: tensors and primitives."""
        return {
            "policy": self.policy.state_dict(),
            "value_model": self.value_model.state_dict(),
            "policy_optimizer": self._policy.optimizer.state_dict(),
            "value_optimizer": self._value.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "kl_coef": self.kl_coef,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self.value_model.load_state_dict(state["value_model"])
        self._policy.optimizer.load_state_dict(state["policy_optimizer"])
        self._value.optimizer.load_state_dict(state["value_optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.kl_coef = state["kl_coef"]
