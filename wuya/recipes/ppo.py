"""InstructGPT step 3: improve the SFT policy against the reward model with PPO or PPO-ptx (arXiv:2203.02155, 3.5, C.4).

    wuya ppo --policy runs/sft --reward runs/rm --prompts prompts.jsonl --out runs/ppo
    wuya ppo ... --ptx_coef 1 --ptx_shards data/pretraining          # PPO-ptx
    wuya ppo ... --reward my.py:politeness --advantage my.py:fn --policy_loss my.py:fn

Reads prompts (JSONL), the policy, a reward; writes runs/ppo/{config.yaml, metrics.jsonl, samples.jsonl, summary.json,
report.html, checkpoints/step_000200/}, and rollouts/ with one row a token if asked.

Differs from the paper: (1) completions that never end score min(score, 0) - missing_eos_penalty, the paper is silent;
(2) the value model first learns alone for `value_warmup_updates`: as a copy of the reward model it has never seen a
return; (3) reductions of the pre-training loss, which the paper does not print, are means over tokens; (4) the KL
coefficient may adapt (Ziegler et al. 2019, 2.2); (5) gradients are clipped.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from wuya.console import Progress, say, warn
from wuya.data.batches import PretrainingBatches
from wuya.data.shards import TokenShards
from wuya.errors import ConfigError
from wuya.files import to_json, write_atomic
from wuya.inference.engine import Engine
from wuya.inference.episodes import EpisodeSource
from wuya.inference.ppo_models import PPOModels, separate_models, shared_trunk_models
from wuya.inference.prompts import load_prompt_ids
from wuya.inference.rollout_files import dump_rollouts
from wuya.inference.rollout_metrics import rollout_metrics
from wuya.inference.sampling import SamplingParams
from wuya.losses.ppo import gae, ppo_policy_loss
from wuya.models import native
from wuya.models.checkpoint import save_checkpoint
from wuya.training import distributed
from wuya.training.ppo_batches import PPOBatch, Rollouts
from wuya.training.ppo_learner import PPOLearner, PPOSettings
from wuya.training.ppo_metrics import Alarms
from wuya.training.ppo_update import ema_initial_share
from wuya.training.run import Run
from wuya.training.user_functions import load_function


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig(PPOSettings):
    """InstructGPT step 3: PPO or PPO-ptx against a reward model, with a KL penalty towards the SFT policy."""

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
    value_model: str = ""
    """Folder of a reward model to start the value model from. Empty: the reward model itself, as the paper does, or,
    when the reward is no model of ours, the policy's trunk with a head of zeros."""
    ptx_shards: Path | None = None
    """Folder of pre-training shards for PPO-ptx; needed when ptx_coef is above 0."""
    lora_rank: int = 0
    """Rank of LoRA adapters, for models of which four copies don't fit: one frozen trunk with adapters as policy and
    value model (and as reward model, if that was trained with adapters on the same trunk), and without as reference.
    0 trains all weights of separate models."""
    lora_alpha: float = 32.0
    """LoRA scale: adapters are multiplied by alpha / rank. Without effect at rank 0."""
    lora_targets: tuple[str, ...] = ("qkv", "out", "gate_up", "up", "down")
    """Linear layers that get adapters. Without effect at rank 0."""
    max_prompt_tokens: int = 1024
    """Prompts longer than this are left out and counted. Paper: 1,000."""
    max_tokens: int = 256
    """Most tokens of an answer, its end token included. Paper: 1,000."""
    max_batch_size: int = 256
    """Answers decoded at once."""
    max_kl: float = 0.0
    """Stop early when objective/kl, in nats an answer, is above this; 0 never stops."""
    final_kl_prompts: int = 256
    """Answers sampled at the end to measure the KL of exactly the weights that are saved; 0 skips it."""
    advantage: str = ""
    """A Python function `my.py:fn` in place of GAE: (rewards_BT, values_BT, mask_BT, *, gamma, lam) -> (advantages_BT,
    returns_BT)."""
    policy_loss: str = ""
    """A Python function `my.py:fn` in place of the clipped objective; same signature as losses.ppo.ppo_policy_loss."""
    dump_rollouts: bool = False
    """Write every update's episodes to rollouts/, one parquet row a token."""
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
        PPOSettings.__post_init__(self)
        if self.ptx_coef and self.ptx_shards is None:
            raise ConfigError(
                "`ptx_coef` is above 0, but there is no pre-training text", hint="add `--ptx_shards data/pretraining`"
            )


def run(config: PPOConfig) -> Path:
    """Train; returns the run folder, whose newest checkpoint is the policy."""
    # 1. Four models: two learn, two are frozen
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2  # of "KL is 0 and the ratio is 1"; bf16 depends on shapes
    models = load_models(config, device)
    learner = make_learner(config, models, tolerance=tolerance)
    # 2. Prompts, sampler, reward
    source = make_source(config, models, device, dtype)
    alarms = Alarms()
    with Run(config.out, config, resume=config.resume, verb="ppo", keep_last_n=config.keep_last_n,
             kernels=native.decoding()) as run:  # fmt: skip
        done, stopped = _restore(run, learner, alarms, device)
        # 3. The algorithm
        with Progress(config.total_updates, "ppo", unit="update", start=done) as progress:
            for update in range(done, config.total_updates if not stopped else done):
                clock = time.perf_counter()
                rollouts = source.sample(update, config.rollout_batch_size)
                sampling_seconds = time.perf_counter() - clock
                batch, rewards_BT, final_scores_B = learner.batch(rollouts)
                metrics = rollout_metrics(
                    rollouts,
                    final_scores_B=final_scores_B,
                    returns_BT=batch.returns_BT,
                    kl_coef=learner.kl_coef,
                    reencodes=source.reencodes,
                )
                observed_kl = metrics["objective/kl"]
                if update <= config.value_warmup_updates:  # the policy is still the reference
                    assert abs(metrics["objective/kl_per_token"]) < tolerance, "KL is not 0 before the first update"
                stopped = 0 < config.max_kl < observed_kl
                if stopped:
                    say(f"KL is {observed_kl:.2f} nats an answer, above max_kl {config.max_kl}: stopping")
                else:
                    with source.autocast():
                        metrics |= learner.learn(batch, update=update)
                    learner.adapt_kl_coef(observed_kl)
                run.require_finite(update + 1, **metrics)
                seconds = time.perf_counter() - clock
                metrics |= {
                    "episodes": (update + 1) * config.rollout_batch_size,
                    "eps": config.rollout_batch_size / seconds,
                    "time/sampling": sampling_seconds,
                    "time/training": seconds - sampling_seconds,
                }
                _log(run, update + 1, metrics, alarms)
                if config.show_samples_every and update % config.show_samples_every == 0:
                    run.sample(update + 1, source.show(rollouts))
                if config.dump_rollouts:
                    _dump(config, source, update, rollouts, rewards_BT, batch)
                progress.update(1, score=metrics["objective/scores"], kl=observed_kl)
                last = update + 1 if stopped else config.total_updates
                if run.save_is_due(update + 1, every=config.save_every, last=last):
                    state = {"learner": learner.state_dict(), "alarms": alarms.state_dict(), "stopped": stopped}
                    run.save(update + 1, lambda folder: save_policy(folder, learner, models, config), state)
                if stopped:
                    break
        # 4. The KL of exactly the weights that were saved
        _report_final_kl(config, source, learner)
        run.finish()
    return config.out


def load_models(config: PPOConfig, device: torch.device) -> PPOModels:
    """Four models apart, or on one trunk when LoRA is on."""
    if not config.lora_rank:
        return separate_models(
            config.policy,
            config.reward,
            config.value_model,
            device=device,
            microbatch_tokens=config.microbatch_tokens,
        )
    if config.value_model:
        warn("`value_model` has no effect with adapters: the value model is one of them")
    return shared_trunk_models(
        config.policy,
        config.reward,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        targets=config.lora_targets,
        seed=config.seed,
        device=device,
        microbatch_tokens=config.microbatch_tokens,
    )


def make_learner(config: PPOConfig, models: PPOModels, *, tolerance: float) -> PPOLearner:
    """What takes rollouts and improves policy and value model; the user's functions stand where the paper's would."""
    return PPOLearner(
        models.policy,
        models.value_model,
        config,
        pretraining=pretraining_batches(config, context_length=models.engine_model.config.context_length),
        policy_loss=load_function(config.policy_loss) if config.policy_loss else ppo_policy_loss,
        advantage=load_function(config.advantage) if config.advantage else gae,
        tolerance=tolerance,
    )


def make_source(config: PPOConfig, models: PPOModels, device: torch.device, dtype: torch.dtype) -> EpisodeSource:
    """What answers prompts with the current policy, scores the answers, and reads them with the frozen models."""
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


def pretraining_batches(config: PPOConfig, *, context_length: int) -> PretrainingBatches | None:
    """Windows for the ptx loss, in an order of their own."""
    if not config.ptx_coef or config.ptx_shards is None:
        return None
    if config.ptx_context_length > context_length:
        raise ConfigError(
            "`ptx_context_length` is longer than the policy's context",
            found=f"{config.ptx_context_length} > {context_length}",
            hint=f"`--ptx_context_length {context_length}`",
        )
    return PretrainingBatches(
        TokenShards(config.ptx_shards),
        context_length=config.ptx_context_length,
        batch_size=config.ptx_batch_size,
        seed=config.seed,
    )


def save_policy(folder: Path, learner: PPOLearner, models: PPOModels, config: PPOConfig) -> None:
    """Write the policy that ships: the moving average of its weights, or the last ones."""
    with shipped_weights(config, learner):
        save_checkpoint(
            folder,
            models.export(),
            models.tokenizer,
            recipe="ppo",
            parents={"policy": config.policy, "reward": config.reward},
            extra={"prompts": str(config.prompts), "ptx_coef": config.ptx_coef, "kl_coef": learner.kl_coef},
        )


def shipped_weights(config: PPOConfig, learner: PPOLearner) -> AbstractContextManager[None]:
    """Inside the block the policy has the weights that are saved."""
    if config.ship_ema and learner.ema is not None:
        return learner.ema.applied_to(learner.policy)
    return nullcontext()


def _restore(run: Run, learner: PPOLearner, alarms: Alarms, device: torch.device) -> tuple[int, bool]:
    """Finished updates, and whether the run had already stopped early."""
    loaded = run.load_state(map_location=device)
    if loaded is None:
        return 0, False
    done, state = loaded
    learner.load_state_dict(state["learner"])
    alarms.load_state_dict(state["alarms"])
    return done, bool(state["stopped"])


def _log(run: Run, step: int, metrics: dict[str, float], alarms: Alarms) -> None:
    found = alarms.check(metrics)
    run.log(step, {**metrics, "alarms": found})
    if distributed.is_main():
        for alarm in found:
            warn(f"update {step}: {alarm}")


def _dump(
    config: PPOConfig,
    source: EpisodeSource,
    update: int,
    rollouts: Rollouts,
    rewards_BT: torch.Tensor,
    batch: PPOBatch,
) -> None:
    """An update's episodes, a parquet row a token."""
    dump_rollouts(
        config.out / "rollouts" / f"update_{update + 1:06d}_rank_{distributed.rank()}.parquet",
        rollouts,
        rewards_BT=rewards_BT,
        advantages_BT=batch.advantages_BT,
        returns_BT=batch.returns_BT,
        decode=source.tokenizer.decode,
        update=update + 1,
        prompt_names=source.names(update, config.rollout_batch_size),
    )


def _report_final_kl(config: PPOConfig, source: EpisodeSource, learner: PPOLearner) -> None:
    """Sample with the shipped weights and write their KL, score and length to summary.json."""
    if not config.final_kl_prompts:
        return
    with shipped_weights(config, learner):
        rollouts = source.sample(config.total_updates, config.final_kl_prompts)
    batch, _, final_scores_B = learner.batch(rollouts)
    metrics = rollout_metrics(
        rollouts,
        final_scores_B=final_scores_B,
        returns_BT=batch.returns_BT,
        kl_coef=learner.kl_coef,
        reencodes=source.reencodes,
    )
    share = ema_initial_share(config.ema_decay, config.num_updates * config.steps_per_update)
    summary = {
        "kl": {"per_response": metrics["objective/kl"], "per_token": metrics["objective/kl_per_token"]},
        "score": metrics["objective/scores"],
        "eos_share": metrics["objective/eos_share"],
        "length": metrics["objective/length"],
        "reencoded_share": metrics["objective/reencoded_share"],
        "n": config.final_kl_prompts,
        "weights": "ema" if config.ship_ema and config.ema_decay else "last",
        "ema_initial_share": share if config.ema_decay else 0.0,
    }
    if distributed.is_main():
        write_atomic(config.out / "summary.json", to_json(summary, indent=2) + "\n")
        kl, mean_score = metrics["objective/kl"], metrics["objective/scores"]
        say(f"the saved policy: {kl:.2f} nats of KL an answer, score {mean_score:+.2f}")
