"""InstructGPT step 2b: learn a reward model from rankings (arXiv:2203.02155, section 3.5, Eq. 1; C.2).

    wuya reward --model runs/sft --rankings rankings.jsonl --demonstrations demos.jsonl --out runs/rm

Reads an exported, frozen snapshot of rankings (JSONL), never the live database; writes runs/rm/{config.yaml,
metrics.jsonl, report.json, heldout_scores.jsonl, checkpoints/step_000200/}.

All pairs of a prompt are one batch element: K forward passes, not K(K-1), and one gradient. Differs from the paper: a
prompt may have several votes, which weigh 1 together.
"""

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from wuya.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from wuya.checkpoints.lora_files import save_adapter
from wuya.config import require_at_least_zero, require_positive
from wuya.console import Progress, say
from wuya.data.formats import read_demonstrations
from wuya.errors import DataError
from wuya.evals.reward_model_report import judge_reward_model
from wuya.files import BadRows, to_json, write_atomic
from wuya.losses.preference import order_credit, ranking_loss
from wuya.models.gpt import set_dropout
from wuya.models.lora import add_lora, merge_lora
from wuya.models.reward_model import ScalarModel
from wuya.models.stored import BaseDtype, store_base
from wuya.rlhf.model_outputs import answer_scores
from wuya.rlhf.preference_metrics import PAIR_METRICS
from wuya.rlhf.ranked_prompts import (
    RankedPrompt,
    load_ranked_prompts,
    pair_rows,
    prompt_microbatches,
    ranked_rows,
    vote_tensors,
)
from wuya.rlhf.rewards import score_answers
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import check_demonstration, encode_answer, encode_prompt
from wuya.tokenizer.chat_notes import tell_chat_format
from wuya.training import distributed
from wuya.training.optimizer import Optimizer, build_optimizer, clip_gradients, set_lr
from wuya.training.rates import peak_rate
from wuya.training.run import Run
from wuya.training.schedule import warmup_cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelConfig:
    """InstructGPT step 2b: train a reward model on rankings."""

    FULL_RATE: ClassVar[float] = 9e-6
    """Peak learning rate for all weights; LoRA adapters get ten times as much."""

    model: Path
    """SFT checkpoint whose trunk the reward model starts from."""
    rankings: Path
    """JSONL of rankings to learn from: a snapshot exported from the feedback store, or anybody's."""
    out: Path
    """Run folder."""
    demonstrations: Path | None = None
    """JSONL of demonstrations: scores are shifted so that their mean score is 0, as the paper does before PPO."""
    heldout_rankings: tuple[Path, ...] = ()
    """JSONL files of rankings of other prompts (and other labelers) to report on."""
    lora_rank: int = 0
    """Rank of LoRA adapters to train with the head in place of all weights; 0 trains everything. The adapter is kept
    beside the merged model, so that `wuya ppo --lora_rank` can put it on the policy's trunk."""
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
    num_epochs: int = 1
    """Passes over the rankings. Paper: 1; more over-fits."""
    batch_size: int = 64
    """Prompts (all their pairs) per optimizer step, summed over all ranks. Paper: 64."""
    microbatch_tokens: int = 8192
    """Positions (padding included) of one forward and backward pass: what fits in memory. Changes no result."""
    learning_rate: float = 0.0
    """Peak learning rate. 0 chooses: 9e-6 for all weights (paper, 6B), ten times that for LoRA adapters."""
    final_learning_rate: float = 0.1
    """Where the cosine ends, as a share of the peak. Paper: 0.1."""
    warmup_steps: int = 0
    """Steps of linear warmup. The paper has none."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer. Paper: Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Largest L2 norm of the gradient in one step; 0 does not clip."""
    max_demonstrations: int = 1024
    """Demonstrations used to find the mean score."""
    seed: int = 0
    """Of the scalar head and of the order of prompts."""
    save_every: int = 0
    """Steps between checkpoints; 0 saves only at the end."""
    keep_last_n: int = 1
    """Newest checkpoints to keep; 0 keeps all."""
    resume: bool = False
    """Go on from the newest checkpoint in `out`."""
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


def run(config: RewardModelConfig) -> Path:
    """Train and report; returns the run folder, whose newest checkpoint is the reward model."""
    # 1. The SFT model with a scalar head, and the rankings
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    policy, tokenizer = load_checkpoint(config.model, device=device)
    tell_chat_format(tokenizer)
    torch.manual_seed(config.seed)
    model = ScalarModel(policy).to(device)
    set_up_training(model, config, dtype)
    prompts, _ = load_ranked_prompts(config.rankings, tokenizer, max_length=policy.config.context_length)
    steps_per_epoch = -(-len(prompts) // config.batch_size)
    num_steps = config.num_epochs * steps_per_epoch
    optimizer = build_optimizer(
        model, name=config.optimizer, lr=config.peak_learning_rate, weight_decay=config.weight_decay
    )
    with Run(config.out, config, resume=config.resume, verb="reward", keep_last_n=config.keep_last_n,
             metrics=PAIR_METRICS) as run:  # fmt: skip
        done, state = run.load_state(map_location=device) or (0, None)
        if state is not None:
            model.load_state_dict(state["model"], strict=False)
            optimizer.load_state_dict(state["optimizer"])
        # 2. One epoch over prompts; each brings all its pairs
        with Progress(num_steps, "reward model", unit="step", start=done) as progress:
            for step in range(done, num_steps):
                epoch, place = divmod(step, steps_per_epoch)
                order = np.random.default_rng([config.seed, epoch]).permutation(len(prompts))
                batch = [prompts[i] for i in order[place * config.batch_size :][: config.batch_size]]
                multiplier = warmup_cosine(step, num_steps, config.warmup_steps, config.final_learning_rate)
                rate = set_lr(optimizer, multiplier)
                with distributed.autocast(device, dtype):
                    metrics = ranking_gradients(model, batch, microbatch_tokens=config.microbatch_tokens)
                distributed.reduce_gradients(model.parameters())
                norm = clip_gradients(model.parameters(), config.max_grad_norm)
                run.require_finite(step + 1, loss=metrics["loss"], grad_norm=norm)
                optimizer.step()
                optimizer.zero_grad()
                run.log(step + 1, {**metrics, "grad_norm": norm, "lr": rate, "epoch": (step + 1) / steps_per_epoch})
                progress.update(1, loss=metrics["loss"], accuracy=metrics["accuracy"])
                if step + 1 < num_steps and run.save_is_due(step + 1, every=config.save_every, last=num_steps):
                    _save(run, step + 1, model, tokenizer, optimizer, config)
        # 3. Mean score of demonstrations = 0; then save, and report on rankings it has not seen
        if config.demonstrations is not None:
            with distributed.autocast(device, dtype):
                recentre(model, config.demonstrations, tokenizer, config)
        _save(run, num_steps, model, tokenizer, optimizer, config)
        with distributed.only_main("report on held-out rankings") as main, distributed.autocast(device, dtype):
            if main and config.heldout_rankings:
                write_reports(config, model, tokenizer)
        run.finish()
    return config.out


def set_up_training(model: ScalarModel, config: RewardModelConfig, dtype: torch.dtype) -> None:
    """Dropout off; adapters on, if asked for."""
    model.eval()
    set_dropout(model, 0.0)
    model.trunk.activation_checkpointing = config.activation_checkpointing
    store_base(model.trunk, config.base_dtype, lora_rank=config.lora_rank, dtype=dtype)
    if config.lora_rank:
        add_lora(
            model.trunk,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            targets=config.lora_targets,
            layers=config.lora_layers,
            name="reward",
            seed=config.seed,
        )


def learned_state(model: ScalarModel) -> dict[str, torch.Tensor]:
    """What training changes: trainable parameters and the bias."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in trainable or name == "bias"}


def ranking_gradients(model: ScalarModel, batch: list[RankedPrompt], *, microbatch_tokens: int) -> dict[str, float]:
    """Add the gradient of Eq. 1, a mean over the batch's prompts; this rank does its share of them."""
    mine = [batch[i] for i in distributed.local_rows(len(batch))]
    device = model.head.weight.device
    totals = torch.zeros(3, dtype=torch.float64)
    for part in prompt_microbatches(mine, microbatch_tokens):
        rows = ranked_rows(part, model.trunk.config.context_length)
        scores_B = rows.in_order(answer_scores(model, rows))
        rows_PK, ranks_PK, weights_P = (tensor.to(device) for tensor in vote_tensors(part))
        loss, _ = ranking_loss(scores_B[rows_PK], ranks_PK, weights_P)
        (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
        right, pairs = _count_right(scores_B.detach().cpu(), part)
        totals += torch.tensor([float(loss.detach()), right, pairs], dtype=torch.float64)
    loss_sum, right, pairs = distributed.all_reduce_sum(totals).tolist()
    return {"loss": loss_sum / len(batch), "accuracy": right / max(pairs, 1), "pairs": pairs, "prompts": len(batch)}


def _count_right(scores_B: torch.Tensor, prompts: list[RankedPrompt]) -> tuple[float, float]:
    """(pairs ordered as the votes order them, equal scores counted as half; all pairs)."""
    better, worse = pair_rows(prompts)
    return float(order_credit(scores_B[better] - scores_B[worse]).sum()), float(len(better))


def recentre(model: ScalarModel, demonstrations: Path, tokenizer: Tokenizer, config: RewardModelConfig) -> None:
    """Set the model's bias so that demonstrations score 0 on average (InstructGPT, section 3.5)."""
    limit = model.trunk.config.context_length
    prompts, answers = [], []
    usable = partial(check_demonstration, tokenizer, last_only=True)
    for demonstration in read_demonstrations(demonstrations, BadRows(), usable):
        ids = encode_prompt(tokenizer, demonstration.prompt)
        answer = encode_answer(tokenizer, demonstration.prompt, demonstration.answer)
        if len(ids) + len(answer) <= limit:
            prompts.append(ids)
            answers.append(answer)
        if len(answers) == config.max_demonstrations:
            break
    if not answers:
        raise DataError(f"`{demonstrations}` has no demonstration that fits into {limit} tokens")
    scores_B = score_answers(model, prompts, answers, max_length=limit, microbatch_tokens=config.microbatch_tokens)
    model.bias += scores_B.double().mean().to(model.bias.dtype)
    say(f"scores shifted by {-float(scores_B.mean()):+.3f}: {len(answers)} demonstrations now score 0 on average")


def _save(
    run: Run, step: int, model: ScalarModel, tokenizer: Tokenizer, optimizer: Optimizer, config: RewardModelConfig
) -> None:
    def save_model(folder: Path) -> None:
        whole = model
        if config.lora_rank:
            whole = copy.deepcopy(model)
            merge_lora(whole.trunk, "reward")
        save_checkpoint(
            folder,
            whole,
            tokenizer,
            recipe="reward",
            parents={"model": config.model, "rankings": config.rankings},
        )
        if config.lora_rank:
            save_adapter(folder / "adapter", model.trunk, "reward", base=str(config.model))

    run.save(step, save_model, {"model": learned_state(model), "optimizer": optimizer.state_dict()})


def write_reports(config: RewardModelConfig, model: ScalarModel, tokenizer: Tokenizer) -> None:
    """Judge the model on held-out rankings: report.json, heldout_scores.jsonl and a table on the terminal."""
    reports, scores = {}, []
    for path in config.heldout_rankings:
        prompts, rankings = load_ranked_prompts(path, tokenizer, max_length=model.trunk.config.context_length)
        report = judge_reward_model(
            model, prompts, rankings, microbatch_tokens=config.microbatch_tokens, seed=config.seed
        )
        reports[str(path)] = report.to_dict()
        scores += [{"rankings": str(path), **row} for row in report.scores]
        say(report.table(title=path.stem))
    write_atomic(config.out / "report.json", to_json(reports, indent=2) + "\n")
    write_atomic(config.out / "heldout_scores.jsonl", "".join(to_json(row) + "\n" for row in scores))
