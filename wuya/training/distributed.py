"""One code path for one process and for many (`torchrun`): every function here does nothing at world size 1.

Data parallelism is a sum: each rank runs its rows of the global batch, divides by *global* counts, and gradients are
added across ranks before the step. That makes 1 = 2 processes true up to the order of additions, also when ranks have
different numbers of target tokens. Gradients are flattened into a few buffers; no module is wrapped, so recipes call
their models as they are.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wuya.errors import ConfigError, RunError

DtypeName = Literal["auto", "float32", "bfloat16"]
BUCKET_ELEMENTS = 16 * 1024 * 1024
"""Gradients are reduced in buffers of about this many numbers."""


def init(device: str = "auto") -> torch.device:
    """Join the process group when `torchrun` started this process; return this rank's device."""
    chosen = resolve_device(device)
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return chosen


def rank() -> int:
    """This process's number, 0 to world_size - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on the one rank that writes."""
    return rank() == 0


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()


def shutdown() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def group_device() -> torch.device:
    """Where the process group takes tensors: NCCL refuses those of the CPU, gloo is for nothing else."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Add a tensor over all ranks, in place, whichever device it is on."""
    if world_size() > 1:
        shared = tensor.to(group_device())
        dist.all_reduce(shared)
        if shared is not tensor:
            tensor.copy_(shared)
    return tensor


def any_rank(flag: bool) -> bool:
    """True everywhere if it is true on some rank; all ranks must ask."""
    if world_size() == 1:
        return flag
    return bool(all_reduce_sum(torch.tensor(int(flag))).item())


@contextmanager
def only_main(what: str) -> Iterator[bool]:
    """`with only_main("write the report") as main: if main: ...`: the other ranks wait for rank 0, and where it fails
    every rank ends in words instead of waiting for ever.

    Raises RunError on the other ranks; the error of rank 0 itself goes on as it is.
    """
    failed = True
    try:
        yield is_main()
        failed = False
    finally:
        failed = any_rank(failed)
    if failed:
        raise RunError(f"rank 0 could not {what}", found=f"this is rank {rank()}", hint="see the message of rank 0")


def gather(value: object) -> list[object]:
    """Every rank's value, in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[object] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_stats(stats: Mapping[str, float]) -> dict[str, float]:
    """Each statistic summed over all ranks; a rank without rows in this minibatch may have none."""
    totals: defaultdict[str, float] = defaultdict(float)
    shared: list[Any] = gather(dict(stats))
    for rank in shared:
        for name, value in rank.items():
            totals[name] += value
    return dict(totals)


@torch.no_grad()
def broadcast_weights(model: nn.Module) -> None:
    """Give every rank the weights of rank 0."""
    if world_size() > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.data, src=0)


@torch.no_grad()
def reduce_gradients(params: Iterable[nn.Parameter]) -> None:
    """Add the gradients of all ranks (losses divided by global counts); once a step, after the last backward."""
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for param in params:
        if not param.requires_grad:
            continue
        if param.grad is None:  # a rank without rows for this parameter still takes part in the sum
            param.grad = torch.zeros_like(param)
        bucket.append(param.grad)
        size += param.grad.numel()
        if size >= BUCKET_ELEMENTS:
            _reduce_bucket(bucket)
            bucket, size = [], 0
    _reduce_bucket(bucket)


def _reduce_bucket(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, reduced in zip(gradients, parts, strict=True):
        gradient.copy_(reduced.view_as(gradient))


def local_rows(count: int) -> range:
    """The rows of a global batch that are this rank's: every world_size-th, so that ranks differ by at most one row."""
    return range(rank(), count, world_size())


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU when there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"`device` is not a torch device: {device!r}", hint="use auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("`device=cuda`, but torch sees no GPU", hint="use `--device auto` or `--device cpu`")
    return chosen


def cpu_capabilities() -> dict[str, object]:
    """What torch found out about this CPU; empty on versions of torch that do not tell."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return known


def has_bfloat16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is in the hardware; emulated it is some thirty times slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return any(cpu_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def resolve_dtype(dtype: DtypeName, device: torch.device) -> torch.dtype:
    """The arithmetic of matrix products: `auto` is bf16 where the hardware has it, else fp32. Weights stay fp32."""
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Matrix products in `dtype`; nothing at all for fp32.

    Until the block ends torch keeps the copies of the weights in `dtype`; `Optimizer.step` drops them.
    """
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
