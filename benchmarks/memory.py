"""Peak resident memory against what `wuya plan` says: inference, training, PPO with four models, PPO on one trunk.

    python -m benchmarks.memory                     # everything; memory does not mind other work on the machine
    python -m benchmarks.memory --only ppo

Each case runs in a process of its own: imports and a tiny run first (thread pools, kernels), then the peak is started
anew and the case does its work; what the first part left is not counted. glibc returns freed blocks of 1 MB and more to
the system (MALLOC_MMAP_THRESHOLD_), as in experiments/plan_memory.py, whose training cases these are. Target: 10 %,
and PPO on a shared trunk at most 1.3 x fine-tuning of the same model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import Row, finish, parser_of
from experiments.plan_memory import CASES, RETURN_FREED_MEMORY, measure_apart, resident
from wuya.records import Message
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt

SIZE = {"num_layers": 6, "model_dim": 384, "vocab_size": 8192}
LORA_RANK = 8
PROMPT, COMPLETION, ROWS = 64, 64, 16


def main() -> None:
    """All cases, or those of `--only`; `--case` is one, in this process."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", choices=["inference", "training", "ppo"])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        sys.stdout.write(json.dumps(CHILDREN[arguments.case]()) + "\n")
        return
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # the cases run as programs of their own
    rows: list[Row] = []
    if arguments.only in (None, "inference"):
        rows += [row(f"inference, {ROWS} x {PROMPT + COMPLETION} tokens", apart("inference"))]
    if arguments.only in (None, "training"):
        cases = [CASES[1], {**CASES[1], "activation_checkpointing": True}, {**CASES[2], "optimizer": "muon"}]
        for case in cases:
            name = f"training {', '.join(f'{key} {value}' for key, value in case.items())}"
            rows.append(row(name, measure_apart(case)))  # type: ignore[arg-type]
    if arguments.only in (None, "ppo"):
        found = {name: apart(name) for name in ("ppo", "ppo_trunk", "sft")}
        rows += [row("PPO, four models", found["ppo"]), row("PPO on one trunk", found["ppo_trunk"])]
        shared = found["ppo_trunk"]["measured_mb"] / found["sft"]["measured_mb"]
        note = f"{shared:.2f} x a training step of the same model on the same rows (target 1.3)"
        rows.append(row("training step, AdamW, the same model", found["sft"], note=note))
    finish("memory", rows, arguments)


def row(work: str, found: dict[str, Any], *, note: str = "") -> Row:
    """Measured and predicted, as the table of `make bench` wants them."""
    sides = {
        name: {clock: dict.fromkeys(("median", "low", "high"), found[f"{name}_mb"]) for clock in ("wall", "cpu")}
        for name in ("measured", "predicted")
    }
    ratio = dict.fromkeys(("median", "low", "high"), found["predicted_mb"] / found["measured_mb"])
    met = 0.9 <= ratio["median"] <= 1.1
    ratios = {"predicted": {"wall": ratio, "cpu": ratio, "target": 1.0, "met": met}}
    return {
        "work": work, "unit": "MB", "ours": "measured", "sides": sides, "ratios": ratios, "limit": {}, "checks": {},
        "others_used_cores": 0.0, "note": note,
    }  # fmt: skip


def apart(case: str) -> dict[str, Any]:
    """A case in a fresh process, with an allocator that gives back what is freed."""
    environment = {**os.environ, **RETURN_FREED_MEMORY}
    command = [sys.executable, "-m", "benchmarks.memory", "--case", case]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures(predicted: float, before: int) -> dict[str, Any]:
    """What a child tells, at its end."""
    return {"predicted_mb": round(predicted / 1e6, 1), "measured_mb": round((resident("VmHWM") - before) / 1e6, 1)}


def start_anew() -> int:
    """Memory in use now, from which the peak is counted."""
    import gc

    gc.collect()
    before = resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return before


def inference() -> dict[str, Any]:
    """Greedy decoding of ROWS prompts: weights and keys and values."""
    from wuya.inference.engine import Engine
    from wuya.inference.sampling import SamplingParams
    from wuya.models.gpt import GPT
    from wuya.models.presets import modern, tiny
    from wuya.planning.planner import decoder_bytes, kv_cache_bytes, prefill_bytes, rotary_table

    Engine(GPT(tiny()).eval()).generate([[1, 2]], SamplingParams(max_tokens=4))
    before = start_anew()
    config = modern(**SIZE, context_length=PROMPT + COMPLETION)
    engine = Engine(GPT(config).eval())
    engine.generate([[1 + n] * PROMPT for n in range(ROWS)], SamplingParams(max_tokens=COMPLETION, temperature=0))
    cache = kv_cache_bytes(config, length=PROMPT + COMPLETION, batch_size=ROWS)
    reading = prefill_bytes(config, tokens=ROWS * PROMPT)
    return figures(decoder_bytes(config, "float32") + 4 * rotary_table(config) + cache + reading, before)


def sft() -> dict[str, Any]:
    """Steps of full fine-tuning on as many positions as PPO's microbatches have."""
    from experiments.plan_memory import measure

    return measure({**SIZE, "tokens": PROMPT + COMPLETION, "batch_size": ROWS})


def ppo(lora_rank: int = 0) -> dict[str, Any]:
    """Two updates of `wuya ppo`, its checkpoint included."""
    import torch

    from wuya.checkpoints.checkpoint import save_checkpoint
    from wuya.models.gpt import GPT
    from wuya.models.presets import modern, tiny
    from wuya.models.reward_model import ScalarModel
    from wuya.planning.ppo_memory import ppo_memory
    from wuya.recipes.ppo import PPOConfig, run
    from wuya.tokenizer.bpe import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["the cat sat on the mat and saw the sea " * 20], vocab_size=300)
    config = modern(**SIZE, context_length=PROMPT + COMPLETION)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [json.dumps({"id": str(n), "prompt": full_prompt(tokenizer, n)}) for n in range(2 * ROWS)]
        (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")

        def updates(model: GPT, place: Path) -> None:
            save_checkpoint(place / "sft", model, tokenizer)
            save_checkpoint(place / "rm", ScalarModel(model), tokenizer)
            run(PPOConfig(
                policy=place / "sft", reward=str(place / "rm"), prompts=folder / "prompts.jsonl", out=place / "out",
                num_updates=2, rollout_batch_size=ROWS, minibatch_size=ROWS, max_prompt_tokens=PROMPT,
                max_tokens=COMPLETION, microbatch_tokens=ROWS * (PROMPT + COMPLETION), lora_rank=lora_rank,
                final_kl_prompts=ROWS, show_samples_every=0, device="cpu", dtype="float32",
            ))  # fmt: skip

        updates(GPT(tiny()), folder / "tiny")
        model = GPT(config)
        before = start_anew()
        updates(model, folder / "measured")
    planned = ppo_memory(
        config, prompt=PROMPT, completion=COMPLETION, microbatch_tokens=ROWS * (PROMPT + COMPLETION),
        rollout_batch_size=ROWS, lora_rank=lora_rank,
    )  # fmt: skip
    return figures(planned.peak, before)


def full_prompt(tokenizer: Tokenizer, number: int) -> str:
    """A text of as many tokens as the plan is for; each number has its own."""
    text = str(number)
    while len(encode_prompt(tokenizer, [Message("user", text + "!?"[len(text) % 2])])) <= PROMPT:
        text += "!?"[len(text) % 2]
    return text


CHILDREN = {"inference": inference, "sft": sft, "ppo": ppo, "ppo_trunk": lambda: ppo(LORA_RANK)}

if __name__ == "__main__":
    main()
