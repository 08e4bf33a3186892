"""Every check that needs a GPU, in ten minutes: the tests marked gpu, then speed and memory of four recipes.

    python scripts/gpu_checks.py --out runs/gpu                      # on a machine with a GPU
    python scripts/gpu_checks.py --out runs/gpu --size tiny          # anywhere: does the script itself work?

Runs `pytest -m gpu` (every recipe on CUDA, and on two processes with NCCL where there are two GPUs), then pretrain,
sft, ppo and grpo on random weights and text, each in a process of its own, and compares the peak of torch's allocator
with what `wuya plan` would say. Writes <out>/{pytest.txt, rows.json, rows.md} after each step, so that what is done
when the time is up is kept; rows.md is the table for docs/benchmarks.md.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from wuya.files import make_folder, to_json, write_atomic

ROOT = Path(__file__).resolve().parents[1]
WORDS = "the cat sat on a mat and dog ran to sun while bird sang song of log under tree near old house".split()


@dataclass(frozen=True)
class Size:
    """An architecture and how much work is measured."""

    model: dict[str, int]
    tokens: int
    """Length of a row of pretrain and sft."""
    rows: int
    """Rows of an update of pretrain and sft, all in one pass."""
    updates: int
    prompt_words: int
    completion: int
    episodes: int
    """Of an update of ppo and grpo."""
    recipes: tuple[str, ...] = ("pretrain", "sft", "ppo", "grpo")


SIZES = {
    "tiny": Size({"vocab_size": 320, "num_layers": 2, "model_dim": 32, "mlp_dim": 64, "num_heads": 2, "num_kv_heads": 1,
                  "head_dim": 16}, 32, 4, 2, 4, 8, 8),
    "135M": Size({"vocab_size": 49152, "num_layers": 30, "model_dim": 576, "mlp_dim": 1536, "num_heads": 9,
                  "num_kv_heads": 3, "head_dim": 64}, 2048, 16, 12, 64, 128, 256),
    "360M": Size({"vocab_size": 49152, "num_layers": 32, "model_dim": 960, "mlp_dim": 2560, "num_heads": 15,
                  "num_kv_heads": 5, "head_dim": 64}, 2048, 16, 8, 64, 128, 256),
    "0.6B": Size({"vocab_size": 151936, "num_layers": 28, "model_dim": 1024, "mlp_dim": 3072, "num_heads": 16,
                  "num_kv_heads": 8, "head_dim": 128}, 2048, 8, 6, 64, 128, 128, ("pretrain", "sft", "grpo")),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", nargs="+", default=["135M", "360M", "0.6B"], choices=list(SIZES))
    parser.add_argument("--recipes", nargs="+", default=["pretrain", "sft", "ppo", "grpo"])
    parser.add_argument("--seconds", type=float, default=570.0, help="nothing is begun after this")
    parser.add_argument("--no_tests", action="store_true", help="measure only")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        recipe, size = options.one.split(",")
        sys.stdout.write(json.dumps(measure(recipe, size, options.out)) + "\n")
        return
    deadline = time.monotonic() + options.seconds
    make_folder(options.out)
    if not options.no_tests:
        run_tests(options.out, seconds=options.seconds / 2)
    rows: list[dict[str, Any]] = []
    for name in options.size:
        for recipe in (one for one in SIZES[name].recipes if one in options.recipes):
            left = deadline - time.monotonic()
            if left > 0:
                rows.append(measure_apart(recipe, name, options.out, seconds=left))
                write_atomic(options.out / "rows.json", to_json(rows, indent=1) + "\n")
                write_atomic(options.out / "rows.md", markdown(rows))
    print(markdown(rows))


def run_tests(out: Path, *, seconds: float) -> None:
    """`pytest -m gpu`, its output kept."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--no-header", "-p", "no:cacheprovider", "tests"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
        text = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        text = f"{error.stdout or b''!r}\nstopped after {seconds:.0f} s"
    write_atomic(out / "pytest.txt", text)
    print("\n".join(text.splitlines()[-12:]))


def measure_apart(recipe: str, size: str, out: Path, *, seconds: float) -> dict[str, Any]:
    """One row, measured in a fresh process; a failure is a row, too."""
    command = [sys.executable, __file__, "--out", str(out), "--one", f"{recipe},{size}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 1), check=True)
    except subprocess.TimeoutExpired:
        return {"recipe": recipe, "size": size, "failed": "no time left"}
    except subprocess.CalledProcessError as error:
        return {"recipe": recipe, "size": size, "failed": " ".join((error.stderr or "").split("\n")[-6:])[-300:]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(recipe: str, size: str, out: Path) -> dict[str, Any]:
    """Train in this process; tokens per second of the last updates, and the peak of memory against the plan."""
    import resource

    import torch

    inputs = out / f"inputs_{size}"
    if not (inputs / "done").exists():
        write_inputs(inputs, SIZES[size])
    run_out = out / f"{recipe}_{size}"
    module, name, fields = recipe_fields(recipe, inputs, SIZES[size])
    config = getattr(import_module(module), name)(out=run_out, device="auto", dtype="bfloat16", **fields)
    began = time.perf_counter()
    import_module(module).run(config)
    seconds = time.perf_counter() - began
    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = [json.loads(line) for line in (run_out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shutil.rmtree(run_out)  # checkpoints with their optimizer states: gigabytes each
    return {
        "recipe": recipe,
        "size": size,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "tokens_per_second": speed(rows, SIZES[size], recipe),
        "peak_bytes": int(peak),
        "planned_bytes": int(planned(recipe, SIZES[size])),
        "seconds": round(seconds, 1),
    }


def speed(rows: Sequence[dict[str, Any]], size: Size, recipe: str) -> float:
    """Trained tokens per second; for ppo and grpo the sampled tokens of an update by its whole time."""
    if recipe in ("pretrain", "sft"):
        return float([row["tokens_per_second"] for row in rows if "tokens_per_second" in row][-1])
    updates = [row for row in rows if "objective/length" in row]
    seconds = (updates[-1]["time"] - updates[0]["time"]) / max(1, len(updates) - 1)
    return float(updates[-1]["objective/length"] * size.episodes / max(seconds, 1e-9))


def planned(recipe: str, size: Size) -> float:
    """Bytes that `wuya plan` says."""
    from wuya.models.presets import preset
    from wuya.planning.planner import training_memory
    from wuya.planning.ppo_memory import ppo_memory

    config = preset("tiny", **size.model, context_length=max(size.tokens, size.prompt_words * 8 + size.completion))
    if recipe in ("pretrain", "sft"):
        return training_memory(config, batch_size=size.rows, tokens=size.tokens).peak
    memory = ppo_memory(config, prompt=size.prompt_words * 3, completion=size.completion, ema=recipe == "ppo",
                        rollout_batch_size=size.episodes)  # fmt: skip
    if recipe == "ppo":
        return memory.peak
    unused = {"value model", "reward model"}
    resident = memory.tokenizer + sum(model.resident for model in memory.models if model.role not in unused)
    return resident + max(bytes for moment, bytes in memory.moments.items() if moment != "value step")


def recipe_fields(recipe: str, inputs: Path, size: Size) -> tuple[str, str, dict[str, Any]]:
    """Module, config class and fields of a run of a few updates."""
    like = {"policy": inputs / "sft", "prompts": inputs / "prompts.jsonl", "rollout_batch_size": size.episodes,
            "num_updates": 3, "max_tokens": size.completion, "final_kl_prompts": 0, "show_samples_every": 0,
            "save_every": 0, "warmup_updates": 0}  # fmt: skip
    if recipe == "pretrain":
        return "wuya.recipes.pretrain", "PretrainConfig", {
            "data": inputs / "shards", "tokenizer": inputs / "tokenizer", "model": size.model,
            "context_length": size.tokens, "batch_size": size.rows, "microbatch_size": size.rows,
            "num_tokens": size.rows * size.tokens * size.updates, "optimizer": "adamw", "learning_rate": 1e-4,
            "num_samples": 0, "log_every": 1, "save_every": 0}  # fmt: skip
    if recipe == "sft":
        return "wuya.recipes.sft", "SFTConfig", {
            "base": inputs / "sft", "demonstrations": inputs / "demonstrations.jsonl", "context_length": size.tokens,
            "batch_size": size.rows, "microbatch_size": size.rows, "num_samples": 0, "log_every": 1, "save_every": 0,
            "num_tokens": size.rows * size.tokens * size.updates, "learning_rate": 1e-5}  # fmt: skip
    if recipe == "ppo":
        return "wuya.recipes.ppo", "PPOConfig", {
            **like, "reward": str(inputs / "rm"), "minibatch_size": size.episodes // 4,
            "max_batch_size": size.episodes}  # fmt: skip
    return "wuya.recipes.grpo", "GRPOConfig", {
        **like, "reward": f"{inputs / 'my.py'}:shorter", "minibatch_size": size.episodes, "group_size": 4,
        "max_batch_size": size.episodes}  # fmt: skip


def write_inputs(inputs: Path, size: Size) -> None:
    """A tokenizer, random text as shards, chats and prompts, and random weights."""
    import numpy as np
    import torch

    from wuya.checkpoints.checkpoint import save_checkpoint
    from wuya.data.shards import write_shards
    from wuya.models.gpt import GPT
    from wuya.models.presets import preset
    from wuya.models.reward_model import ScalarModel
    from wuya.tokenizer.bpe import train_tokenizer

    make_folder(inputs)
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(words))

    tokenizer = train_tokenizer([text(2000)], vocab_size=300)
    tokenizer.save(inputs / "tokenizer")
    needed = size.rows * size.tokens * 2
    ids = np.random.default_rng(0).integers(10, 250, needed + size.tokens)
    write_shards(inputs / "shards", [ids], vocab_size=tokenizer.vocab_size)
    answer = min(60, size.tokens // 8)
    chats = [{"messages": [{"role": "user", "content": text(3)}, {"role": "assistant", "content": text(answer)}]}
             for _ in range(max(8, needed // 150))]  # fmt: skip
    prompts = [{"id": str(n), "prompt": text(size.prompt_words)} for n in range(4 * size.episodes)]
    for name, rows in (("demonstrations", chats), ("prompts", prompts)):
        (inputs / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (inputs / "my.py").write_text(
        "def shorter(prompts, completions):\n    return [-len(c) / 100 for c in completions]\n"
    )
    torch.manual_seed(0)
    context = max(size.tokens, size.prompt_words * 8 + size.completion)
    model = GPT(preset("tiny", **size.model, context_length=context))
    save_checkpoint(inputs / "sft", model, tokenizer, recipe="gpu_checks")
    save_checkpoint(inputs / "rm", ScalarModel(model), tokenizer, recipe="gpu_checks")
    (inputs / "done").touch()


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for docs/benchmarks.md."""
    lines = ["| recipe | size | device | tokens/s | peak GiB | `wuya plan` GiB | planned / measured | seconds |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['recipe']} | {row['size']} | | failed: {row['failed']} | | | | |")
            continue
        peak, plan = row["peak_bytes"] / 2**30, row["planned_bytes"] / 2**30
        cells = (row["recipe"], row["size"], row["device"], f"{row['tokens_per_second']:,.0f}", f"{peak:.2f}",
                 f"{plan:.2f}", f"{plan / peak:.2f}", row["seconds"])  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
