"""From rankings to a policy in one step: DPO (Rafailov et al. 2023, arXiv:2305.18290) and IPO (arXiv:2310.12036).

    wuya dpo --model runs/sft --rankings rm_pairs.jsonl --out runs/dpo
    wuya dpo --loss ipo --beta 0.1 ...

Reads an SFT checkpoint and rankings or pairs (JSONL, any form `wuya reward` reads: a frozen `wuya snapshot`); writes
runs/dpo/{config.yaml, metrics.jsonl, report.json, checkpoints/}.

The log-ratio beta * log(policy / reference) of an answer, summed over its tokens, *is* a reward, and DPO is the reward
model's loss on it (Eq. 7): here as there all pairs of a prompt are one batch element, and K answers take K forward
passes. The reference never changes, so its log-probs are computed once and no second model is kept.
Differs from the paper: K-way rankings (a mean over the prompt's pairs; for K = 2 it is the paper's loss), votes weigh 1
a prompt, and the rate falls by a cosine.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wuya.config import require_positive
from wuya.console import Progress, say, warn
from wuya.data.formats import read_rankings
from wuya.errors import DataError
from wuya.evals.calibration import PairVote, calibrate
from wuya.files import BadRows, to_json, write_atomic
from wuya.losses.direct import dpo_loss, ipo_loss
from wuya.losses.preference import ranking_loss
from wuya.models.checkpoint import load_checkpoint, save_checkpoint
from wuya.models.gpt import GPT
from wuya.models.lora import add_lora, merge_lora
from wuya.tokenizer.bpe import Tokenizer
from wuya.training import distributed
from wuya.training.answer_rows import answer_logprobs
from wuya.training.optimizer import Optimizer, build_optimizer, clip_gradients, set_lr
from wuya.training.ranked_prompts import (
    RankedPrompt,
    prompt_microbatches,
    ranked_prompts,
    ranked_rows,
    vote_tensors,
)
from wuya.training.run import Run
from wuya.training.schedule import warmup_cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class DPOConfig:
    """Learn a policy from rankings without a reward model."""

    model: Path
    """SFT checkpoint: the starting policy and, as its log-probs at the start, the reference."""
    rankings: Path
    """JSONL of rankings or pairs to learn from."""
    out: Path
    """Run folder."""
    heldout_rankings: tuple[Path, ...] = ()
    """Rankings of other prompts: how often the log-ratio prefers what people preferred."""
    loss: Literal["dpo", "ipo"] = "dpo"
    """dpo: -log sigmoid(beta h). ipo: (h - 1/(2 beta))^2, which stops at its target instead of growing for ever."""
    beta: float = 0.1
    """Strength of the implied KL penalty. Papers: 0.05 to 0.5 (DPO), 0.1 to 1 (IPO)."""
    lora_rank: int = 0
    """Rank of LoRA adapters to train in place of all weights; the checkpoint is merged. 0 trains everything."""
    lora_alpha: float = 32.0
    """LoRA scale: adapters are multiplied by alpha / rank. Without effect at rank 0."""
    lora_targets: tuple[str, ...] = ("qkv", "out", "gate_up", "up", "down")
    """Linear layers that get adapters. Without effect at rank 0."""
    num_epochs: int = 1
    """Passes over the rankings."""
    batch_size: int = 64
    """Prompts (all their pairs) per optimizer step, summed over all ranks. Paper: 64 pairs."""
    microbatch_tokens: int = 8192
    """Positions (padding included) of one forward and backward pass: what fits in memory. Changes no result."""
    learning_rate: float = 1e-6
    """Peak learning rate. Paper: 1e-6 (RMSprop); small models bear more."""
    final_learning_rate: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    warmup_steps: int = 10
    """Steps of linear warmup. Paper: 150 of its longer runs."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer. Paper: RMSprop."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Largest L2 norm of the gradient in one step; 0 does not clip."""
    seed: int = 0
    """Of the order of prompts."""
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
        require_positive(self, "beta", "num_epochs", "batch_size", "microbatch_tokens", "learning_rate")


def run(config: DPOConfig) -> Path:
    """Train and report; returns the run folder, whose newest checkpoint is the policy."""
    # 1. The policy, the rankings, and what the reference thinks of every answer
    device = distributed.init(config.device)
    dtype = distributed.resolve_dtype(config.dtype, device)
    policy, tokenizer = load_checkpoint(config.model, device=device)
    policy.eval()  # dropout off: the reference is the policy at the start, to the last bit
    prompts = load_prompts(config.rankings, tokenizer, max_length=policy.config.context_length)
    heldout = {path: load_prompts(path, tokenizer, max_length=policy.config.context_length)
               for path in config.heldout_rankings}  # fmt: skip
    with distributed.autocast(device, dtype):
        reference = {
            id(p): lp for group in (prompts, *heldout.values()) for p, lp in logprobs_of(policy, group, config)
        }
    if config.lora_rank:
        add_lora(policy, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets,
                 name="policy", seed=config.seed)  # fmt: skip
    steps_per_epoch = -(-len(prompts) // config.batch_size)
    num_steps = config.num_epochs * steps_per_epoch
    optimizer = build_optimizer(
        policy, name=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    with Run(config.out, config, resume=config.resume, verb="dpo", keep_last_n=config.keep_last_n) as run:
        done, state = run.load_state(map_location=device) or (0, None)
        if state is not None:
            policy.load_state_dict(state["policy"])
            optimizer.load_state_dict(state["optimizer"])
        # 2. The reward model's loss, with the log-ratio for a score
        with Progress(num_steps, config.loss, unit="step", start=done) as progress:
            for step in range(done, num_steps):
                epoch, place = divmod(step, steps_per_epoch)
                order = np.random.default_rng([config.seed, epoch]).permutation(len(prompts))
                batch = [prompts[i] for i in order[place * config.batch_size :][: config.batch_size]]
                multiplier = warmup_cosine(step, num_steps, config.warmup_steps, config.final_learning_rate)
                set_lr(optimizer, multiplier)
                with distributed.autocast(device, dtype):
                    metrics = dpo_gradients(policy, batch, reference, config)
                distributed.reduce_gradients(policy.parameters())
                norm = clip_gradients(policy.parameters(), config.max_grad_norm)
                run.require_finite(step + 1, loss=metrics["loss"], grad_norm=norm)
                optimizer.step()
                optimizer.zero_grad()
                place_in_epochs = {"grad_norm": norm, "lr": multiplier, "epoch": (step + 1) / steps_per_epoch}
                run.log(step + 1, {**metrics, **place_in_epochs})
                progress.update(1, loss=metrics["loss"], accuracy=metrics["accuracy"])
                if run.save_is_due(step + 1, every=config.save_every, last=num_steps):
                    save(run, step + 1, policy, tokenizer, optimizer, config)
        # 3. Does the log-ratio prefer what people prefer on prompts it has not seen?
        if heldout:
            write_report(config, policy, heldout, reference)
        run.finish()
    return config.out


def load_prompts(path: Path, tokenizer: Tokenizer, *, max_length: int) -> list[RankedPrompt]:
    """Batch elements from a JSONL file; what cannot be used is counted and named."""
    bad = BadRows()
    rankings = list(read_rankings(path, bad))
    prompts, dropped = ranked_prompts(rankings, tokenizer, max_length=max_length)
    if bad.count:
        warn(bad.summary())
    if dropped:
        warn(f"`{path}`: {dropped} of {len(rankings)} rankings left out: all ties, or longer than {max_length} tokens")
    if not prompts:
        raise DataError(f"`{path}` has no ranking to learn from", found=f"{len(rankings)} rankings")
    return prompts


def ranked_logprobs(policy: GPT, part: Sequence[RankedPrompt]) -> Tensor:
    """log pi(answer | prompt) of every answer of the prompts laid end to end, nats, [B]; carries gradient."""
    rows = ranked_rows(part, policy.config.context_length)
    return rows.in_order(answer_logprobs(policy, rows))


@torch.no_grad()
def logprobs_of(policy: GPT, prompts: Sequence[RankedPrompt], config: DPOConfig) -> list[tuple[RankedPrompt, Tensor]]:
    """Each prompt with the log-probs of its answers, [K]."""
    found: list[tuple[RankedPrompt, Tensor]] = []
    for part in prompt_microbatches(prompts, config.microbatch_tokens):
        logprobs_B = ranked_logprobs(policy, part)
        found += zip(part, torch.split(logprobs_B, [len(prompt.sequences) for prompt in part]), strict=True)
    return found


def dpo_gradients(
    policy: GPT, batch: Sequence[RankedPrompt], reference: dict[int, Tensor], config: DPOConfig
) -> dict[str, float]:
    """Add the gradient of DPO's or IPO's loss, a mean over the batch's prompts; this rank does its share of them."""
    pair_loss = partial(dpo_loss if config.loss == "dpo" else ipo_loss, beta=config.beta)
    totals = torch.zeros(6, dtype=torch.float64)
    for part in prompt_microbatches([batch[i] for i in distributed.local_rows(len(batch))], config.microbatch_tokens):
        ref_B = torch.cat([reference[id(prompt)] for prompt in part])
        log_ratio_B = ranked_logprobs(policy, part) - ref_B
        rows_PK, ranks_PK, weights_P = (tensor.to(policy.device) for tensor in vote_tensors(part))
        loss, _ = ranking_loss(log_ratio_B[rows_PK], ranks_PK, weights_P, pair_loss=pair_loss)
        (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
        totals[0] += float(loss.detach())
        totals[1:] += _pair_sums(log_ratio_B.detach().double().cpu(), part)
    loss_sum, pairs, right, chosen, rejected, margin = distributed.all_reduce_sum(totals).tolist()
    pairs = max(pairs, 1.0)
    return {
        "loss": loss_sum / len(batch),
        "accuracy": right / pairs,
        "objective/margin": margin / pairs,
        "objective/chosen_logratio": chosen / pairs,
        "objective/rejected_logratio": rejected / pairs,
        "pairs": pairs,
        "prompts": len(batch),
    }


def _pair_sums(log_ratio_B: Tensor, prompts: Sequence[RankedPrompt]) -> Tensor:
    """Sums over all pairs of all votes: 1, right, chosen log-ratio, rejected log-ratio, margin."""
    better, worse, offset = [], [], 0
    for prompt in prompts:
        for vote in prompt.votes:
            better += [offset + a for a, _ in vote.pairs]
            worse += [offset + b for _, b in vote.pairs]
        offset += len(prompt.sequences)
    chosen, rejected = log_ratio_B[better], log_ratio_B[worse]
    margin = chosen - rejected
    return torch.stack(
        [torch.tensor(float(len(better))), (margin > 0).double().sum(), chosen.sum(), rejected.sum(), margin.sum()]
    )


def save(run: Run, step: int, policy: GPT, tokenizer: Tokenizer, optimizer: Optimizer, config: DPOConfig) -> None:
    """A checkpoint with the adapters merged, and the state to go on from."""

    def save_model(folder: Path) -> None:
        whole = policy
        if config.lora_rank:
            whole = copy.deepcopy(policy)
            merge_lora(whole, "policy")
        parents: dict[str, Path | str] = {"model": config.model, "rankings": config.rankings}
        save_checkpoint(folder, whole, tokenizer, recipe="dpo", parents=parents, extra={"loss": config.loss})

    run.save(step, save_model, {"policy": policy.state_dict(), "optimizer": optimizer.state_dict()})


def write_report(
    config: DPOConfig, policy: GPT, heldout: dict[Path, list[RankedPrompt]], reference: dict[int, Tensor]
) -> None:
    """report.json: accuracy and calibration of the implicit reward beta * log-ratio on each held-out file."""
    reports: dict[str, Any] = {}
    for path, prompts in heldout.items():
        votes = []
        for prompt, logprobs_K in logprobs_of(policy, prompts, config):
            rewards = (config.beta * (logprobs_K - reference[id(prompt)])).tolist()
            votes += [
                PairVote(prompt.prompt.id, rewards[a], rewards[b]) for vote in prompt.votes for a, b in vote.pairs
            ]
        judged = calibrate(votes, seed=config.seed)
        reports[str(path)] = {"num_prompts": len(prompts), "num_votes": len(votes), **judged.to_dict()}
        say(f"{path.stem}: the log-ratio prefers what people prefer in {judged.accuracy} of {len(votes):,} votes")
    if distributed.is_main():
        write_atomic(config.out / "report.json", to_json(reports, indent=2) + "\n")
