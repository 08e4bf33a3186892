"""How much memory PPO needs: policy and value model in training, reference and reward model, their caches and batches.

As recipes/ppo.py runs it, in float32: either four separate models, or one frozen trunk with LoRA adapters as policy and
value model and without them as reference. The peak is what stays (weights, optimizer states, moving average) plus the
largest moment: sampling, scoring, a policy step, a value step, or saving.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from wuya.models.config import GPTConfig
from wuya.planning.planner import (
    FLOAT,
    OptimizerKind,
    StateBytes,
    kv_cache_bytes,
    lora_parameters,
    prefill_bytes,
    rotary_table,
    saving_bytes,
    state_bytes,
    tokenizer_bytes,
    training_memory,
)

LOGITS_AT_ONCE = 1 << 25
"""Logits that are alive together in a pass over completions (training/token_logprobs.py)."""


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """One of the models of PPO."""

    role: str
    weights: float
    gradients: float
    optimizer: float
    average: float = 0.0
    """Moving average of the policy's weights."""

    @property
    def resident(self) -> float:
        """What stays between steps: gradients do not."""
        return self.weights + self.optimizer + self.average


@dataclass(frozen=True, slots=True)
class PPOMemory:
    """Bytes of PPO; `peak` is what stays plus the largest of the moments."""

    models: tuple[ModelBytes, ...]
    moments: dict[str, float]
    """What each part of an update needs besides what stays."""
    tokenizer: float = 0.0

    @property
    def resident(self) -> float:
        """What stays."""
        return self.tokenizer + sum(model.resident for model in self.models)

    @property
    def peak(self) -> float:
        """The largest moment of an update."""
        return self.resident + max(self.moments.values())


def ppo_memory(
    config: GPTConfig,
    *,
    reward: GPTConfig | None = None,
    prompt: int,
    completion: int,
    microbatch_tokens: int = 8192,
    rollout_batch_size: int = 512,
    max_batch_size: int = 256,
    cache_bytes: float = math.inf,
    optimizer: OptimizerKind = "adamw",
    ema: bool = True,
    lora_rank: int = 0,
    reward_on_trunk: bool = False,
) -> PPOMemory:
    """Plan PPO of one policy.

    Args:
        reward: architecture of the reward and value model, when it differs from the policy's.
        prompt, completion: tokens of the longest episode.
        microbatch_tokens: positions of one forward and backward pass.
        max_batch_size: answers sampled at once.
        cache_bytes: keys and values held at once, `cache_gib` of the recipe; fewer answers where they don't fit.
        lora_rank: one frozen trunk with adapters of this rank; 0 trains separate models.
        reward_on_trunk: with adapters, the reward model is one of them too.
    """
    critic = config if reward is None or lora_rank else reward
    state = state_bytes(optimizer, "float32")
    if lora_rank:
        models = _on_one_trunk(config, reward or config, lora_rank, state, ema=ema, reward_on_trunk=reward_on_trunk)
    else:
        models = _separate(config, critic, state, ema=ema)
    length = prompt + completion
    rows = max(1, min(microbatch_tokens // length, rollout_batch_size))
    counted = rows * completion
    trained: Literal["adamw", "muon"] = "muon" if optimizer == "muon" else "adamw"
    policy = training_memory(
        config, batch_size=rows, tokens=length, optimizer=trained, lora_rank=lora_rank, read=counted, chunked=False,
        loss_tokens=min(counted, max(1, LOGITS_AT_ONCE // config.vocab_size)),
    )  # fmt: skip
    value = training_memory(
        critic, batch_size=rows, tokens=length, optimizer=trained, lora_rank=lora_rank, read=counted, loss_tokens=0
    )
    cached = int(min(max_batch_size, rollout_batch_size, cache_bytes // kv_cache_bytes(config, length=length)))
    sampling = kv_cache_bytes(config, length=length, batch_size=max(1, cached))
    reading = prefill_bytes(config, tokens=max(1, cached) * prompt)
    forward = policy.temporary + FLOAT * 2 * min(counted * config.vocab_size, LOGITS_AT_ONCE)
    moments = {
        "sampling": sampling + max(reading, FLOAT * 2.0 * max(1, cached) * config.vocab_size),
        "scoring": forward,
        "policy step": policy.peak - policy.weights - policy.optimizer,
        "value step": value.peak - value.weights - value.optimizer,
        "saving": float(_saving(config, lora_rank, num_adapters=3 if reward_on_trunk else 2, ema=ema)),
    }
    return PPOMemory(models, moments, tokenizer_bytes(config))


def _saving(config: GPTConfig, lora_rank: int, *, num_adapters: int, ema: bool) -> int:
    """Writing the policy, and the weights of the moment kept aside while the average stands in their place."""
    trained = lora_parameters(config, lora_rank) if lora_rank else config.num_parameters
    return saving_bytes(config, lora_rank=lora_rank, num_adapters=num_adapters) + FLOAT * trained * ema


def _separate(config: GPTConfig, critic: GPTConfig, state: StateBytes, *, ema: bool) -> tuple[ModelBytes, ...]:
    P, R = config.num_parameters, critic.num_parameters + critic.model_dim
    table, critic_table = FLOAT * rotary_table(config), FLOAT * rotary_table(critic)
    return (
        ModelBytes("policy", state.weights * P + table, state.gradients * P, state.optimizer * P, FLOAT * P * ema),
        ModelBytes("value model", state.weights * R + critic_table, state.gradients * R, state.optimizer * R),
        ModelBytes("reference", FLOAT * P + table, 0, 0),
        ModelBytes("reward model", FLOAT * R + critic_table, 0, 0),
    )


def _on_one_trunk(
    config: GPTConfig, reward: GPTConfig, rank: int, state: StateBytes, *, ema: bool, reward_on_trunk: bool
) -> tuple[ModelBytes, ...]:
    adapter = lora_parameters(config, rank)
    head = config.model_dim
    separate = ModelBytes("reward model", FLOAT * (reward.num_parameters + reward.model_dim), 0, 0)
    on_trunk = ModelBytes("reward model (adapter)", FLOAT * (adapter + head), 0, 0)
    policy = ModelBytes(
        "policy (adapter)", state.weights * adapter, state.gradients * adapter, state.optimizer * adapter
    )
    value = adapter + head
    return (
        ModelBytes("trunk = reference", FLOAT * (config.num_parameters + rotary_table(config)), 0, 0),
        replace(policy, average=float(FLOAT * adapter * ema)),
        ModelBytes("value model (adapter)", state.weights * value, state.gradients * value, state.optimizer * value),
        on_trunk if reward_on_trunk else separate,
    )
