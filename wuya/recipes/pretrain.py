"""Pre-train a decoder on token shards (GPT-1 section 3.1, GPT-3 section 2; Muon and trapezoid as in nanochat).

    wuya pretrain --data data/train --tokenizer data/tokenizer --preset tiny --num_tokens 1_500_000 --out runs/base
    torchrun --nproc_per_node 2 -m wuya pretrain ...       # data parallel, the same batches and (to 1e-5) losses

Reads token shards (`wuya prepare`) and a tokenizer; writes the run folder: config.yaml, metrics.jsonl, samples.jsonl,
checkpoints/step_000200/, model/ (the last one) and report.html.
Differs from the papers: the default optimizer is Muon, AdamW for embeddings and norms (`--optimizer adamw` is theirs).
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.config import require_divides, require_positive
from wuya.console import Progress, say
from wuya.data.batches import PretrainingBatches, sequential_batches
from wuya.data.shards import TokenShards
from wuya.errors import ConfigError
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.decoder import Decoder
from wuya.models.gpt import GPT
from wuya.models.presets import preset
from wuya.tokenizer.bpe import Tokenizer
from wuya.training import distributed
from wuya.training.language_model import add_gradients, nats_sum, validate
from wuya.training.optimizer import build_optimizer, clip_gradients, set_lr
from wuya.training.run import Run, is_due
from wuya.training.schedule import trapezoid, warmup_cosine
from wuya.training.throughput import Throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """Train a base model on token shards."""

    data: Path
    """Folder of training shards, from `wuya prepare`."""
    tokenizer: Path
    """Folder (or tokenizer.json) the shards were made with."""
    out: Path
    """The run folder."""
    validation_data: Path | None = None
    """Folder of held-out shards; without it nothing is validated."""
    init: Path | None = None
    """Checkpoint whose weights and architecture to start from (further pre-training), instead of new weights."""
    preset: str = "tiny"
    """Architecture by name, see models/presets.py; vocabulary and context_length come from this run."""
    model: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Fields of the architecture that differ from the preset's: `--model '{num_layers: 6, model_dim: 256}'`."""
    num_tokens: int = 1_500_000
    """Training budget in tokens; rounded up to whole steps. GPT-3: 300e9."""
    context_length: int = 256
    """Tokens of a training window, and of the new model's context."""
    batch_size: int = 16
    """Windows per update, summed over all ranks."""
    microbatch_size: int = 8
    """Windows in one forward and backward pass of a rank; smaller needs less memory, the numbers stay the same to
    rounding. n processes give the bits of one if this is at most batch_size / n."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon`: Muon for the matrices in the blocks, AdamW for the rest. `adamw`: AdamW for all, as GPT-3."""
    learning_rate: float = 0.02
    """Peak rate of the block matrices under Muon (0.02), of everything under AdamW (try 1e-3 to 3e-3)."""
    adam_learning_rate: float = 0.004
    """Under Muon: peak rate of embeddings, head and norms. Without effect under AdamW."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, per unit of learning rate. GPT-3: 0.1 (with AdamW)."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of first and second moment. GPT-3: 0.9, 0.95."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this L2 norm; 0 turns clipping off. GPT-3: 1."""
    schedule: Literal["trapezoid", "cosine"] = "trapezoid"
    """`trapezoid`: constant, then a linear warmdown. `cosine`: half a cosine, as GPT-3."""
    warmup: float = 0.02
    """Share of the run in which the rate rises linearly."""
    warmdown: float = 0.6
    """Share of the run in which the trapezoid falls; without effect under cosine."""
    final_lr: float = 0.0
    """Multiplier of the peak rates at the end. GPT-3: 0.1."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: far less memory for a third more time."""
    compile: bool = False
    """torch.compile the loss; on a CPU this needs a C++ compiler and pays in runs of an hour, not of minutes."""
    validate_every: int = 100
    """Updates between validations; 0: only at the end."""
    validation_windows: int = 64
    """Held-out windows per validation, spread evenly over the held-out text."""
    sample_every: int = 0
    """Updates between samples of text; 0: only at the end."""
    num_samples: int = 3
    """Samples each time: continuations of held-out text, or of nothing when there is none."""
    log_every: int = 10
    """Updates between rows of metrics.jsonl."""
    save_every: int = 200
    """Updates between checkpoints; 0: only at the end."""
    keep_last_n: int = 2
    """Newest checkpoints to keep; 0 keeps all."""
    tensorboard: bool = False
    """Also write TensorBoard files (needs the package)."""
    resume: bool = False
    """Go on from the last checkpoint in `out`; the numbers are those of a run that never stopped."""
    seed: int = 0
    """Of the initial weights, the order of windows and the samples."""
    device: str = "auto"
    """auto, cpu, cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; auto is bfloat16 where the hardware has it. Weights stay float32."""

    def __post_init__(self) -> None:
        require_positive(self, "num_tokens", "context_length", "batch_size", "microbatch_size", "learning_rate")
        require_positive(self, "adam_learning_rate", "validation_windows", "log_every")
        require_divides(self, "batch_size", by="microbatch_size")
        if self.schedule == "trapezoid" and self.warmup + self.warmdown > 1:
            raise ConfigError(
                "`warmup` and `warmdown` are shares of the run and may add up to 1 at most",
                found=f"{self.warmup} + {self.warmdown}",
                hint="for example `--warmup 0.02 --warmdown 0.6`",
            )

    @property
    def num_steps(self) -> int:
        """Updates of the whole run."""
        return math.ceil(self.num_tokens / (self.batch_size * self.context_length))

    def lr_multiplier(self, step: int) -> float:
        """The schedule: share of the peak rate after `step` finished updates."""
        warmup = round(self.warmup * self.num_steps)
        if self.schedule == "cosine":
            return warmup_cosine(step, self.num_steps, warmup, self.final_lr)
        return trapezoid(step, self.num_steps, warmup, round(self.warmdown * self.num_steps), self.final_lr)


def run(config: PretrainConfig) -> Path:
    """Train; returns the folder of the finished model."""
    # 1. Data
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    loss_sum = compiled(nats_sum) if config.compile else nats_sum
    shards = TokenShards(config.data)
    held_out = None if config.validation_data is None else TokenShards(config.validation_data)
    batches = PretrainingBatches(
        shards, context_length=config.context_length, batch_size=config.batch_size, seed=config.seed
    )
    with Run(config.out, config, resume=config.resume, verb="pretrain", keep_last_n=config.keep_last_n,
             tensorboard=config.tensorboard) as run:  # fmt: skip
        # 2. Model and optimizer, new or as they were
        first_step, state = run.load_state() or (0, None)
        model, tokenizer = load_checkpoint(state["model_folder"]) if state else initial_model(config)
        model.to(device).train()
        model.activation_checkpointing = config.activation_checkpointing
        require_same_tokens(model, tokenizer, (shards, *([held_out] if held_out else [])), config)
        distributed.broadcast_weights(model)
        optimizer = build_optimizer(
            model, name=config.optimizer, lr=config.learning_rate, adam_lr=config.adam_learning_rate,
            weight_decay=config.weight_decay, betas=config.adam_betas,
        )  # fmt: skip
        if state:
            optimizer.load_state_dict(state["optimizer"])
        say(f"pre-training {model.config.num_parameters:,} parameters: {config.num_steps:,} steps of "
            f"{batches.tokens_per_batch:,} tokens, {batches.epochs(config.num_steps):.2f} epochs, {dtype}")  # fmt: skip

        # 3. The algorithm: the gradient of a global batch, one step; and a look at it every now and then
        throughput = Throughput()
        tokens_before = first_step * batches.tokens_per_batch
        with Progress(config.num_tokens, "pre-train", start=tokens_before) as progress:
            for step in range(first_step, config.num_steps):
                rate = set_lr(optimizer, config.lr_multiplier(step))
                inputs_BT, targets_BT = batches.batch(
                    step, rank=distributed.rank(), world_size=distributed.world_size()
                )
                loss = add_gradients(
                    model, inputs_BT, targets_BT, microbatch_size=config.microbatch_size, dtype=dtype, loss_sum=loss_sum
                )
                distributed.reduce_gradients(model.parameters())
                grad_norm = clip_gradients(model.parameters(), config.max_grad_norm)
                run.require_finite(step + 1, loss=loss, grad_norm=grad_norm)
                optimizer.step()
                optimizer.zero_grad()

                done, last = step + 1, config.num_steps
                throughput.count(batches.tokens_per_batch)
                progress.update(batches.tokens_per_batch, loss=loss)
                if done == 1 or is_due(done, config.log_every, last):
                    tokens = done * batches.tokens_per_batch
                    run.log(done, {"loss": loss, "grad_norm": grad_norm, "lr": rate,
                                   "tokens": tokens, "tokens_per_second": throughput.rate()})  # fmt: skip
                with throughput.paused():
                    if held_out is not None and is_due(done, config.validate_every, last):
                        run.log(done, validation_metrics(model, tokenizer, held_out, config, dtype))
                    if is_due(done, config.sample_every, last):
                        run.sample(done, sample_rows(model, tokenizer, held_out, config))
                    if run.save_is_due(done, every=config.save_every, last=last):
                        run.save(
                            done, partial(save_model, model, tokenizer, config), {"optimizer": optimizer.state_dict()}
                        )
        final = run.finish()
    return final


def initial_model(config: PretrainConfig) -> tuple[Decoder, Tokenizer]:
    """New weights for the named architecture, or those of the checkpoint to start from."""
    if config.init is not None:
        return load_checkpoint(config.init)
    tokenizer = Tokenizer.load(config.tokenizer)
    architecture = {"vocab_size": tokenizer.vocab_size, "context_length": config.context_length, **config.model}
    chosen = preset(config.preset, **architecture)
    if chosen.attention == "full":  # its loss would fall to nothing: every token is shown its successor
        raise ConfigError(
            "`wuya pretrain` predicts the next token, which full attention has already read",
            found="attention: full",
            hint="leave `attention` out of `--model`",
        )
    torch.manual_seed(config.seed)
    return GPT(chosen), tokenizer


def require_same_tokens(
    model: Decoder, tokenizer: Tokenizer, all_shards: Sequence[TokenShards], config: PretrainConfig
) -> None:
    """The shards' ids mean something to this tokenizer and model, and a window fits the context."""
    for shards in all_shards:
        shards.check_tokenizer(tokenizer)
    if config.init is not None and Tokenizer.load(config.tokenizer).fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"`{config.tokenizer}` is not the tokenizer of `{config.init}`, whose ids the weights know",
            hint=f"name the model's own: `--tokenizer {config.init}`",
        )
    if config.context_length > model.config.context_length:
        raise ConfigError(
            "`context_length` is more than the model was made for",
            found=f"{config.context_length} > {model.config.context_length}",
            hint=f"use `--context_length {model.config.context_length}`",
        )


def compiled(loss_sum: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss through torch.compile; a missing C++ compiler is found now, not in the middle of the run."""
    if not torch.cuda.is_available() and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ConfigError(
            "`compile=true` needs a C++ compiler on a CPU", found="no g++, clang++ or c++", hint="`--compile false`"
        )
    result: Callable[..., Tensor] = torch.compile(loss_sum)
    return result


def validation_metrics(
    model: Decoder, tokenizer: Tokenizer, held_out: TokenShards, config: PretrainConfig, dtype: torch.dtype
) -> dict[str, float]:
    """Loss and bits per byte on the same held-out windows each time."""
    windows = sequential_batches(
        held_out,
        context_length=config.context_length,
        batch_size=config.microbatch_size * distributed.world_size(),
        max_windows=config.validation_windows,
    )
    return validate(model, windows, torch.from_numpy(tokenizer.token_bytes), dtype=dtype).metrics()


def sample_rows(
    model: Decoder, tokenizer: Tokenizer, held_out: TokenShards | None, config: PretrainConfig
) -> list[dict[str, object]]:
    """Continuations to read: of the first words of held-out windows, or of an empty document."""
    if not config.num_samples or not distributed.is_main():
        return []
    length = min(16, config.context_length // 2)
    prompts = [[tokenizer.document_end_id]] * config.num_samples
    if held_out is not None:
        gap = max(1, (held_out.num_tokens - length) // config.num_samples)
        prompts = [held_out.window(number * gap, length).tolist() for number in range(config.num_samples)]
    sampling = SamplingParams(max_tokens=config.context_length - length, stop_token_ids=(tokenizer.document_end_id,))
    model.eval()
    with distributed.autocast(model.device, distributed.resolve_dtype(config.dtype, model.device)):
        answers = Engine(model, tokenizer, seed=config.seed).generate(prompts, sampling)
    model.train()
    return [
        {"prompt": tokenizer.decode(prompt), "completion": tokenizer.decode(answer.token_ids)}
        for prompt, (answer, *_) in zip(prompts, answers, strict=True)
    ]


def save_model(model: Decoder, tokenizer: Tokenizer, config: PretrainConfig, folder: Path) -> None:
    """Write the model folder with where it came from."""
    parents = {} if config.init is None else {"init": config.init}
    save_checkpoint(folder, model, tokenizer, recipe="pretrain", parents=parents, extra={"data": str(config.data)})
