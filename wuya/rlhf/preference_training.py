"""What training a policy on preferences has in common, whatever the loss: settings, loop, checkpoints, exact resume.

    policy, tokenizer = load_policy(config)
    ...                                            # the method: batch elements, and how a batch becomes gradients
    set_up_training(policy, config)
    train(config, policy, tokenizer, elements, gradients, verb="dpo", parents={...}, report=...)

Used by `wuya dpo`, `kto`, `orpo` and `simpo`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import numpy as np

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.config import require_at_least_zero, require_positive
from wuya.console import Progress
from wuya.models.decoder import Decoder
from wuya.models.gpt import set_dropout
from wuya.models.lora import add_lora, merge_lora
from wuya.models.stored import BaseDtype, store_base
from wuya.rlhf.preference_metrics import DIRECT_METRICS, PAIR_METRICS
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_notes import tell_chat_format
from wuya.training import distributed
from wuya.training.optimizer import Optimizer, build_optimizer, clip_gradients, set_lr
from wuya.training.rates import peak_rate
from wuya.training.run import Run
from wuya.training.schedule import warmup_cosine

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSettings:
    """What every method that learns a policy from preferences is told."""

    FULL_RATE: ClassVar[float] = 1e-6
    """Peak learning rate for all weights; LoRA adapters get ten times as much."""

    model: Path
    """SFT checkpoint: the starting policy and, for methods with a reference, its log-probs at the start."""
    out: Path
    """Run folder."""
    heldout_rankings: tuple[Path, ...] = ()
    """Rankings of other prompts: how often the policy's implicit reward prefers what people preferred."""
    lora_rank: int = 0
    """Rank of LoRA adapters to train in place of all weights; the checkpoint is merged. 0 trains everything."""
    lora_alpha: float = 32.0
    """LoRA scale: adapters are multiplied by alpha / rank. Without effect at rank 0."""
    lora_targets: tuple[str, ...] = ("qkv", "out", "gate_up", "up", "down")
    """Linear layers that get adapters. Without effect at rank 0."""
    base_dtype: BaseDtype = "float32"
    """How the frozen weights under adapters are stored. bfloat16: half the memory, and the same numbers where `dtype`
    is bfloat16. int8, nf4: 8 and 4 bits (QLoRA), with `pip install 'wuya[quantized]'`. Without effect at rank 0."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: far less memory for a third more time."""
    num_epochs: int = 1
    """Passes over the data."""
    batch_size: int = 64
    """Prompts (all their pairs) per optimizer step, summed over all ranks."""
    microbatch_tokens: int = 8192
    """Positions (padding included) of one forward and backward pass: what fits in memory. Changes no result."""
    learning_rate: float = 0.0
    """Peak learning rate. 0 chooses: 1e-6 for all weights, ten times that for LoRA adapters."""
    final_learning_rate: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    warmup_steps: int = 10
    """Steps of linear warmup."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Largest L2 norm of the gradient in one step; 0 does not clip."""
    seed: int = 0
    """Seeds the order of the data and the adapters."""
    save_every: int = 0
    """Steps between checkpoints; 0 saves only at the end."""
    keep_last_n: int = 1
    """Newest checkpoints to keep; 0 keeps all."""
    resume: bool = False
    """Resume from the newest checkpoint in `out`."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; auto is bfloat16 where the hardware has it."""

    def __post_init__(self) -> None:
        require_positive(self, "num_epochs", "batch_size", "microbatch_tokens")
        require_at_least_zero(self, "learning_rate")

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the one it chooses."""
        return peak_rate(self.learning_rate, full=self.FULL_RATE, lora_rank=self.lora_rank)


def load_policy(config: PreferenceSettings) -> tuple[Decoder, Tokenizer]:
    """The starting policy on its device, dropout off: as it is now, it is the reference."""
    device = distributed.init(config.device)
    policy, tokenizer = load_checkpoint(config.model, device=device)
    tell_chat_format(tokenizer)
    set_dropout(policy, 0.0)
    dtype = distributed.resolve_dtype(config.dtype, device)
    store_base(policy, config.base_dtype, lora_rank=config.lora_rank, dtype=dtype)  # the reference, too
    return policy.eval(), tokenizer


def autocast(policy: Decoder, config: PreferenceSettings) -> AbstractContextManager[object]:
    """Matrix products in the run's dtype."""
    return distributed.autocast(policy.device, distributed.resolve_dtype(config.dtype, policy.device))


def set_up_training(policy: Decoder, config: PreferenceSettings) -> None:
    """Adapters and recomputation of blocks, if asked for; call it once the reference's log-probs are known."""
    if config.lora_rank:
        add_lora(policy, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets,
                 name="policy", seed=config.seed)  # fmt: skip
    policy.activation_checkpointing = config.activation_checkpointing
    policy.train(config.activation_checkpointing)  # blocks are recomputed in training mode only; dropout is 0


def train(
    config: PreferenceSettings,
    policy: Decoder,
    tokenizer: Tokenizer,
    elements: Sequence[T],
    gradients: Callable[[Sequence[T]], dict[str, float]],
    *,
    verb: str,
    parents: Mapping[str, Path | str],
    extra: Mapping[str, object],
    report: Callable[[], None],
) -> Path:
    """`num_epochs` over the elements in a seeded order; returns the run folder.

    Args:
        gradients: adds the gradient of the loss of a batch, a mean over all ranks' elements, each rank doing its share;
            returns metrics, `loss` and `accuracy` among them.
        verb: the command, for the run's messages and the checkpoint.
        parents, extra: what the checkpoint says of its origin.
        report: called after the last step, before the run is finished.
    """
    steps_per_epoch = -(-len(elements) // config.batch_size)
    num_steps = config.num_epochs * steps_per_epoch
    optimizer = build_optimizer(
        policy, name=config.optimizer, lr=config.peak_learning_rate, weight_decay=config.weight_decay
    )
    with Run(config.out, config, resume=config.resume, verb=verb, keep_last_n=config.keep_last_n,
             metrics={**PAIR_METRICS, **DIRECT_METRICS}) as run:  # fmt: skip
        done, state = run.load_state(map_location=policy.device) or (0, None)
        if state is not None:
            policy.load_state_dict(state["policy"], strict=False)
            optimizer.load_state_dict(state["optimizer"])
        with Progress(num_steps, verb, unit="step", start=done) as progress:
            for step in range(done, num_steps):
                epoch, place = divmod(step, steps_per_epoch)
                order = np.random.default_rng([config.seed, epoch]).permutation(len(elements))
                batch = [elements[i] for i in order[place * config.batch_size :][: config.batch_size]]
                rate = set_lr(
                    optimizer, warmup_cosine(step, num_steps, config.warmup_steps, config.final_learning_rate)
                )
                with autocast(policy, config):
                    metrics = gradients(batch)
                distributed.reduce_gradients(policy.parameters())
                norm = clip_gradients(policy.parameters(), config.max_grad_norm)
                run.require_finite(step + 1, loss=metrics["loss"], grad_norm=norm)
                optimizer.step()
                optimizer.zero_grad()
                run.log(step + 1, {**metrics, "grad_norm": norm, "lr": rate, "epoch": (step + 1) / steps_per_epoch})
                progress.update(1, loss=metrics["loss"], accuracy=metrics["accuracy"])
                if run.save_is_due(step + 1, every=config.save_every, last=num_steps):
                    _save(run, step + 1, config, policy, tokenizer, optimizer, verb=verb, parents=parents, extra=extra)
        policy.eval()
        with autocast(policy, config):  # as the reference was computed: two dtypes are no log-ratio
            report()
        run.finish()
    return config.out


def _save(
    run: Run,
    step: int,
    config: PreferenceSettings,
    policy: Decoder,
    tokenizer: Tokenizer,
    optimizer: Optimizer,
    *,
    verb: str,
    parents: Mapping[str, Path | str],
    extra: Mapping[str, object],
) -> None:
    """A checkpoint with the adapters merged, and the state to resume from."""

    def save_model(folder: Path) -> None:
        whole = policy
        if config.lora_rank:
            whole = copy.deepcopy(policy)
            merge_lora(whole, "policy")
        save_checkpoint(
            folder, whole, tokenizer, recipe=verb, parents={"model": config.model, **parents}, extra=dict(extra)
        )

    trained = {name: tensor.detach() for name, tensor in policy.named_parameters() if tensor.requires_grad}
    run.save(step, save_model, {"policy": trained, "optimizer": optimizer.state_dict()})
