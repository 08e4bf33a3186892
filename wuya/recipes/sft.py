"""InstructGPT step 1: fine-tune a base model on demonstrations (arXiv:2203.02155, sections 3.5 and C.1).

    wuya sft --base runs/base --demonstrations demonstrations.jsonl --out runs/sft
    wuya sft ... --ptx_share 0.1 --ptx_data data/train     # the model PPO starts from (section C.3)
    wuya sft ... --lora_rank 16                            # train small adapters, save them merged
    wuya sft ... --epochs 16 --choose_by runs/rm --validation_demonstrations heldout.jsonl   # the paper's rule

Reads demonstrations (JSONL) and a base checkpoint; writes the run folder: config.yaml, metrics.jsonl, samples.jsonl,
checkpoints/step_000200/, model/ (the last one, or the one that `choose_by` likes best) and report.html. The loss is the
mean over assistant tokens and their end tokens; several chats share a row without seeing each other.
Row length, rows per update and rows per pass follow the data and the free memory unless they are set
(training/sft_rows.py); what was chosen is said, and `wuya plan --demonstrations` says it before.
Differs from the paper: (1) rows are packed, so a batch counts rows, not chats; (2) 2 epochs, not 16, by default, and
the last checkpoint ships unless `choose_by` names the reward model to choose one by, as the paper does; (3) dropout is
off by default (paper: 0.2).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.config import require_at_least_zero, require_divides, require_positive
from wuya.console import Progress, say, warn
from wuya.data.batches import PackedRows, PretrainingBatches
from wuya.data.formats import read_demonstrations
from wuya.data.shards import TokenShards
from wuya.errors import ConfigError, DataError
from wuya.evals.epoch_choice import EpochChoice
from wuya.evals.heldout_metrics import HELDOUT_METRICS
from wuya.files import BadRows
from wuya.inference.demonstration_samples import sample_answers
from wuya.models.config import GPTConfig
from wuya.models.decoder import Decoder
from wuya.models.gpt import set_dropout
from wuya.models.stored import BaseDtype, store_base
from wuya.models.wrapped import WrappedConfig
from wuya.out_of_memory import note_choice
from wuya.planning.machine import memory_of
from wuya.records import Demonstration
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import EncodedChat, check_demonstration, show_example
from wuya.tokenizer.chat_notes import tell_chat_format
from wuya.tokenizer.system_prompt import with_system_prompt
from wuya.training import distributed
from wuya.training.language_model import add_gradients
from wuya.training.optimizer import Optimizer, build_optimizer, clip_gradients, set_lr
from wuya.training.rates import peak_rate
from wuya.training.run import Run, is_due
from wuya.training.schedule import warmup_cosine
from wuya.training.sft_batches import SFTBatches, validation_loss
from wuya.training.sft_rows import RowPlan, choose_rows, encode_demonstrations, pack_demonstrations, row_length_for
from wuya.training.throughput import Throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig:
    """Fine-tune a base model on demonstrations."""

    FULL_RATE: ClassVar[float] = 1e-4
    """Peak learning rate for all weights; LoRA adapters get ten times as much."""

    base: Path
    """Checkpoint to start from, normally of `wuya pretrain`."""
    demonstrations: Path
    """JSONL of demonstrations: messages, prompt/completion, alpaca or sharegpt."""
    out: Path
    """The run folder."""
    validation_demonstrations: Path | None = None
    """Held-out demonstrations; without them nothing is validated."""
    epochs: float = 2.0
    """Passes over the demonstrations. Paper: 16 for the SFT baseline, 2 for the model PPO starts from."""
    num_tokens: int | None = None
    """Budget in tokens (padding not counted) in place of epochs."""
    context_length: int | None = None
    """Tokens of a packed row; when not given, those of the longest demonstration that the model can read. Longer chats
    are dropped and counted."""
    batch_size: int = 0
    """Packed rows per update, summed over all ranks. 0: as many as hold about 32 demonstrations, the paper's batch."""
    microbatch_size: int = 0
    """Packed rows in one forward and backward pass of a rank; smaller needs less memory, the numbers stay the same.
    0: as many as fit the free memory."""
    last_only: bool = False
    """Learn only the last answer of a chat, for chats whose earlier answers a model wrote."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw` as the paper, or `muon`: Muon for the matrices in the blocks."""
    learning_rate: float = 0.0
    """Peak rate. 0 chooses: 1e-4 for all weights, 1e-3 for LoRA adapters. Paper: 9.65e-6 (1.3B and 6B), 5.03e-6 (175B);
    small models want more."""
    adam_learning_rate: float = 1e-4
    """Under Muon: peak rate of embeddings, head and norms. Without effect under AdamW."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, per unit of learning rate."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of first and second moment. Paper: 0.9, 0.95."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this L2 norm; 0 turns clipping off."""
    warmup: float = 0.0
    """Share of the run in which the rate rises linearly. Paper: none."""
    final_lr: float = 0.1
    """Multiplier of the peak rate at the end of the cosine. Paper: 0.1."""
    dropout: float = 0.0
    """Dropout on embeddings, residuals and attention weights while fine-tuning; never part of the saved model. Paper:
    0.2 on residuals."""
    ptx_share: float = 0.0
    """Share of pre-training text: loss = (1 - share) * demonstrations + share * text. Paper: 0.1 before PPO, else 0."""
    ptx_data: Path | None = None
    """Folder of token shards for `ptx_share`."""
    lora_rank: int = 0
    """Rank of LoRA adapters to train in place of all weights; 0 trains everything."""
    lora_alpha: float = 32.0
    """LoRA scale: adapters are multiplied by alpha / rank. Without effect at rank 0."""
    lora_targets: tuple[str, ...] = ("qkv", "out", "gate_up", "up", "down")
    """Linear layers that get adapters. Without effect at rank 0."""
    base_dtype: BaseDtype = "float32"
    """How the frozen weights under adapters are stored. bfloat16: half the memory, and the same numbers where `dtype`
    is bfloat16. int8, nf4: 8 and 4 bits (QLoRA), with `pip install 'wuya[quantized]'`. Without effect at rank 0."""
    lora_layers: int = 0
    """Adapters on the top so many blocks only, 0 on all: the backward pass ends there, and models that share a trunk
    read the blocks below once. Without effect at rank 0."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: far less memory for a third more time."""
    validate_every: int = 50
    """Updates between validations; 0: only at the end."""
    sample_every: int = 0
    """Updates between samples of answers; 0: only at the end."""
    num_samples: int = 3
    """Prompts answered each time, the first of the held-out (else of the training) demonstrations."""
    sample_tokens: int = 64
    """Most tokens of a sampled answer."""
    choose_by: str = ""
    """Reward that chooses the checkpoint: a reward model's folder or `my.py:fn`, as for `wuya ppo`. After each epoch
    the prompts of `validation_demonstrations` are answered in at most `sample_tokens` tokens, and the epoch with the
    highest mean score ships, as in the paper. Empty: the last checkpoint ships."""
    num_choice_prompts: int = 128
    """Validation prompts that are answered for `choose_by`, or all there are."""
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
    system_prompt: str = ""
    """System message of every chat without one, here and in all that is trained or served from the result. Empty: the
    base model's own, if its chat template writes one."""
    seed: int = 0
    """Of the order of rows, dropout and the samples."""
    device: str = "auto"
    """auto, cpu, cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; auto is bfloat16 where the hardware has it. Weights stay float32."""

    def __post_init__(self) -> None:
        require_positive(self, "epochs", "num_tokens", "context_length")
        require_at_least_zero(self, "batch_size", "microbatch_size", "learning_rate")
        require_positive(self, "adam_learning_rate", "log_every", "sample_tokens", "num_choice_prompts")
        if self.batch_size and self.microbatch_size:
            require_divides(self, "batch_size", by="microbatch_size")
        if not 0.0 <= self.ptx_share < 1.0:
            raise ConfigError("`ptx_share` is a share in [0, 1)", found=str(self.ptx_share))
        if self.ptx_share > 0 and self.ptx_data is None:
            raise ConfigError(
                "`ptx_share` needs pre-training text",
                hint="name its shards: `--ptx_data data/train` (see `wuya prepare`)",
            )
        if self.choose_by and self.validation_demonstrations is None:
            raise ConfigError("`choose_by` needs held-out prompts", hint="add `--validation_demonstrations FILE`")
        if self.ptx_data is not None and self.ptx_share == 0:
            warn("`ptx_data` has no effect: `ptx_share` is 0")

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the one it chooses."""
        return peak_rate(self.learning_rate, full=self.FULL_RATE, lora_rank=self.lora_rank)


def run(config: SFTConfig) -> Path:
    """Fine-tune; returns the folder of the finished model."""
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    free_bytes = memory_of(device.type == "cuda")[1]
    with Run(config.out, config, resume=config.resume, verb="sft", keep_last_n=config.keep_last_n,
             metrics=HELDOUT_METRICS, tensorboard=config.tensorboard) as run:  # fmt: skip
        # 1. The base model, and what was learned so far
        torch.manual_seed(config.seed)
        first_step, state = run.load_state() or (0, None)
        model, tokenizer = load_policy(config, state, device, dtype)
        model.to(device).train()
        model.activation_checkpointing = config.activation_checkpointing
        distributed.broadcast_weights(model)

        # 2. Demonstrations, packed; one of them to look at
        tokenizer = with_system_prompt(tokenizer, config.system_prompt)
        tell_chat_format(tokenizer)
        demonstrations = load_demonstrations(config.demonstrations, tokenizer, last_only=config.last_only)
        held_out = (
            load_demonstrations(config.validation_demonstrations, tokenizer, last_only=config.last_only)
            if config.validation_demonstrations else []
        )  # fmt: skip
        encoded = encode_demonstrations(demonstrations, tokenizer, last_only=config.last_only)
        plan = plan_rows(encoded, model.config, config, free_bytes=free_bytes, device=device)
        microbatch_size = config.microbatch_size or (state or {}).get("microbatch_size") or plan.microbatch_size
        note_choice("microbatch_size", microbatch_size)
        rows = pack_demonstrations(encoded, tokenizer, plan.context_length)
        validation_rows = pack_validation(held_out, tokenizer, model.config, plan, config) if held_out else None
        say(show_example(tokenizer, encoded[0]))
        batches = SFTBatches(rows, batch_size=plan.batch_size, seed=config.seed)
        num_steps = batches.num_steps(epochs=config.epochs, num_tokens=config.num_tokens)
        ptx_batches = pretraining_batches(config, tokenizer, plan)

        chooser = EpochChoice(config, model, tokenizer, held_out, demonstrations) if config.choose_by else None
        if chooser:
            chooser.restore(run, state)

        # 3. Optimizer
        optimizer = build_optimizer(
            model, name=config.optimizer, lr=config.peak_learning_rate, adam_lr=config.adam_learning_rate,
            weight_decay=config.weight_decay, betas=config.adam_betas,
        )  # fmt: skip
        if state:
            optimizer.load_state_dict(state["optimizer"])
        trainable = [param for param in model.parameters() if param.requires_grad]
        num_trained = sum(param.numel() for param in trainable)
        say(f"fine-tuning {num_trained:,} parameters: {num_steps:,} updates; {len(demonstrations):,} demonstrations in "
            f"{len(rows):,} rows, {rows.density:.0%} full; {plan.summary()}")  # fmt: skip
        if advice := plan.advice(num_steps):
            warn(advice)

        # 4. The algorithm: mean nats over the assistant's tokens (and a share of pre-training text), one step
        throughput = Throughput()
        tokens = batches.tokens_before(first_step)
        with Progress(batches.tokens_before(num_steps), "sft", start=tokens) as progress:
            for step in range(first_step, num_steps):
                multiplier = warmup_cosine(step, num_steps, round(config.warmup * num_steps), config.final_lr)
                rate = set_lr(optimizer, multiplier)
                batch = batches.batch(step)
                loss = batch.add_gradients(model, microbatch_size=microbatch_size, dtype=dtype,
                                           scale=1 - config.ptx_share)  # fmt: skip
                metrics = {"loss": loss}
                if ptx_batches is not None:
                    text = ptx_batches.batch(step, rank=distributed.rank(), world_size=distributed.world_size())
                    metrics["ptx/loss"] = add_gradients(
                        model, *text, microbatch_size=microbatch_size, dtype=dtype, scale=config.ptx_share
                    )
                distributed.reduce_gradients(trainable)
                grad_norm = clip_gradients(trainable, config.max_grad_norm)
                run.require_finite(step + 1, **metrics, grad_norm=grad_norm)
                optimizer.step()
                optimizer.zero_grad()

                done = step + 1
                tokens += batch.num_tokens
                throughput.count(batch.num_tokens)
                progress.update(batch.num_tokens, loss=metrics["loss"])
                if done == 1 or is_due(done, config.log_every, num_steps):
                    run.log(done, {**metrics, "grad_norm": grad_norm, "lr": rate, "tokens": tokens,
                                   "target_tokens": batch.num_targets, "epoch": batches.epochs(done),
                                   "tokens_per_second": throughput.rate()})  # fmt: skip
                with throughput.paused():
                    if validation_rows is not None and is_due(done, config.validate_every, num_steps):
                        held_out_loss = validation_loss(
                            model, validation_rows, microbatch_size=microbatch_size, dtype=dtype
                        )
                        run.log(done, {"validation/loss": held_out_loss})
                    if is_due(done, config.sample_every, num_steps):
                        run.sample(done, sample_answers(
                            model, tokenizer, held_out or demonstrations, count=config.num_samples,
                            max_tokens=config.sample_tokens, seed=config.seed, dtype=config.dtype,
                        ))  # fmt: skip
                    best = False
                    if chooser and (batches.ends_epoch(done) or done == num_steps):
                        best = chooser.look(run, done, model, distributed.autocast(device, dtype))
                    if run.save_is_due(done, every=config.save_every, last=num_steps) or best:
                        kept = resume_state(model, optimizer, microbatch_size)
                        kept |= {"choice": chooser.choice.state_dict()} if chooser else {}
                        run.save(done, partial(save_model, model, tokenizer, config), kept)
        if chooser:
            chooser.report(config.out)
        final = run.finish()
    return final


def load_policy(
    config: SFTConfig, state: Mapping[str, Any] | None, device: torch.device, dtype: torch.dtype
) -> tuple[Decoder, Tokenizer]:
    """The base model, or the model as the run left it; with adapters when LoRA is on."""
    folder = state["model_folder"] if state and not config.lora_rank else config.base
    model, tokenizer = load_checkpoint(folder, device=device)
    set_dropout(model, config.dropout)
    store_base(model, config.base_dtype, lora_rank=config.lora_rank, dtype=dtype)
    if config.lora_rank:
        from wuya.models.lora import add_lora

        add_lora(model, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets,
                 layers=config.lora_layers)  # fmt: skip
        if state:
            model.load_state_dict(state["adapters"], strict=False)
    return model, tokenizer


def load_demonstrations(path: Path, tokenizer: Tokenizer, *, last_only: bool) -> list[Demonstration]:
    """All usable demonstrations of a file; bad rows, and those the chat template refuses, are counted and named."""
    bad = BadRows()
    demonstrations = list(read_demonstrations(path, bad, partial(check_demonstration, tokenizer, last_only=last_only)))
    if bad.count:
        warn(bad.summary())
    if not demonstrations:
        raise DataError(
            f"`{path}` holds no demonstration", found=bad.summary() or "an empty file", hint="one JSON object a line"
        )
    return demonstrations


def plan_rows(
    encoded: Sequence[EncodedChat],
    architecture: GPTConfig | WrappedConfig,
    config: SFTConfig,
    *,
    free_bytes: int,
    device: torch.device,
) -> RowPlan:
    """Row length, rows per update and rows per pass; what doesn't fit the free memory is said before it fails."""
    plan = choose_rows(
        [len(chat.ids) for chat in encoded],
        architecture,
        context_length=config.context_length,
        batch_size=config.batch_size,
        microbatch_size=config.microbatch_size,
        free_bytes=free_bytes,
        device=device.type,
        optimizer=config.optimizer,
        lora_rank=config.lora_rank,
        activation_checkpointing=config.activation_checkpointing,
        world_size=distributed.world_size(),
    )
    if not plan.fits:
        warn(
            f"this may run out of memory: {plan.summary()}; lower `--microbatch_size` or `--context_length`, "
            "or try `--activation_checkpointing`, `--lora_rank 16`"
        )
    return plan


def pack_validation(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    architecture: GPTConfig | WrappedConfig,
    plan: RowPlan,
    config: SFTConfig,
) -> PackedRows:
    """Held-out rows: as long as training's, or longer where a demonstration needs it and `context_length` is free."""
    encoded = encode_demonstrations(demonstrations, tokenizer, last_only=config.last_only)
    longest = row_length_for([len(chat.ids) for chat in encoded], architecture)
    row_length = plan.context_length if config.context_length else max(plan.context_length, longest)
    return pack_demonstrations(encoded, tokenizer, row_length)


def pretraining_batches(config: SFTConfig, tokenizer: Tokenizer, plan: RowPlan) -> PretrainingBatches | None:
    """Windows of pre-training text to mix in, `ptx_share` of an update; None without a share."""
    if config.ptx_data is None or not config.ptx_share:
        return None
    shards = TokenShards(config.ptx_data)
    shards.check_tokenizer(tokenizer)
    windows = max(1, round(plan.batch_size * config.ptx_share / (1 - config.ptx_share)))
    batch_size = -(-windows // distributed.world_size()) * distributed.world_size()
    return PretrainingBatches(shards, context_length=plan.context_length, batch_size=batch_size, seed=config.seed)


def resume_state(model: Decoder, optimizer: Optimizer, microbatch_size: int) -> dict[str, Any]:
    """What resuming needs besides the model folder: moments, the rows of a pass (for the same bits where less memory
    is free), and the adapters that the saved model has merged."""
    state: dict[str, Any] = {"optimizer": optimizer.state_dict(), "microbatch_size": microbatch_size}
    if any(not param.requires_grad for param in model.parameters()):
        state["adapters"] = {name: param.detach() for name, param in model.named_parameters() if param.requires_grad}
    return state


def save_model(model: Decoder, tokenizer: Tokenizer, config: SFTConfig, folder: Path) -> None:
    """Write the model folder, adapters merged, with where it came from."""
    if config.lora_rank:
        from wuya.models.lora import merge_lora

        model = copy.deepcopy(model)
        merge_lora(model)
    save_checkpoint(
        folder, model, tokenizer, recipe="sft", parents={"base": config.base, "demonstrations": config.demonstrations}
    )
