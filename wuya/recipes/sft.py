"""InstructGPT step 1: fine-tune a base model on demonstrations (arXiv:2203.02155, sections 3.5 and C.1).

    wuya sft --base runs/base --demonstrations demonstrations.jsonl --out runs/sft
    wuya sft ... --ptx_share 0.1 --ptx_data data/train     # the model PPO starts from (section C.3)
    wuya sft ... --lora_rank 16                            # train small adapters, save them merged

Reads demonstrations (JSONL) and a base checkpoint; writes the run folder: config.yaml, metrics.jsonl, samples.jsonl,
checkpoints/step_000200/, model/ (the last one) and report.html. The loss is the mean over assistant tokens and their
end tokens; several chats share a row without seeing each other.
Differs from the paper: (1) rows are packed, so a batch counts rows, not chats; (2) 2 epochs, not 16, by default, and
the last checkpoint is used (the paper picks one by reward-model score); (3) dropout is off by default (paper: 0.2).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from wuya.config import require_divides, require_positive
from wuya.console import Progress, say, warn
from wuya.data.batches import PackedRows, PretrainingBatches, pack_rows
from wuya.data.formats import read_demonstrations
from wuya.data.shards import TokenShards
from wuya.errors import ConfigError, DataError
from wuya.files import BadRows
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.checkpoint import load_checkpoint, save_checkpoint
from wuya.models.gpt import GPT
from wuya.models.layers import Attention, Block
from wuya.records import Demonstration
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_chat, encode_prompt, show_example
from wuya.training import distributed
from wuya.training.language_model import add_gradients
from wuya.training.optimizer import Optimizer, build_optimizer, clip_gradients, set_lr
from wuya.training.run import Run, is_due
from wuya.training.schedule import warmup_cosine
from wuya.training.sft_batches import SFTBatches, validation_loss
from wuya.training.throughput import Throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig:
    """Fine-tune a base model on demonstrations."""

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
    """Tokens of a packed row; the model's context when not given. Chats that are longer are dropped and counted."""
    batch_size: int = 16
    """Packed rows per update, summed over all ranks. Paper: 32 demonstrations."""
    microbatch_size: int = 16
    """Packed rows in one forward and backward pass of a rank; smaller needs less memory, the numbers stay the same."""
    last_only: bool = False
    """Learn only the last answer of a chat, for chats whose earlier answers a model wrote."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw` as the paper, or `muon`: Muon for the matrices in the blocks."""
    learning_rate: float = 1e-4
    """Peak rate. Paper: 9.65e-6 (1.3B and 6B), 5.03e-6 (175B); small models want more."""
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
    """Residual and attention dropout while fine-tuning; never part of the saved model. Paper: 0.2 on residuals."""
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
    """Of the order of rows, dropout and the samples."""
    device: str = "auto"
    """auto, cpu, cuda."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of matrix products; auto is bfloat16 where the hardware has it. Weights stay float32."""

    def __post_init__(self) -> None:
        require_positive(self, "epochs", "num_tokens", "context_length", "batch_size", "microbatch_size")
        require_positive(self, "learning_rate", "adam_learning_rate", "log_every", "sample_tokens")
        require_divides(self, "batch_size", by="microbatch_size")
        if not 0.0 <= self.ptx_share < 1.0:
            raise ConfigError("`ptx_share` is a share in [0, 1)", found=str(self.ptx_share))
        if self.ptx_share > 0 and self.ptx_data is None:
            raise ConfigError(
                "`ptx_share` needs pre-training text",
                hint="name its shards: `--ptx_data data/train` (see `wuya prepare`)",
            )
        if self.ptx_data is not None and self.ptx_share == 0:
            warn("`ptx_data` has no effect: `ptx_share` is 0")

    @property
    def ptx_batch_size(self) -> int:
        """Windows of pre-training text per update."""
        return max(1, round(self.batch_size * self.ptx_share / (1 - self.ptx_share))) if self.ptx_share else 0


def run(config: SFTConfig) -> Path:
    """Fine-tune; returns the folder of the finished model."""
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    with Run(config.out, config, resume=config.resume, verb="sft", keep_last_n=config.keep_last_n,
             tensorboard=config.tensorboard) as run:  # fmt: skip
        # 1. The base model, and what was learned so far
        torch.manual_seed(config.seed)
        first_step, state = run.load_state() or (0, None)
        model, tokenizer = load_policy(config, state)
        model.to(device).train()
        model.activation_checkpointing = config.activation_checkpointing
        distributed.broadcast_weights(model)

        # 2. Demonstrations, packed; one of them to look at
        context_length = min(config.context_length or model.config.context_length, model.config.context_length)
        demonstrations = load_demonstrations(config.demonstrations)
        held_out = load_demonstrations(config.validation_demonstrations) if config.validation_demonstrations else []
        rows = pack_demonstrations(demonstrations, tokenizer, context_length, last_only=config.last_only)
        validation_rows = (
            pack_demonstrations(held_out, tokenizer, context_length, last_only=config.last_only) if held_out else None
        )
        say(show_example(tokenizer, encode_chat(tokenizer, demonstrations[0].messages, last_only=config.last_only)))
        batches = SFTBatches(rows, batch_size=config.batch_size, seed=config.seed)
        num_steps = batches.num_steps(epochs=config.epochs, num_tokens=config.num_tokens)
        ptx_batches = pretraining_batches(config, tokenizer, context_length)

        # 3. Optimizer
        optimizer = build_optimizer(
            model, name=config.optimizer, lr=config.learning_rate, adam_lr=config.adam_learning_rate,
            weight_decay=config.weight_decay, betas=config.adam_betas,
        )  # fmt: skip
        if state:
            optimizer.load_state_dict(state["optimizer"])
        trainable = [param for param in model.parameters() if param.requires_grad]
        num_trained = sum(param.numel() for param in trainable)
        say(f"fine-tuning {num_trained:,} parameters: {num_steps:,} steps of {batches.batch_size} rows; "
            f"{len(demonstrations):,} demonstrations in {len(rows):,} rows, {rows.density:.0%} full")  # fmt: skip

        # 4. The algorithm: mean nats over the assistant's tokens (and a share of pre-training text), one step
        throughput = Throughput()
        tokens = batches.tokens_before(first_step)
        with Progress(batches.tokens_before(num_steps), "sft", start=tokens) as progress:
            for step in range(first_step, num_steps):
                multiplier = warmup_cosine(step, num_steps, round(config.warmup * num_steps), config.final_lr)
                set_lr(optimizer, multiplier)
                batch = batches.batch(step)
                loss = batch.add_gradients(model, microbatch_size=config.microbatch_size, dtype=dtype,
                                           scale=1 - config.ptx_share)  # fmt: skip
                metrics = {"loss": loss}
                if ptx_batches is not None:
                    text = ptx_batches.batch(step, rank=distributed.rank(), world_size=distributed.world_size())
                    metrics["ptx/loss"] = add_gradients(
                        model, *text, microbatch_size=config.microbatch_size, dtype=dtype, scale=config.ptx_share
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
                    run.log(done, {**metrics, "grad_norm": grad_norm, "lr": multiplier, "tokens": tokens,
                                   "target_tokens": batch.num_targets, "epoch": batches.epochs(done),
                                   "tokens_per_second": throughput.rate()})  # fmt: skip
                with throughput.paused():
                    if validation_rows is not None and is_due(done, config.validate_every, num_steps):
                        held_out_loss = validation_loss(
                            model, validation_rows, microbatch_size=config.microbatch_size, dtype=dtype
                        )
                        run.log(done, {"validation/loss": held_out_loss})
                    if is_due(done, config.sample_every, num_steps):
                        run.sample(done, sample_rows(model, tokenizer, held_out or demonstrations, config))
                    if run.save_is_due(done, every=config.save_every, last=num_steps):
                        run.save(done, partial(save_model, model, tokenizer, config), resume_state(model, optimizer))
        final = run.finish()
    say(f"SFT model: {final}")
    return final


def load_policy(config: SFTConfig, state: Mapping[str, Any] | None) -> tuple[GPT, Tokenizer]:
    """The base model, or the model as the run left it; with adapters when LoRA is on."""
    if state and not config.lora_rank:
        model, tokenizer = load_checkpoint(state["model_folder"])
    else:
        model, tokenizer = load_checkpoint(config.base)
    set_dropout(model, config.dropout)
    if config.lora_rank:
        from wuya.models.lora import add_lora

        add_lora(model, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets)
        if state:
            model.load_state_dict(state["adapters"], strict=False)
    return model, tokenizer


def set_dropout(model: GPT, dropout: float) -> None:
    """Turn dropout on in the blocks only: the model's config stays as it is, so nothing of it is saved."""
    for module in model.modules():
        if isinstance(module, Block | Attention):
            module.dropout = dropout


def load_demonstrations(path: Path) -> list[Demonstration]:
    """All usable demonstrations of a file; bad rows are counted and named."""
    bad = BadRows()
    demonstrations = list(read_demonstrations(path, bad))
    if bad.count:
        warn(bad.summary())
    if not demonstrations:
        raise DataError(
            f"`{path}` holds no demonstration", found=bad.summary() or "an empty file", hint="one JSON object a line"
        )
    return demonstrations


def pack_demonstrations(
    demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, context_length: int, *, last_only: bool
) -> PackedRows:
    """Encode and pack; chats longer than the context are dropped, counted and named."""
    encoded = [encode_chat(tokenizer, item.messages, last_only=last_only) for item in demonstrations]
    rows = pack_rows(encoded, context_length=context_length, pad_id=tokenizer.pad_id)
    if rows.num_dropped:
        warn(
            f"{rows.num_dropped:,} of {len(encoded):,} demonstrations are longer than {context_length} tokens: dropped"
        )
    if not len(rows):
        raise DataError(
            "no demonstration fits the context",
            found=f"{len(encoded):,} demonstrations, context_length {context_length}",
            hint="use shorter chats, or a base model with a longer context",
        )
    if not bool(rows.mask_NT.any()):
        raise DataError("no demonstration has an assistant token to learn", hint="check the roles of the messages")
    return rows


def pretraining_batches(config: SFTConfig, tokenizer: Tokenizer, context_length: int) -> PretrainingBatches | None:
    """The pre-training text that is mixed in; None without a share of it."""
    if config.ptx_data is None or not config.ptx_batch_size:
        return None
    shards = TokenShards(config.ptx_data)
    shards.check_vocabulary(tokenizer.vocab_size)
    per_rank = -(-config.ptx_batch_size // distributed.world_size())
    batch_size = per_rank * distributed.world_size()
    return PretrainingBatches(shards, context_length=context_length, batch_size=batch_size, seed=config.seed)


def sample_rows(
    model: GPT, tokenizer: Tokenizer, demonstrations: Sequence[Demonstration], config: SFTConfig
) -> list[dict[str, object]]:
    """Answers to the first prompts, beside what the labeler wrote."""
    if not config.num_samples or not distributed.is_main():
        return []
    room = max(model.config.context_length // 2, model.config.context_length - config.sample_tokens)
    encoded = ((item, encode_prompt(tokenizer, item.prompt.messages)) for item in demonstrations)
    chosen = list(islice(((item, ids) for item, ids in encoded if len(ids) <= room), config.num_samples))
    sampling = SamplingParams(max_tokens=config.sample_tokens)
    model.eval()
    answers = Engine(model, tokenizer, seed=config.seed).generate([ids for _, ids in chosen], sampling)
    model.train()
    return [
        {
            "prompt": item.prompt.messages[-1].content,
            "completion": tokenizer.decode(answer.token_ids, skip_special=True),
            "finish_reason": answer.finish_reason,
            "demonstration": item.completion,
        }
        for (item, _), (answer, *_) in zip(chosen, answers, strict=True)
    ]


def resume_state(model: GPT, optimizer: Optimizer) -> dict[str, Any]:
    """What resuming needs besides the model folder: moments, and the adapters that the saved model has merged."""
    state: dict[str, Any] = {"optimizer": optimizer.state_dict()}
    if any(not param.requires_grad for param in model.parameters()):
        state["adapters"] = {name: param.detach() for name, param in model.named_parameters() if param.requires_grad}
    return state


def save_model(model: GPT, tokenizer: Tokenizer, config: SFTConfig, folder: Path) -> None:
    """Write the model folder, adapters merged, with where it came from."""
    if config.lora_rank:
        from wuya.models.lora import merge_lora

        model = copy.deepcopy(model)
        merge_lora(model)
    save_checkpoint(
        folder, model, tokenizer, recipe="sft", parents={"base": config.base, "demonstrations": config.demonstrations}
    )
