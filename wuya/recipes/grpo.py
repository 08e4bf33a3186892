"""Step 3 without a value model: answers to one prompt are each other's baseline. RLOO, GRPO, Dr. GRPO and DAPO.

    wuya grpo --policy runs/sft --reward runs/rm --prompts prompts.jsonl --out runs/grpo
    wuya grpo --algorithm rloo ...        # Ahmadian et al. 2024 (arXiv:2402.14740)
    wuya grpo --algorithm dr_grpo ...     # Liu et al. 2025 (arXiv:2503.20783)
    wuya grpo --config configs/grpo-dapo.yaml ...   # Yu et al. 2025 (arXiv:2503.14476)

Reads prompts (JSONL), the policy, a reward (a model's folder or `my.py:fn`); writes what `wuya ppo` writes:
runs/grpo/{config.yaml, metrics.jsonl, samples.jsonl, summary.json, report.html, checkpoints/}.

| algorithm | advantage of an answer | ratio | KL | sum over tokens |
|---|---|---|---|---|
| rloo | score less the mean of the others | of the whole answer | in the score | - |
| grpo | (score - mean) / std of the group | of each token | k3 in the loss | divided by the answer's length |
| dr_grpo | score - mean | of each token | k3 in the loss | divided by max_tokens |
| dapo | (score - mean) / std of the group | of each token | k3 in the loss | of all answers, by all their tokens |

DAPO's other parts work with every algorithm: clip-higher (`--clip_range_high`), dynamic sampling (`--max_resampling`),
which replaces groups whose answers all score the same, and no KL penalty (`--kl_coef 0`).

Differs from the papers: answers that never end score min(score, 0) - missing_eos_penalty, as in `wuya ppo`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from wuya.config import require_at_least_zero, require_divides, require_positive
from wuya.errors import ConfigError
from wuya.evals.policy_run import PolicyRun, kl_tolerance
from wuya.losses.groups import grpo_advantages, grpo_policy_loss, rloo_advantages, rloo_policy_loss
from wuya.losses.ppo import scores_with_eos_rule
from wuya.models.stored import BaseDtype
from wuya.rlhf.answer_rows import LONGEST_ROW
from wuya.rlhf.dynamic_sampling import SampledGroups, sample_groups
from wuya.rlhf.episodes import EpisodeSource
from wuya.rlhf.group_update import GroupBatch, GroupPolicyLoss, group_batch, group_gradients, group_minibatches
from wuya.rlhf.ppo_models import models_without_values, recompute_activations
from wuya.rlhf.rollout_engine import episode_source
from wuya.rlhf.rollouts import Rollouts
from wuya.rlhf.trained_model import TrainedModel
from wuya.training import distributed
from wuya.training.early_choice import require_held_out_settings
from wuya.training.metrics import means
from wuya.training.optimizer import set_lr
from wuya.training.rates import peak_rate
from wuya.training.schedule import policy_gradient_multiplier

Advantage = Callable[[Tensor, Tensor], Tensor]
"""(scores_PG after the rule for missing ends, kl_PG) -> advantages_PG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOConfig:
    """RLOO, GRPO, Dr. GRPO or DAPO against a reward model, with a KL penalty towards the SFT policy."""

    policy: Path
    """SFT checkpoint: the starting policy and, frozen, the reference policy."""
    reward: str
    """What scores answers: a reward model's folder (ours or a Hugging Face sequence classifier with one label), or a
    Python function `my.py:fn` of (prompts, completions) as lists of text, returning one number a completion. Several
    with commas between are an ensemble: their mean."""
    prompts: Path
    """JSONL of prompts to answer; held-out prompts have no place here (see `evaluation_prompts`)."""
    out: Path
    """Run folder."""
    algorithm: Literal["grpo", "rloo", "dr_grpo", "dapo"] = "grpo"
    """How a group of scores becomes advantages and a loss; see the table above."""
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
    lora_rank: int = 0
    """Rank of LoRA adapters to train in place of all weights; the reference is then the same trunk. 0 trains all."""
    learning_rate: float = 0.0
    """Peak learning rate. 0 chooses: 1e-6 for all weights (GRPO paper, 7B), ten times that for LoRA adapters. Small
    models bear more."""
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
    clip_range_high: float = 0.0
    """Clip-higher: the ratio counts up to 1 + this instead, and down to 1 - clip_range. 0 clips symmetrically.
    DAPO: 0.28 beside 0.2."""
    max_resampling: int = 0
    """Dynamic sampling: how often other prompts may be sampled in place of groups whose completions all score the same,
    until the batch is full. 0 keeps such groups, which teach nothing. What is sampled in vain costs its time."""
    missing_eos_penalty: float = 1.0
    """An answer that never ends scores min(score, 0) less this, as in PPO."""
    temperature: float = 1.0
    """Divides the logits in sampling and in every log-prob."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, per optimizer step; 0 keeps none. InstructGPT's PPO: 0.992."""
    seed: int = 0
    """Of prompt order, sampling and minibatches."""
    lora_alpha: float = 32.0
    """LoRA scale: adapters are multiplied by alpha / rank. Without effect at rank 0."""
    lora_targets: tuple[str, ...] = ("qkv", "out", "gate_up", "up", "down")
    """Linear layers that get adapters. Without effect at rank 0."""
    base_dtype: BaseDtype = "float32"
    """How the frozen weights under adapters are stored. bfloat16: half the memory, and the same numbers where `dtype`
    is bfloat16. int8, nf4: 8 and 4 bits (QLoRA), with `pip install 'wuya[quantized]'`. Without effect at rank 0."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: far less memory for a third more time."""
    max_prompt_tokens: int = 1024
    """Prompts longer than this are left out and counted."""
    max_tokens: int = 256
    """Most tokens of an answer, its end token included."""
    max_batch_size: int = 256
    """Answers decoded at once, at most: fewer where their keys and values would not fit (see `cache_gib`)."""
    cache_gib: float = 0.0
    """GiB of keys and values held while answers are sampled; 0 is half of the memory that is free when the run starts
    and that training will not need. What is sampled does not depend on it."""
    max_kl: float = 0.0
    """Stop early when objective/kl, in nats an answer, is above this; 0 never stops."""
    final_kl_prompts: int = 256
    """Answers sampled at the end to measure the KL of exactly the weights that are saved; 0 skips it."""
    show_samples_every: int = 10
    """Updates between three printed samples with score and KL; 0 prints none."""
    save_every: int = 50
    """Updates between checkpoints; 0 saves only at the end."""
    keep_last_n: int = 2
    """Newest checkpoints to keep; 0 keeps all."""
    resume: bool = False
    """Go on from the newest checkpoint in `out`."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; auto is bfloat16 where the hardware has it."""
    evaluation_prompts: Path | None = None
    """JSONL of held-out prompts, none of them among the training prompts: every `evaluation_every` updates the policy
    that would ship answers them, the same prompts with the same seeds each time."""
    evaluation_every: int = 20
    """Updates between evaluations on `evaluation_prompts`; 0: only before the first and after the last update."""
    num_evaluation_prompts: int = 256
    """Held-out prompts answered each time, or all there are."""
    evaluation_reward: str = ""
    """Another judge of the held-out answers, named as `reward` is: a reward model trained on other people's rankings,
    or a function. The policy is optimised against `reward`, whose own score says little about over-optimisation."""
    choose: Literal["last", "best"] = "last"
    """Which policy ships. last: the paper's. best: of the evaluated ones with KL up to `max_choice_kl` that with the
    highest mean held-out score, by `evaluation_reward` if there is one, else by `reward`; ties go to the earlier."""
    max_choice_kl: float = 0.0
    """With choose=best: nats per answer that a policy may be away from the reference; 0 sets no limit."""

    def __post_init__(self) -> None:
        require_positive(self, "num_updates", "rollout_batch_size", "minibatch_size", "microbatch_tokens", "num_epochs",
                         "clip_range", "temperature", "missing_eos_penalty", "max_prompt_tokens", "max_tokens",
                         "max_batch_size")  # fmt: skip
        require_at_least_zero(self, "learning_rate")
        require_divides(self, "rollout_batch_size", by="minibatch_size")
        require_divides(self, "minibatch_size", by="group_size")
        require_held_out_settings(self)
        for name in ("clip_range_high", "max_resampling"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative", found=str(getattr(self, name)))
        if self.group_size < 2:
            raise ConfigError("`group_size` must be at least 2: one completion has nothing to be compared with")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("`ema_decay` must be at least 0 and below 1", found=str(self.ema_decay))

    @property
    def num_prompts(self) -> int:
        """Prompts per update, over all ranks."""
        return self.rollout_batch_size // self.group_size


def run(config: GRPOConfig) -> Path:
    """Train; returns the run folder, whose newest checkpoint is the policy."""
    # 1. The policy, its frozen copy, the reward
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    models = models_without_values(
        config.policy, config.reward, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha,
        lora_targets=config.lora_targets, base_dtype=config.base_dtype, seed=config.seed, device=device, dtype=dtype,
        microbatch_tokens=config.microbatch_tokens,
    )  # fmt: skip
    if config.activation_checkpointing:
        recompute_activations(models)
    policy = trained_policy(models.policy, config)
    # 2. Prompts with the sampler; the algorithm's advantage and loss
    source = episode_source(
        models, config.prompts, num_samples=config.group_size, max_prompt_tokens=config.max_prompt_tokens,
        max_tokens=config.max_tokens, max_batch_size=config.max_batch_size, cache_gib=config.cache_gib,
        temperature=config.temperature, seed=config.seed, microbatch_tokens=config.microbatch_tokens,
        device=device, dtype=dtype,
    )  # fmt: skip
    advantage, policy_loss = algorithm(config)
    # 3. The algorithm
    with PolicyRun(
        config, source, {"policy": policy}, verb="grpo", export=models.export, num_updates=config.num_updates,
        provenance={"algorithm": config.algorithm},
    ) as run:  # fmt: skip
        for update in run.updates():
            groups = sampled_groups(source, config, update)
            scores_B, group = final_scores(groups.kept, config), config.group_size
            advantages_PG = advantage(scores_B.view(-1, group), groups.kept.kl_B.view(-1, group))
            batch = group_batch(groups.kept, advantages_PG)
            metrics = run.measure(update, groups.first, final_scores(groups.first, config)) | groups.counts
            if not run.stopped:
                with source.autocast():
                    metrics |= learn(policy, batch, config, update=update, policy_loss=policy_loss,
                                     max_length=models.engine_model.config.context_length,
                                     tolerance=kl_tolerance(dtype))  # fmt: skip
            run.end(update, groups.first, metrics)
        # 4. The KL of exactly the weights that ship
        num_prompts = config.final_kl_prompts and max(1, config.final_kl_prompts // config.group_size)
        run.finish(num_prompts, algorithm=config.algorithm)
    return config.out


def trained_policy(policy: nn.Module, config: GRPOConfig) -> TrainedModel:
    """The policy with its optimizer and moving average."""
    rate = peak_rate(config.learning_rate, full=1e-6, lora_rank=config.lora_rank)
    return TrainedModel("policy", policy, learning_rate=rate, optimizer=config.optimizer, adam_eps=config.adam_eps,
                        ema_decay=config.ema_decay)  # fmt: skip


def algorithm(config: GRPOConfig) -> tuple[Advantage, GroupPolicyLoss]:
    """The advantage and the loss that `config.algorithm` names, with this config's constants."""
    advantage: Advantage = {
        "rloo": lambda scores_PG, kl_PG: rloo_advantages(scores_PG - config.kl_coef * kl_PG),
        "grpo": lambda scores_PG, kl_PG: grpo_advantages(scores_PG),
        "dr_grpo": lambda scores_PG, kl_PG: grpo_advantages(scores_PG, divide_by_std=False),
        "dapo": lambda scores_PG, kl_PG: grpo_advantages(scores_PG),
    }[config.algorithm]
    return advantage, partial(rloo_loss if config.algorithm == "rloo" else grpo_loss, config=config)


def rloo_loss(
    logprobs_BT: Tensor, batch: GroupBatch, *, num_episodes: float, num_tokens: float, config: GRPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """`losses.groups.rloo_policy_loss` of a batch."""
    return rloo_policy_loss(
        logprobs_BT,
        batch.old_logprobs_BT,
        batch.advantages_B,
        batch.mask_BT,
        clip_range=config.clip_range,
        clip_range_high=config.clip_range_high,
        num_episodes=num_episodes,
    )


def grpo_loss(
    logprobs_BT: Tensor, batch: GroupBatch, *, num_episodes: float, num_tokens: float, config: GRPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """`losses.groups.grpo_policy_loss` of a batch."""
    return grpo_policy_loss(
        logprobs_BT,
        batch.old_logprobs_BT,
        batch.ref_logprobs_BT,
        batch.advantages_B,
        batch.mask_BT,
        clip_range=config.clip_range,
        clip_range_high=config.clip_range_high,
        kl_coef=config.kl_coef,
        constant_length=config.max_tokens if config.algorithm == "dr_grpo" else 0.0,
        num_episodes=num_episodes,
        num_tokens=num_tokens if config.algorithm == "dapo" else None,
    )


def final_scores(rollouts: Rollouts, config: GRPOConfig) -> Tensor:
    """Scores after the rule for missing ends, [B]: what advantages are made of."""
    return scores_with_eos_rule(rollouts.scores_B, rollouts.has_eos_B, missing_eos_penalty=config.missing_eos_penalty)


def sampled_groups(source: EpisodeSource, config: GRPOConfig, update: int) -> SampledGroups:
    """One update's groups; with `max_resampling` those of equal scores are replaced."""
    return sample_groups(
        lambda attempt, rows: source.sample(update, config.num_prompts, attempt=attempt, rows=rows),
        partial(final_scores, config=config),
        group_size=config.group_size,
        num_groups=len(distributed.local_rows(config.num_prompts)),
        max_resampling=config.max_resampling,
        pad_id=source.tokenizer.pad_id,
    )


def learn(
    policy: TrainedModel,
    batch: GroupBatch,
    config: GRPOConfig,
    *,
    update: int,
    policy_loss: GroupPolicyLoss,
    max_length: int = LONGEST_ROW,
    tolerance: float = 1e-4,
) -> dict[str, float]:
    """Take one optimizer step per minibatch, for all epochs of an update; metrics are means over the minibatches.

    Args:
        max_length: tokens the policy's context holds.
        tolerance: how far the first minibatch's mean ratio may be from 1; float32 needs 1e-4.
    """
    rate = set_lr(
        policy.optimizer,
        policy_gradient_multiplier(
            update, warmup_updates=config.warmup_updates, num_updates=config.num_updates,
            linear_decay=config.linear_decay,
        )
    )  # fmt: skip
    minibatches = group_minibatches(
        config.num_prompts, config.minibatch_size // config.group_size, group_size=config.group_size,
        seed=config.seed, update=update, epochs=config.num_epochs,
    )  # fmt: skip
    rows_of_stats = []
    for number, rows in enumerate(minibatches):
        stats = group_gradients(
            policy.model, batch, rows, policy_loss=policy_loss, num_episodes=config.minibatch_size,
            temperature=config.temperature, microbatch_tokens=config.microbatch_tokens, max_length=max_length,
        )  # fmt: skip
        if update == 0 and number == 0:
            assert abs(stats["val/ratio"] - 1) < tolerance, f"first minibatch: ratio {stats['val/ratio']:.6f}, not 1"
        stats["policy/grad_norm"] = policy.step(max_grad_norm=config.max_grad_norm)
        rows_of_stats.append(stats)
    return means(rows_of_stats) | {"lr": rate}
