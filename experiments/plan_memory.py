"""Compare what `wuya plan` predicts with what a training step takes: peak resident memory over that after the imports.

    python experiments/plan_memory.py                    # 3 sizes x {none, activation checkpointing}, float32, CPU
    python experiments/plan_memory.py --case '{"num_layers": 4, "model_dim": 256, ...}'    # one case, in this process

Each case runs in a process of its own: import, one step of a tiny model (so that thread pools and kernels are loaded),
note the memory, then build the model and do three steps. Prints one JSON object a case.

glibc keeps freed blocks of up to 32 MB for itself, so resident memory is what was once in use, not what is: a quarter
to a half more than the tensors that live at any time. With `--allocator exact` (the default here) blocks of 1 MB and
more go back to the system when they are freed (MALLOC_MMAP_THRESHOLD_=100000), which is what the prediction is about;
with `--allocator glibc` nothing is set, which is what a run takes that sets nothing. Models whose tensors are larger
than 32 MB behave alike in both.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CASES = [
    {"num_layers": 4, "model_dim": 192, "vocab_size": 2048, "tokens": 256, "batch_size": 8},
    {"num_layers": 6, "model_dim": 256, "vocab_size": 4096, "tokens": 256, "batch_size": 4},
    {"num_layers": 3, "model_dim": 384, "vocab_size": 8192, "tokens": 128, "batch_size": 8},
]
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "100000", "OMP_NUM_THREADS": "1"}


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process: VmRSS now, VmHWM at its largest."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this script needs /proc")


def measure(case: dict[str, int | bool | str]) -> dict[str, object]:
    """Run one case in this process."""
    import torch

    from wuya.models.gpt import GPT
    from wuya.models.lora import add_lora
    from wuya.models.presets import modern, tiny
    from wuya.planning.planner import training_memory
    from wuya.training.language_model import add_gradients
    from wuya.training.optimizer import build_optimizer, clip_gradients

    def steps(model: GPT, batch_size: int, tokens: int, count: int) -> None:
        optimizer = build_optimizer(model, name=str(case.get("optimizer", "adamw")), lr=1e-4)  # type: ignore[arg-type]
        ids_BT = torch.randint(0, model.config.vocab_size, (batch_size, tokens))
        for _ in range(count):
            add_gradients(model, ids_BT, ids_BT, microbatch_size=int(case.get("microbatch_size", batch_size)))
            clip_gradients(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    steps(GPT(tiny()).train(), 4, 64, 2)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # start the peak anew
    tokens, batch_size = int(case["tokens"]), int(case["batch_size"])
    config = modern(
        vocab_size=int(case["vocab_size"]), num_layers=int(case["num_layers"]), model_dim=int(case["model_dim"]),
        context_length=tokens,
    )  # fmt: skip
    model = GPT(config).train()
    model.activation_checkpointing = bool(case.get("activation_checkpointing", False))
    if case.get("lora_rank"):
        add_lora(model, rank=int(case["lora_rank"]), alpha=16.0)
    steps(model, batch_size, tokens, 3)
    measured = resident("VmHWM") - before
    rows = int(case.get("microbatch_size", batch_size))
    predicted = training_memory(
        config,
        batch_size=rows,
        tokens=tokens,
        optimizer=str(case.get("optimizer", "adamw")),  # type: ignore[arg-type]
        activation_checkpointing=model.activation_checkpointing,
        accumulates=rows < batch_size,
        lora_rank=int(case.get("lora_rank", 0)),
    )
    return {
        **case,
        "parameters": config.num_parameters,
        "predicted_mb": round(predicted.peak / 1e6, 1),
        "measured_mb": round(measured / 1e6, 1),
        "predicted_over_measured": round(predicted.peak / measured, 3),
    }


def measure_apart(case: dict[str, int | bool | str], *, exact: bool = True) -> dict[str, object]:
    """Run one case in a fresh process, with an allocator that returns freed memory or with glibc's defaults."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    environment = {**os.environ, **(RETURN_FREED_MEMORY if exact else {})}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, object] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=json.loads)
    parser.add_argument("--optimizer", default="adamw", choices=["adamw", "muon"])
    parser.add_argument("--lora_rank", type=int, default=0, help="train adapters of this rank on frozen weights")
    parser.add_argument("--allocator", default="exact", choices=["exact", "glibc"])
    arguments = parser.parse_args()
    if arguments.case:
        sys.stdout.write(json.dumps(measure(arguments.case)) + "\n")
    else:
        for sizes in CASES:
            for checkpointing in (False, True):
                case = {**sizes, "activation_checkpointing": checkpointing, "optimizer": arguments.optimizer}
                case |= {"lora_rank": arguments.lora_rank} if arguments.lora_rank else {}
                sys.stdout.write(json.dumps(measure_apart(case, exact=arguments.allocator == "exact")) + "\n")
                sys.stdout.flush()
