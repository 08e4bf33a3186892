"""Does PPO in bfloat16 end where float32 ends? Win rate and KL of both, seed by seed, on a finished demo.

    python experiments/ppo_bf16.py runs/demo --out runs/ppo_bf16                 # three seeds, some minutes
    python experiments/ppo_bf16.py runs/demo --out runs/ppo_bf16 --seeds 1 --updates 2 --episodes 16 --prompts 16

Reads a demo's SFT model, reward model, prompts and labelers. Trains the same PPO twice per seed, in float32 and under
bfloat16 autocast, and has the held-out labelers compare each policy with the SFT model on the evaluation prompts; KL is
measured on as many answers. Writes <out>/{seed_1_float32/, ..., summary.json} and prints a table. What is finished is
not run again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from wuya.console import table
from wuya.demo.alignment import ppo_config
from wuya.demo.sizes import SIZES, Demo
from wuya.files import to_json, write_atomic
from wuya.recipes import evaluate, ppo
from wuya.recipes.evaluate import EvaluateConfig

DTYPES: tuple[Literal["float32"], Literal["bfloat16"]] = ("float32", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--prompts_file", default="evaluation.jsonl", help="in the demo's folder `data`")
    options = parser.parse_args(arguments)
    rows = [row for seed in options.seeds for row in one_seed(options, seed)]
    summary = {"rows": rows, **differences(rows)}
    write_atomic(options.out / "summary.json", to_json(summary, indent=1) + "\n")
    print(table([{name: _shown(value) for name, value in row.items()} for row in rows], title="PPO by dtype"))
    print(f"bfloat16 less float32, mean of {len(options.seeds)} seeds: win rate {summary['points']:+.1f} points, "
          f"KL {summary['nats']:+.2f} nats, score {summary['score']:+.2f}")  # fmt: skip


def one_seed(options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Both policies of a seed, judged on the same prompts."""
    folders = {dtype: options.out / f"seed_{seed}_{dtype}" for dtype in DTYPES}
    for dtype, out in folders.items():
        if not (out / "summary.json").exists():
            like = ppo_config(Demo(options.demo, SIZES["tiny"], seed))
            ppo.run(
                replace(
                    like, out=out, resume=out.exists(), dtype=dtype, num_updates=options.updates, dump_rollouts=False,
                    rollout_batch_size=options.episodes, minibatch_size=max(8, options.episodes // 4),
                    ptx_shards=None, final_kl_prompts=options.prompts, show_samples_every=0, device="cpu",
                )
            )  # fmt: skip
    report = judged(options, seed, dict(folders))
    return [
        {
            "seed": seed,
            "dtype": dtype,
            "win_rate": report["win_rate"][f"{dtype}_vs_sft"]["mean"],
            "low": report["win_rate"][f"{dtype}_vs_sft"]["low"],
            "high": report["win_rate"][f"{dtype}_vs_sft"]["high"],
            "kl": json.loads((out / "summary.json").read_text(encoding="utf-8"))["kl"]["per_response"],
            "score": json.loads((out / "summary.json").read_text(encoding="utf-8"))["score"],
            **last_update(out),
        }
        for dtype, out in folders.items()
    ]


def judged(options: argparse.Namespace, seed: int, folders: Mapping[Any, Path]) -> dict[str, Any]:
    """evaluation.json of both policies against the SFT model."""
    out = options.out / f"seed_{seed}_evaluation"
    if not (out / "evaluation.json").exists():
        evaluate.run(
            EvaluateConfig(
                out=out, sft=options.demo / "sft", policies=dict(folders), 
                prompts=options.demo / "data" / options.prompts_file,
                labelers=options.demo / "data" / "labelers.json", reward_model=str(options.demo / "reward"), best_of=1,
                num_prompts=options.prompts, max_tokens=SIZES["tiny"].max_answer_tokens, seed=seed, quiet=True,
                device="cpu",
            )
        )  # fmt: skip
    report: dict[str, Any] = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    return report


def last_update(out: Path) -> dict[str, float]:
    """How far single steps moved the policy, mean over all updates: 0 would mean stale weights."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "policy/clipfrac_avg" in row]
    return {name: mean(row[f"policy/{name}_avg"] for row in rows) for name in ("clipfrac", "approxkl")}


def differences(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """bfloat16 less float32, means over seeds."""

    def difference(name: str) -> float:
        by_dtype = {dtype: mean(row[name] for row in rows if row["dtype"] == dtype) for dtype in DTYPES}
        return float(by_dtype["bfloat16"] - by_dtype["float32"])

    return {"points": 100 * difference("win_rate"), "nats": difference("kl"), "score": difference("score")}


def _shown(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
