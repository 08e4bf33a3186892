"""A plan: what a workload takes on a machine, option by option, what fits, and what would fit where it does not.

Rows are plain values (bytes, FLOPs, seconds), ready for a table or JSON. A row's `runs_here` says whether wuya trains
this way; the others are arithmetic (8-bit Adam, SGD, published mixed precision).
"""

from dataclasses import dataclass
from typing import Any

from wuya.models.config import GPTConfig
from wuya.planning.flops import (
    PETAFLOP_DAY,
    decode_tokens_per_second,
    forward_flops_per_token,
    matmul_parameters,
    ppo_episode_flops,
    training_flops_per_token,
)
from wuya.planning.machine import Machine
from wuya.planning.planner import (
    OptimizerKind,
    Precision,
    TrainingMemory,
    decoder_bytes,
    kv_cache_bytes,
    prefill_bytes,
    published_activation_bytes,
    run_peak,
    state_bytes,
    training_memory,
    weight_bytes,
    zero_bytes,
)
from wuya.planning.ppo_memory import ppo_memory

Row = dict[str, Any]
GIB = 2**30
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8", "int4")
OPTIMIZERS: tuple[OptimizerKind, ...] = ("adamw", "muon", "adamw8bit", "sgd")
ACCELERATOR_GIB = 80


@dataclass(frozen=True, slots=True)
class Workload:
    """What is planned: an architecture and the sizes of its runs."""

    architecture: GPTConfig
    batch_size: int
    """Rows of a training microbatch."""
    context_length: int
    """Tokens of a row, and of a chat."""
    num_tokens: float
    """Training tokens."""
    num_sequences: int
    """Chats in the KV cache at once."""
    lora_rank: int
    prompt: int
    """Tokens of a PPO prompt."""
    completion: int
    """Tokens of a PPO answer."""
    microbatch_tokens: int
    """Positions of one forward and backward pass of PPO."""
    mfu: float
    """Share of the matrix-product speed that training reaches."""
    rollout_batch_size: int = 512
    """PPO episodes of one update."""
    max_batch_size: int = 256
    """PPO answers sampled at once."""


def make_plan(workload: Workload, machine: Machine) -> dict[str, Any]:
    """Everything about a workload on a machine; memory in bytes."""
    purposes = {
        "inference": inference_rows(workload, machine),
        "training": training_rows(workload, machine),
        "reward": reward_rows(workload, machine),
        "ppo": ppo_rows(workload, machine),
    }
    return {
        "model": model_facts(workload),
        **purposes,
        "compute": compute_facts(workload, machine),
        "zero": zero_rows(workload.architecture),
        "verdict": [verdict(purpose, rows, workload, machine) for purpose, rows in purposes.items()],
    }


def model_facts(workload: Workload) -> Row:
    """Size and shape."""
    config = workload.architecture
    return {
        "parameters": config.num_parameters,
        "embedding_parameters": config.vocab_size * config.model_dim,
        "matmul_parameters": matmul_parameters(config),
        "layers": config.num_layers,
        "model_dim": config.model_dim,
        "vocab_size": config.vocab_size,
        "context_length": workload.context_length,
        "batch_size": workload.batch_size,
    }


def inference_rows(workload: Workload, machine: Machine) -> list[Row]:
    """Weights, KV cache and reading the prompts, by precision; int8 and int4 weights keep a float32 cache."""
    config = workload.architecture
    rows = []
    for precision in PRECISIONS:
        weights = decoder_bytes(config, precision)
        cache_precision: Precision = "bfloat16" if precision == "bfloat16" else "float32"
        cache = kv_cache_bytes(
            config, length=workload.context_length, batch_size=workload.num_sequences, precision=cache_precision
        )
        one = weights + cache / workload.num_sequences
        prompts = workload.num_sequences * workload.context_length
        total = weights + cache + prefill_bytes(config, tokens=prompts, precision=cache_precision)
        rows.append(
            {
                "option": precision,
                "weights": weights,
                "kv_cache": cache,
                "total": total,
                "fits": total <= machine.free_bytes,
                "tokens_per_second_limit": decode_tokens_per_second(one, machine.read_bytes_per_second),
                "runs_here": True,
            }
        )
    return rows


def training_rows(workload: Workload, machine: Machine) -> list[Row]:
    """Optimizers with and without activation checkpointing as wuya trains (float32), then published mixed precision."""
    rows = []
    for checkpointing in (False, True):
        for optimizer in ("adamw", "muon"):
            rows.append(_own_row(workload, machine, optimizer, checkpointing=checkpointing, lora_rank=0))
        rows.append(_own_row(workload, machine, "adamw", checkpointing=checkpointing, lora_rank=workload.lora_rank))
    rows += [_published_row(workload, machine, optimizer) for optimizer in OPTIMIZERS]
    return rows


def reward_rows(workload: Workload, machine: Machine) -> list[Row]:
    """The reward model: no output matrix, microbatches of whole prompts with their answers (as PPO's, in tokens)."""
    config, length = workload.architecture, workload.prompt + workload.completion
    batch_size = max(1, workload.microbatch_tokens // length)
    rows = []
    for rank, checkpointing in ((0, False), (0, True), (workload.lora_rank, False), (workload.lora_rank, True)):
        memory = training_memory(
            config, batch_size=batch_size, tokens=length, activation_checkpointing=checkpointing, accumulates=True,
            lora_rank=rank, read=batch_size, loss_tokens=0,
        )  # fmt: skip
        rows.append(_own_memory_row(workload, machine, memory, rank, "AdamW", checkpointing=checkpointing))
    return rows


def ppo_rows(workload: Workload, machine: Machine) -> list[Row]:
    """Four separate models, and one trunk with adapters."""
    rows = []
    options = ((0, False, ""), (workload.lora_rank, False, ", own reward model"), (workload.lora_rank, True, ""))
    for rank, on_trunk, note in options:
        memory = ppo_memory(
            workload.architecture,
            prompt=workload.prompt,
            completion=workload.completion,
            microbatch_tokens=workload.microbatch_tokens,
            rollout_batch_size=workload.rollout_batch_size,
            max_batch_size=workload.max_batch_size,
            cache_bytes=machine.free_bytes / 2,
            lora_rank=rank,
            reward_on_trunk=on_trunk,
        )
        moment = max(memory.moments, key=lambda name: memory.moments[name])
        rows.append(
            {
                "option": f"one trunk, LoRA rank {rank}{note}" if rank else "four models, all weights",
                "models": {model.role: model.resident for model in memory.models},
                "resident": memory.resident,
                "moments": memory.moments,
                "largest_moment": moment,
                "total": memory.peak,
                "fits": memory.peak <= machine.free_bytes,
                "runs_here": True,
            }
        )
    return rows


def compute_facts(workload: Workload, machine: Machine) -> Row:
    """FLOPs, and seconds on this machine at the assumed share of its matrix-product speed."""
    config, context = workload.architecture, workload.context_length
    speed = max(machine.float32_flops, machine.bfloat16_flops if machine.device == "cuda" else 0.0) * workload.mfu
    training = training_flops_per_token(config, context) * workload.num_tokens
    episode = ppo_episode_flops(config, prompt=workload.prompt, completion=workload.completion)
    return {
        "forward_flops_per_token": forward_flops_per_token(config, context),
        "training_flops_per_token": training_flops_per_token(config, context),
        "training_tokens": workload.num_tokens,
        "training_flops": training,
        "petaflop_days": training / PETAFLOP_DAY,
        "training_tokens_per_second": speed / training_flops_per_token(config, context),
        "training_seconds": training / speed,
        "ppo_flops_per_episode": episode.total,
        "ppo_seconds_per_1000_episodes": 1000 * episode.total / speed,
        "flops_used": speed,
    }


def zero_rows(config: GPTConfig) -> list[Row]:
    """Bytes per rank of mixed-precision AdamW without activations, by ZeRO stage."""
    rows = []
    for ranks in (1, 8, 64):
        row: Row = {"ranks": ranks}
        for stage in (0, 1, 2, 3):
            row[f"stage_{stage}"] = zero_bytes(config.num_parameters, stage=stage, num_ranks=ranks)
        rows.append(row)
    return rows


def verdict(purpose: str, rows: list[Row], workload: Workload, machine: Machine) -> str:
    """One sentence: what fits as it is, else the nearest option that does, else what machine would."""
    first, free = rows[0], machine.free_bytes
    need = f"{readable(first['total'])} of {readable(free)} free"
    if first["fits"]:
        return f"{purpose}: fits ({first['option']}: {need})"
    fitting = [row for row in rows if row["fits"]]
    fitting.sort(key=lambda row: not row["runs_here"])  # ways that wuya can go first, else in order
    start = f"{purpose}: {first['option']} does not fit ({need})"
    if fitting:
        note = "" if fitting[0]["runs_here"] else ", which wuya does not do yet"
        return f"{start}; {fitting[0]['option']} would ({readable(fitting[0]['total'])}{note})"
    smaller = _smaller(purpose, workload, free)
    if smaller:
        return f"{start}; {smaller}"
    least = min(rows, key=lambda row: float(row["total"]))
    state = least["total"] if purpose == "inference" else 16 * workload.architecture.num_parameters
    ranks = -(-int(state * 1.2) // (ACCELERATOR_GIB * GIB))
    return (
        f"{start}; nor does anything else here (least: {least['option']}, {readable(least['total'])}): it takes at "
        f"least {ranks} accelerators of {ACCELERATOR_GIB} GiB that share weights and state (ZeRO-3), or a smaller model"
    )


def readable(num_bytes: float) -> str:
    """12.3 GiB, 45.6 MiB."""
    return f"{num_bytes / GIB:,.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:,.1f} MiB"


def _own_row(
    workload: Workload, machine: Machine, optimizer: OptimizerKind, *, checkpointing: bool, lora_rank: int
) -> Row:
    memory = training_memory(
        workload.architecture,
        batch_size=workload.batch_size,
        tokens=workload.context_length,
        optimizer="muon" if optimizer == "muon" else "adamw",
        activation_checkpointing=checkpointing,
        lora_rank=lora_rank,
    )
    name = {"adamw": "AdamW", "muon": "Muon"}[optimizer]
    return _own_memory_row(workload, machine, memory, lora_rank, name, checkpointing=checkpointing)


def _own_memory_row(
    workload: Workload, machine: Machine, memory: TrainingMemory, lora_rank: int, name: str, *, checkpointing: bool
) -> Row:
    peak = run_peak(workload.architecture, memory, lora_rank=lora_rank)
    way = f"LoRA rank {lora_rank}" if lora_rank else name
    return {
        "option": f"{way} float32{', checkpointing' if checkpointing else ''}",
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
        "total": peak,
        "fits": peak <= machine.free_bytes,
        "runs_here": True,
    }


def _published_row(workload: Workload, machine: Machine, optimizer: OptimizerKind) -> Row:
    config, state = workload.architecture, state_bytes(optimizer, "bfloat16")
    activations = config.num_layers * published_activation_bytes(
        tokens=workload.context_length,
        batch_size=workload.batch_size,
        model_dim=config.model_dim,
        num_heads=config.num_heads,
        flash=True,
        dropout=config.dropout > 0,
    )
    logits = 6.0 * workload.batch_size * workload.context_length * config.vocab_size
    parts = [part * config.num_parameters for part in (state.weights, state.gradients, state.optimizer)]
    total = sum(parts) + activations + logits
    name = {"adamw": "AdamW", "muon": "Muon", "adamw8bit": "8-bit AdamW", "sgd": "SGD, momentum"}[optimizer]
    return {
        "option": f"{name} bfloat16 + master",
        **dict(zip(("weights", "gradients", "optimizer"), parts, strict=True)),
        "activations": activations,
        "logits": logits,
        "total": total,
        "fits": total <= machine.free_bytes,
        "runs_here": False,
    }


def _smaller(purpose: str, workload: Workload, free: int) -> str:
    """The same work in smaller pieces: halve what is held at once until it fits."""
    config = workload.architecture
    if purpose == "training":
        for rank in (0, workload.lora_rank):
            rows = workload.batch_size
            while (rows := rows // 2) >= 1:
                memory = training_memory(
                    config,
                    batch_size=rows,
                    tokens=workload.context_length,
                    activation_checkpointing=True,
                    accumulates=True,
                    lora_rank=rank,
                )
                if (peak := run_peak(config, memory, lora_rank=rank)) <= free:
                    how = f"LoRA rank {rank}" if rank else "AdamW"
                    return f"microbatches of {rows} rows with {how} and checkpointing would ({readable(peak)})"
    if purpose == "ppo":
        tokens = workload.microbatch_tokens
        while (tokens := tokens // 2) >= workload.prompt + workload.completion:
            memory_of_ppo = ppo_memory(
                config,
                prompt=workload.prompt,
                completion=workload.completion,
                microbatch_tokens=tokens,
                max_batch_size=32,
                lora_rank=workload.lora_rank,
                reward_on_trunk=True,
            )
            if memory_of_ppo.peak <= free:
                size = readable(memory_of_ppo.peak)
                return f"one trunk with LoRA and `--microbatch_tokens {tokens}` would ({size})"
    if purpose == "inference":
        least = weight_bytes(config.num_parameters, "int4")
        per_token = kv_cache_bytes(config, length=1, batch_size=workload.num_sequences, precision="bfloat16")
        if (room := int((free - least) // per_token)) >= 256:
            return f"int4 weights with a context of {room:,} tokens would"
    return ""
