"""Step 3 without a value model: answers to one prompt are each other's baseline. RLOO, GRPO and Dr. GRPO.

    wuya grpo --policy runs/sft --reward runs/rm --prompts prompts.jsonl --out runs/grpo
    wuya grpo --algorithm rloo ...        # Ahmadian et al. 2024 (arXiv:2402.14740)
    wuya grpo --algorithm dr_grpo ...     # Liu et al. 2025 (arXiv:2503.20783)

Reads prompts (JSONL), the policy, a reward (a model's folder or `my.py:fn`); writes what `wuya ppo` writes:
runs/grpo/{config.yaml, metrics.jsonl, samples.jsonl, summary.json, report.html, checkpoints/}.

| algorithm | advantage of an answer | ratio | KL | sum over tokens |
|---|---|---|---|---|
| rloo | score less the mean of the others | of the whole answer | in the score | - |
| grpo | (score - mean) / std of the group | of each token | k3 in the loss | divided by the answer's length |
| dr_grpo | score - mean | of each token | k3 in the loss | divided by max_tokens |

Differs from the papers: answers that never end score min(score, 0) - missing_eos_penalty, as in `wuya ppo`.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from wuya.config import require_positive
from wuya.console import Progress, say, warn
from wuya.files import to_json, write_atomic
from wuya.inference.engine import Engine
from wuya.inference.episodes import EpisodeSource
from wuya.inference.ppo_models import PPOModels, models_without_values
from wuya.inference.prompts import load_prompt_ids
from wuya.inference.rollout_metrics import rollout_metrics
from wuya.inference.sampling import SamplingParams
from wuya.losses.direct import grpo_advantages, grpo_policy_loss, rloo_advantages, rloo_policy_loss
from wuya.models import native
from wuya.models.checkpoint import save_checkpoint
from wuya.training import distributed
from wuya.training.group_learner import GroupBatch, GroupLearner, GroupSettings
from wuya.training.ppo_batches import Rollouts
from wuya.training.ppo_metrics import Alarms
from wuya.training.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOConfig(GroupSettings):
    """RLOO, GRPO or Dr. GRPO against a reward model, with a KL penalty towards the SFT policy."""

    policy: Path
    """SFT checkpoint: the starting policy and, frozen, the reference policy."""
    reward: str
    """What scores answers: a reward model's folder (ours or a Hugging Face sequence classifier with one label), or a
    Python function `my.py:fn` of (prompts, completions) as lists of text, returning one number a completion. Several
    with commas between are an ensemble: their mean."""
    prompts: Path
    """JSONL of prompts to answer; held-out prompts have no place here."""
    out: Path
    """Run folder."""
    algorithm: Literal["grpo", "rloo", "dr_grpo"] = "grpo"
    """How a group of scores becomes advantages and a loss; see the table above."""
    lora_rank: int = 0
    """Rank of LoRA adapters: the policy is an adapter, the reference its trunk without. 0 trains all weights."""
    lora_alpha: float = 32.0
    """LoRA scale: adapters are multiplied by alpha / rank. Without effect at rank 0."""
    lora_targets: tuple[str, ...] = ("qkv", "out", "gate_up", "up", "down")
    """Linear layers that get adapters. Without effect at rank 0."""
    max_prompt_tokens: int = 1024
    """Prompts longer than this are left out and counted."""
    max_tokens: int = 256
    """Most tokens of an answer, its end token included."""
    max_batch_size: int = 256
    """Answers decoded at once."""
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

    def __post_init__(self) -> None:
        GroupSettings.__post_init__(self)
        require_positive(self, "max_prompt_tokens", "max_tokens", "max_batch_size")


def run(config: GRPOConfig) -> Path:
    """Train; returns the run folder, whose newest checkpoint is the policy."""
    # 1. The policy, its frozen copy, the reward
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    models = models_without_values(
        config.policy,
        config.reward,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_targets=config.lora_targets,
        seed=config.seed,
        device=device,
        microbatch_tokens=config.microbatch_tokens,
    )
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    learner = make_learner(config, models, tolerance=tolerance)
    source = episode_source(config, models, device, dtype)
    alarms = Alarms()
    with Run(config.out, config, resume=config.resume, verb="grpo", keep_last_n=config.keep_last_n,
             kernels=native.decoding()) as run:  # fmt: skip
        done, state = run.load_state(map_location=device) or (0, None)
        if state is not None:
            learner.load_state_dict(state["learner"])
            alarms.load_state_dict(state["alarms"])
        stopped = bool(state and state["stopped"])
        # 2. The algorithm
        with Progress(config.num_updates, config.algorithm, unit="update", start=done) as progress:
            for update in range(done, config.num_updates if not stopped else done):
                rollouts = source.sample(update, config.num_prompts)
                batch, scores_B = learner.batch(rollouts)
                metrics = measured(config, source, rollouts, scores_B)
                if update == 0:  # the policy is still the reference
                    assert abs(metrics["objective/kl_per_token"]) < tolerance, "KL is not 0 before the first update"
                stopped = 0 < config.max_kl < metrics["objective/kl"]
                if stopped:
                    say(f"KL is {metrics['objective/kl']:.2f} nats an answer, above max_kl {config.max_kl}: stopping")
                else:
                    with source.autocast():
                        metrics |= learner.learn(batch, update=update)
                metrics["episodes"] = (update + 1) * config.rollout_batch_size
                run.require_finite(update + 1, **metrics)
                log(run, update + 1, metrics, alarms)
                if config.show_samples_every and update % config.show_samples_every == 0:
                    run.sample(update + 1, source.show(rollouts))
                progress.update(1, score=metrics["objective/scores"], kl=metrics["objective/kl"])
                last = update + 1 if stopped else config.num_updates
                if run.save_is_due(update + 1, every=config.save_every, last=last):
                    kept = {"learner": learner.state_dict(), "alarms": alarms.state_dict(), "stopped": stopped}
                    run.save(update + 1, lambda folder: save_policy(folder, learner, models, config), kept)
                if stopped:
                    break
        # 3. The KL of exactly the weights that were saved
        report_final_kl(config, source, learner)
        run.finish()
    return config.out


def make_learner(config: GRPOConfig, models: PPOModels, *, tolerance: float) -> GroupLearner:
    """The algorithm's advantage and loss, with this config's constants."""
    advantage = {
        "rloo": lambda scores_PG, kl_PG: rloo_advantages(scores_PG - config.kl_coef * kl_PG),
        "grpo": lambda scores_PG, kl_PG: grpo_advantages(scores_PG),
        "dr_grpo": lambda scores_PG, kl_PG: grpo_advantages(scores_PG, divide_by_std=False),
    }[config.algorithm]
    loss = rloo_loss if config.algorithm == "rloo" else grpo_loss
    return GroupLearner(
        models.policy,
        config,
        advantage=advantage,
        policy_loss=partial(loss, config=config),
        max_length=models.engine_model.config.context_length,
        tolerance=tolerance,
    )


def rloo_loss(
    logprobs_BT: Tensor, batch: GroupBatch, *, num_episodes: float, config: GRPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """`losses.direct.rloo_policy_loss` of a batch."""
    return rloo_policy_loss(
        logprobs_BT,
        batch.logprobs_BT,
        batch.advantages_B,
        batch.mask_BT,
        clip_range=config.clip_range,
        num_episodes=num_episodes,
    )


def grpo_loss(
    logprobs_BT: Tensor, batch: GroupBatch, *, num_episodes: float, config: GRPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """`losses.direct.grpo_policy_loss` of a batch."""
    return grpo_policy_loss(
        logprobs_BT,
        batch.logprobs_BT,
        batch.ref_logprobs_BT,
        batch.advantages_B,
        batch.mask_BT,
        clip_range=config.clip_range,
        kl_coef=config.kl_coef,
        constant_length=config.max_tokens if config.algorithm == "dr_grpo" else 0.0,
        num_episodes=num_episodes,
    )


def episode_source(config: GRPOConfig, models: PPOModels, device: torch.device, dtype: torch.dtype) -> EpisodeSource:
    """Prompts, sampler and reward: `group_size` answers to each prompt, which is read once for all of them."""
    names, prompts = load_prompt_ids(
        config.prompts,
        models.tokenizer,
        max_prompt_tokens=config.max_prompt_tokens,
        max_tokens=config.max_tokens,
        context_length=models.engine_model.config.context_length,
    )
    return EpisodeSource(
        engine=Engine(models.engine_model, models.tokenizer, max_batch_size=config.max_batch_size),
        tokenizer=models.tokenizer,
        prompts=prompts,
        prompt_names=names,
        num_samples=config.group_size,
        sampling=SamplingParams(max_tokens=config.max_tokens, temperature=config.temperature),
        policy=models.policy,
        reference=models.reference,
        value_model=models.value_model,
        score=models.score,
        seed=config.seed,
        microbatch_tokens=config.microbatch_tokens,
        device=device,
        dtype=dtype,
    )


def measured(config: GRPOConfig, source: EpisodeSource, rollouts: Rollouts, scores_B: Tensor) -> dict[str, float]:
    """What `wuya ppo` logs of episodes, without what only a value model has."""
    metrics = rollout_metrics(
        rollouts,
        final_scores_B=scores_B,
        returns_BT=torch.zeros_like(rollouts.values_BT),
        kl_coef=config.kl_coef,
        reencodes=source.reencodes,
    )
    del metrics["val/explained_variance"]
    return metrics


def log(run: Run, step: int, metrics: dict[str, float], alarms: Alarms) -> None:
    """Metrics with alarms in words."""
    found = alarms.check(metrics)
    run.log(step, {**metrics, "alarms": found})
    if distributed.is_main():
        for alarm in found:
            warn(f"update {step}: {alarm}")


def save_policy(folder: Path, learner: GroupLearner, models: PPOModels, config: GRPOConfig) -> None:
    """Write the policy that ships: the moving average of its weights if one is kept, else the last ones."""
    with shipped_weights(learner):
        parents: dict[str, Path | str] = {"policy": config.policy, "reward": config.reward}
        extra = {"prompts": str(config.prompts), "algorithm": config.algorithm, "kl_coef": config.kl_coef}
        save_checkpoint(folder, models.export(), models.tokenizer, recipe="grpo", parents=parents, extra=extra)


def shipped_weights(learner: GroupLearner) -> AbstractContextManager[None]:
    """Inside the block the policy has the weights that are saved."""
    return learner.ema.applied_to(learner.policy) if learner.ema is not None else nullcontext()


def report_final_kl(config: GRPOConfig, source: EpisodeSource, learner: GroupLearner) -> None:
    """Sample with the shipped weights and write their KL, score and length to summary.json."""
    if not config.final_kl_prompts:
        return
    with shipped_weights(learner):
        rollouts = source.sample(config.num_updates, max(1, config.final_kl_prompts // config.group_size))
    metrics = measured(config, source, rollouts, learner.batch(rollouts)[1])
    summary = {
        "kl": {"per_response": metrics["objective/kl"], "per_token": metrics["objective/kl_per_token"]},
        "score": metrics["objective/scores"],
        "eos_share": metrics["objective/eos_share"],
        "length": metrics["objective/length"],
        "n": config.final_kl_prompts // config.group_size * config.group_size,
        "weights": "ema" if learner.ema is not None else "last",
        "algorithm": config.algorithm,
    }
    if distributed.is_main():
        write_atomic(config.out / "summary.json", to_json(summary, indent=2) + "\n")
        kl, score = metrics["objective/kl"], metrics["objective/scores"]
        say(f"the saved policy: {kl:.2f} nats of KL an answer, score {score:+.2f}")
