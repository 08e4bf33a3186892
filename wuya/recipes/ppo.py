"""InstructGPT step 3: improve the SFT policy against the reward model with PPO or PPO-ptx (arXiv:2203.02155, 3.5, C.4).

    wuya ppo --policy runs/sft --reward runs/rm --prompts prompts.jsonl --out runs/ppo
    wuya ppo ... --ptx_coef 1 --ptx_shards data/pretraining          # PPO-ptx
    wuya ppo ... --reward my.py:politeness --advantage my.py:fn --policy_loss my.py:fn
    wuya ppo ... --evaluation_prompts heldout.jsonl --evaluation_reward runs/other_rm --choose best

Reads prompts (JSONL), the policy, a reward; writes runs/ppo/{config.yaml, metrics.jsonl, samples.jsonl, summary.json,
report.html, checkpoints/step_000200/}, and rollouts/ with one row a token if asked.

Differs from the paper: (1) completions that never end score min(score, 0) - missing_eos_penalty, the paper is silent;
(2) the value model first learns alone for `value_warmup_updates`: as a copy of the reward model it has never seen a
return; (3) reductions of the pre-training loss, which the paper does not print, are means over tokens; (4) the KL
coefficient may adapt (Ziegler et al. 2019, 2.2); (5) gradients are clipped.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from wuya.config import require_at_least_zero, require_divides, require_positive
from wuya.data.batches import PretrainingBatches, minibatch_rows
from wuya.data.shards import pretraining_batches
from wuya.errors import ConfigError
from wuya.evals.policy_run import PolicyRun, kl_tolerance
from wuya.losses.ppo import adapted_kl_coef, gae, kl_shaped_rewards, ppo_policy_loss, scores_with_eos_rule, whiten
from wuya.models.stored import BaseDtype
from wuya.rlhf.ppo_models import ppo_models
from wuya.rlhf.ppo_update import PolicyLoss, PPOBatch, policy_gradients, pretraining_gradients, value_gradients
from wuya.rlhf.rollout_engine import episode_source
from wuya.rlhf.rollout_files import dump_rollouts
from wuya.rlhf.trained_model import TrainedModel
from wuya.rlhf.user_functions import load_function
from wuya.training import distributed
from wuya.training.early_choice import require_held_out_settings
from wuya.training.ema import ema_initial_share
from wuya.training.metrics import means
from wuya.training.optimizer import set_lr
from wuya.training.rates import peak_rate
from wuya.training.schedule import policy_gradient_multiplier


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig:
    """InstructGPT step 3: PPO or PPO-ptx against a reward model, with a KL penalty towards the SFT policy."""

    policy: Path
    """SFT checkpoint: the starting policy and, frozen, the reference policy."""
    reward: str
    """What scores completions: a reward model's folder (ours or a Hugging Face sequence classifier with one label), or
    `my.py:fn`, (prompts, completions) as lists of text -> one number per completion. `a,b` is an ensemble: the mean."""
    prompts: Path
    """JSONL of prompts to answer; held-out prompts have no place here (see `evaluation_prompts`)."""
    out: Path
    """Run folder."""
    value_model: str = ""
    """Reward model to start the value model from. Empty: `reward`, as in the paper, or, when that is no model of ours,
    the policy's trunk with a head of zeros."""
    ptx_shards: Path | None = None
    """Folder of pre-training shards for PPO-ptx; needed when ptx_coef is above 0."""
    lora_alpha: float = 32.0
    """LoRA scale: adapters are multiplied by alpha / rank. Without effect at rank 0."""
    lora_targets: tuple[str, ...] = ("qkv", "out", "gate_up", "up", "down")
    """Linear layers that get adapters. Without effect at rank 0."""
    base_dtype: BaseDtype = "float32"
    """How the frozen weights under adapters are stored. bfloat16: half the memory, and the same numbers where `dtype`
    is bfloat16. int8, nf4: 8 and 4 bits (QLoRA), with `pip install 'wuya[quantized]'`. Without effect at rank 0."""
    lora_layers: int = 0
    """Put adapters on the top N blocks only, where the backward pass then ends; models that share a trunk read the
    blocks below once. 0: on all. Without effect at rank 0."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: far less memory for a third more time."""
    max_prompt_tokens: int = 1024
    """Prompts longer than this are left out and counted. Paper: 1,000."""
    max_tokens: int = 256
    """Maximum tokens per completion, its end token included. Paper: 1,000."""
    max_batch_size: int = 256
    """Maximum completions decoded at once; fewer where their keys and values would not fit (see `cache_gib`)."""
    cache_gib: float = 0.0
    """GiB of keys and values while sampling; 0 is half of the memory that is free at the start and that training will
    not need. What is sampled does not depend on it."""
    max_kl: float = 0.0
    """Stop early when objective/kl, in nats per completion, is above this; 0 never stops."""
    final_kl_prompts: int = 256
    """Completions sampled at the end to measure the KL of exactly the weights that are saved; 0 skips it."""
    advantage: str = ""
    """`my.py:fn` in place of GAE: (rewards_BT, values_BT, mask_BT, *, gamma, lam) -> (advantages_BT, returns_BT)."""
    policy_loss: str = ""
    """`my.py:fn` in place of the clipped objective; same signature as losses.ppo.ppo_policy_loss."""
    dump_rollouts: bool = False
    """Write every update's episodes to rollouts/, one parquet row per token."""
    show_samples_every: int = 10
    """Updates between three printed samples with score and KL; 0 prints none."""
    save_every: int = 50
    """Updates between checkpoints; 0 saves only at the end."""
    keep_last_n: int = 2
    """Newest checkpoints to keep; 0 keeps all."""
    resume: bool = False
    """Resume from the newest checkpoint in `out`."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; auto is bfloat16 where the hardware has it."""
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
    lora_rank: int = 0
    """Rank of LoRA adapters: one frozen trunk, with adapters as policy and value model (and as reward model, if trained
    with adapters on the same trunk), without as reference. 0 trains all weights of separate models."""
    learning_rate: float = 0.0
    """Peak learning rate of the policy. 0 chooses: 8e-6 for all weights, ten times that for LoRA adapters. The paper
    scans 2.55e-6 to 2.55e-5; plain PPO diverges above 8.05e-6."""
    value_learning_rate: float = 0.0
    """Peak learning rate of the value model. 0 chooses: 9e-6 for all weights (paper), ten times that for adapters."""
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
    """Nats per completion that an adaptive kl_coef aims at (Ziegler et al.: 6); 0 keeps it fixed, as in the paper."""
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
    """A completion that never ends scores min(score, 0) minus this."""
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
    """Seeds prompt order, sampling, minibatches and pre-training windows."""
    evaluation_prompts: Path | None = None
    """JSONL of held-out prompts, none of them among `prompts`: every `evaluation_every` updates the policy that would
    ship answers them, with the same seeds each time."""
    evaluation_every: int = 20
    """Updates between evaluations on `evaluation_prompts`; 0: only before the first and after the last update."""
    num_evaluation_prompts: int = 256
    """Held-out prompts answered each time, or all there are."""
    evaluation_reward: str = ""
    """Another judge of the held-out completions, in the form of `reward`: the policy is optimised against `reward`,
    whose own score says little about over-optimisation."""
    choose: Literal["last", "best"] = "last"
    """Which policy ships. last: the paper's. best: among the evaluated ones with KL up to `max_choice_kl` the one with
    the highest mean held-out score, by `evaluation_reward` if given, else by `reward`; ties go to the earlier."""
    max_choice_kl: float = 0.0
    """With choose=best: maximum KL to the reference, nats per completion; 0 sets no limit."""

    def __post_init__(self) -> None:
        require_positive(self, "num_updates", "rollout_batch_size", "minibatch_size", "microbatch_tokens", "ppo_epochs",
                         "kl_horizon", "clip_range", "temperature", "missing_eos_penalty")  # fmt: skip
        require_at_least_zero(self, "learning_rate", "value_learning_rate")
        require_divides(self, "rollout_batch_size", by="minibatch_size")
        require_held_out_settings(self)
        if self.ptx_coef:
            require_positive(self, "ptx_ratio", "ptx_context_length")
            if self.ptx_shards is None:
                raise ConfigError("`ptx_coef` is above 0, but there is no pre-training text",
                                  hint="add `--ptx_shards data/pretraining`")  # fmt: skip
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


def run(config: PPOConfig) -> Path:
    """Train; returns the run folder, whose newest checkpoint is the policy."""
    # 1. Four models: two learn, two are frozen
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    models = ppo_models(
        config.policy, config.reward, config.value_model, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha,
        lora_targets=config.lora_targets, lora_layers=config.lora_layers, base_dtype=config.base_dtype,
        activation_checkpointing=config.activation_checkpointing, seed=config.seed, device=device, dtype=dtype,
        microbatch_tokens=config.microbatch_tokens,
    )  # fmt: skip
    policy, value_model = trained_models(models.policy, models.value_model, config)
    # 2. Prompts with the sampler, pre-training text, the user's functions
    source = episode_source(
        models, config.prompts, max_prompt_tokens=config.max_prompt_tokens, max_tokens=config.max_tokens,
        max_batch_size=config.max_batch_size, cache_gib=config.cache_gib, temperature=config.temperature,
        seed=config.seed, microbatch_tokens=config.microbatch_tokens, device=device, dtype=dtype,
    )  # fmt: skip
    pretraining = None if not config.ptx_coef or config.ptx_shards is None else pretraining_batches(
        config.ptx_shards, models.tokenizer, ptx_context_length=config.ptx_context_length, seed=config.seed,
        batch_size=config.ptx_batch_size, context_length=models.engine_model.config.context_length,
    )  # fmt: skip
    advantage = load_function(config.advantage) if config.advantage else gae
    policy_loss = load_function(config.policy_loss) if config.policy_loss else ppo_policy_loss
    # 3. The algorithm
    with PolicyRun(
        config, source, {"policy": policy, "value_model": value_model}, verb="ppo", export=models.export,
        num_updates=config.total_updates, untrained_updates=config.value_warmup_updates,
        ship_average=config.ship_ema, provenance={"ptx_coef": config.ptx_coef},
    ) as run:  # fmt: skip
        for update in run.updates():
            rollouts = source.sample(update, config.rollout_batch_size)
            mask_BT, old_values_BT = rollouts.mask_BT, rollouts.old_values_BT
            old_logprobs_BT, ref_logprobs_BT = rollouts.old_logprobs_BT, rollouts.ref_logprobs_BT
            scores_B = scores_with_eos_rule(
                rollouts.scores_B, rollouts.has_eos_B, missing_eos_penalty=config.missing_eos_penalty
            )
            rewards_BT = kl_shaped_rewards(scores_B, old_logprobs_BT, ref_logprobs_BT, mask_BT, kl_coef=run.kl_coef)
            if config.whiten_rewards:
                rewards_BT = whiten(rewards_BT, mask_BT, shift_mean=False, all_ranks_sum=distributed.all_reduce_sum)
            advantages_BT, returns_BT = advantage(rewards_BT, old_values_BT, mask_BT,
                                                  gamma=config.gamma, lam=config.gae_lambda)  # fmt: skip
            advantages_BT = whiten(advantages_BT, mask_BT, all_ranks_sum=distributed.all_reduce_sum)
            batch = PPOBatch(rollouts.ids_BT, mask_BT, old_logprobs_BT, old_values_BT, advantages_BT, returns_BT,
                             rollouts.lengths_B)  # fmt: skip
            metrics = run.measure(update, rollouts, scores_B, returns_BT)
            if not run.stopped:
                with source.autocast():
                    metrics |= learn(policy, value_model, batch, config, update=update, pretraining=pretraining,
                                     policy_loss=policy_loss, tolerance=kl_tolerance(dtype))  # fmt: skip
                if config.target_kl:
                    run.kl_coef = adapted_kl_coef(
                        run.kl_coef, observed_kl=metrics["objective/kl"], target_kl=config.target_kl,
                        num_episodes=config.rollout_batch_size, horizon=config.kl_horizon,
                    )  # fmt: skip
            if config.dump_rollouts:
                dump_rollouts(config.out / "rollouts", rollouts, rewards_BT=rewards_BT, advantages_BT=advantages_BT,
                              returns_BT=returns_BT, decode=source.tokenizer.decode, update=update + 1,
                              prompt_names=source.names(update, config.rollout_batch_size))  # fmt: skip
            run.end(update, rollouts, metrics)
        # 4. The KL of exactly the weights that ship
        share = ema_initial_share(config.ema_decay, config.num_updates * config.steps_per_update)
        run.finish(config.final_kl_prompts, names=("reencoded_share",), ema_initial_share=share)
    return config.out


def trained_models(policy: nn.Module, value_model: nn.Module, config: PPOConfig) -> tuple[TrainedModel, TrainedModel]:
    """Policy and value model with an optimizer each, and the policy's moving average."""
    rate = peak_rate(config.learning_rate, full=8e-6, lora_rank=config.lora_rank)
    value_rate = peak_rate(config.value_learning_rate, full=9e-6, lora_rank=config.lora_rank)
    make = partial(TrainedModel, optimizer=config.optimizer, adam_eps=config.adam_eps)
    trained_policy = make("policy", policy, learning_rate=rate, ema_decay=config.ema_decay)
    return trained_policy, make("value model", value_model, learning_rate=value_rate)


def learn(
    policy: TrainedModel,
    value_model: TrainedModel,
    batch: PPOBatch,
    config: PPOConfig,
    *,
    update: int,
    pretraining: PretrainingBatches | None = None,
    policy_loss: PolicyLoss = ppo_policy_loss,
    tolerance: float = 1e-4,
) -> dict[str, float]:
    """Take one optimizer step per minibatch, for all epochs of an update; metrics are means over the minibatches.

    Args:
        update: counts from 0, the value model's warm-up first, in which only the value model learns.
        tolerance: how far the first minibatch's mean ratio may be from 1; float32 needs 1e-4.
    """
    policy_update = update - config.value_warmup_updates
    warming_up = policy_update < 0
    multiplier = 1.0 if warming_up else policy_gradient_multiplier(
        policy_update, warmup_updates=config.warmup_updates, num_updates=config.num_updates,
        linear_decay=config.linear_decay,
    )  # fmt: skip
    rate, value_rate = set_lr(policy.optimizer, multiplier), set_lr(value_model.optimizer, multiplier)
    value_clip_range = math.inf if warming_up or not config.value_clip_range else config.value_clip_range
    epochs = config.value_warmup_epochs if warming_up else config.ppo_epochs
    minibatches = minibatch_rows(
        config.rollout_batch_size, config.minibatch_size, seed=config.seed, update=update, epochs=epochs,
        rank=distributed.rank(), world_size=distributed.world_size(),
    )  # fmt: skip
    rows_of_stats = []
    for number, rows in enumerate(minibatches):
        parts = batch.microbatches(rows, config.microbatch_tokens)
        num_tokens = distributed.all_reduce_sum(batch.mask_BT[rows].sum())
        stats = value_gradients(value_model.model, parts, num_tokens=num_tokens, value_clip_range=value_clip_range)
        stats["value/grad_norm"] = value_model.step(max_grad_norm=config.max_grad_norm)
        if not warming_up:
            stats |= policy_gradients(policy.model, parts, num_tokens=num_tokens, clip_range=config.clip_range,
                                      temperature=config.temperature, policy_loss=policy_loss)  # fmt: skip
            if policy_update == 0 and number == 0 and (ratio := stats.get("val/ratio")) is not None:
                assert abs(ratio - 1) < tolerance, f"first ratio {ratio:.6f}, not 1: old and new log-probs differ"
            if pretraining is not None:
                step = policy_update * config.steps_per_update + number
                stats |= pretraining_gradients(policy.model, pretraining, step=step, ptx_coef=config.ptx_coef,
                                               microbatch_tokens=config.microbatch_tokens)  # fmt: skip
            stats["policy/grad_norm"] = policy.step(max_grad_norm=config.max_grad_norm)
        rows_of_stats.append(stats)
    return means(rows_of_stats) | {"lr": value_rate if warming_up else rate, "warming_up": warming_up}
