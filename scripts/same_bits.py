"""Check that a refactoring changed no number: hash what tiny PPO and GRPO runs write, and compare with another tree.

    OMP_NUM_THREADS=1 python scripts/same_bits.py before.json                    # on the old tree
    OMP_NUM_THREADS=1 python scripts/same_bits.py after.json --compare before.json

Each run is trained on the CPU with the inputs of tests/recipes/recipe_list.py, and `wuya demo --size tiny` (skip it
with --no_demo) covers every other stage. A hash per file: weights, metrics without times, samples, summary, dumped
rollouts. Hashes hold for one machine and one build of torch only.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402

from tests.recipes.processes import two_ranks  # noqa: E402
from tests.recipes.recipe_list import LORA, TinyRecipe, grpo, ppo, with_fields, write_inputs  # noqa: E402
from wuya.demo import story  # noqa: E402
from wuya.training import distributed  # noqa: E402

TIMES = frozenset({"time", "eps", "time/sampling", "time/training", "tokens_per_second"})
"""Metrics that differ from run to run."""
Hashes = dict[str, str]

HELD_OUT = {"evaluation_prompts": lambda inputs: inputs / "heldout.jsonl", "evaluation_every": 1, "choose": "best"}
PTX = {"ptx_coef": 0.5, "ptx_shards": lambda inputs: inputs / "train", "ptx_context_length": 16}
SHARED = {"reward": lambda inputs: str(inputs / "lora_rm"), **LORA}
MORE = {"num_updates": 3, "ppo_epochs": 2, "whiten_rewards": True, "target_kl": 0.01, "kl_horizon": 8,
        "linear_decay": True, "dump_rollouts": True, "show_samples_every": 1, "save_every": 2}  # fmt: skip
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {}),
    "ppo-more": ("ppo", MORE),
    "ppo-ptx": ("ppo", PTX),
    "ppo-chosen": ("ppo", {**HELD_OUT, "num_updates": 2}),
    "ppo-stopped": ("ppo", {"max_kl": 1e-9, "num_updates": 3}),
    "ppo-lora": ("ppo", SHARED),
    "ppo-lora-ptx-more": ("ppo", {**SHARED, **PTX, **MORE}),
    "ppo-muon-last": ("ppo", {"optimizer": "muon", "ship_ema": False, "temperature": 0.7}),
    "ppo-bf16": ("ppo", {**PTX, "dtype": "bfloat16"}),
    "ppo-lora-bf16": ("ppo", {**SHARED, "dtype": "bfloat16"}),
    "ppo-recomputed": ("ppo", {"activation_checkpointing": True}),
    "grpo": ("grpo", {}),
    "grpo-more": ("grpo", {"num_epochs": 2, "ema_decay": 0.5, "temperature": 0.7, "show_samples_every": 1}),
    "grpo-chosen": ("grpo", {**HELD_OUT, "max_choice_kl": 1.0}),
    "grpo-bf16": ("grpo", {"dtype": "bfloat16"}),
    "grpo-lora": ("grpo", LORA),
    "rloo": ("grpo", {"algorithm": "rloo"}),
    "rloo-lora-bf16-base": ("grpo", {**LORA, "algorithm": "rloo", "base_dtype": "bfloat16"}),
    "dr_grpo": ("grpo", {"algorithm": "dr_grpo"}),
    "dapo": ("grpo", {"algorithm": "dapo", "clip_range_high": 0.28, "max_resampling": 2, "kl_coef": 0.0}),
}
"""Name -> recipe and the fields that differ from its tiny run."""
ON_TWO_PROCESSES = ("ppo-ptx", "ppo-more", "ppo-chosen", "grpo", "dapo")


def recipe(name: str) -> TinyRecipe:
    """One of the variants as a tiny run."""
    verb, changes = VARIANTS[name]
    make, config = {"ppo": (ppo, "PPOConfig"), "grpo": (grpo, "GRPOConfig")}[verb]
    return TinyRecipe(id=name, module=verb, config=config, fields=with_fields(make, **changes))


def train(name: str, inputs: Path, out: Path, **changes: Any) -> None:
    """Train a variant; `changes` win over its own fields."""
    recipe(name).run(inputs, out, **{**{k: v for k, v in VARIANTS[name][1].items() if k == "dtype"}, **changes})


def on_rank(rank: int, name: str, inputs: Path, out: Path) -> None:
    """Train a variant as one process of two."""
    train(name, inputs, out)
    distributed.shutdown()


def resumed(inputs: Path, out: Path) -> None:
    """Forget the second checkpoint of a run and train it again from the first."""
    train("ppo-ptx", inputs, out, save_every=1, keep_last_n=0, ema_decay=0.9)
    newest = max((out / "checkpoints").glob("step_*"))
    newest.rename(out / "forgotten")
    train("ppo-ptx", inputs, out, save_every=1, keep_last_n=0, ema_decay=0.9, resume=True)


def hashes_of(out: Path) -> Hashes:
    """Hash of everything a run computed: file -> SHA-256, shortened."""
    found: Hashes = {}
    for name in ("model/model.safetensors", "summary.json", "samples.jsonl"):
        if (out / name).exists():
            found[name] = digest((out / name).read_bytes())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    found["metrics.jsonl"] = digest(json.dumps(kept, sort_keys=True).encode())
    for path in sorted((out / "rollouts").glob("*.parquet")):
        found[f"rollouts/{path.name}"] = digest(json.dumps(pq.read_table(path).to_pydict(), sort_keys=True).encode())
    return found


def digest(data: bytes) -> str:
    """The first 16 hex digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def all_hashes(folder: Path, *, demo: bool) -> dict[str, Hashes]:
    """Run everything below `folder`."""
    inputs = write_inputs(folder / "inputs")
    found: dict[str, Hashes] = {}
    for name in ON_TWO_PROCESSES:  # first: forks are safest while this process has computed little
        out = folder / f"{name}-two"
        assert two_ranks(partial(on_rank, name=name, inputs=inputs, out=out)) == [0, 0], name
        found[f"{name} on two processes"] = hashes_of(out)
    for name in VARIANTS:
        train(name, inputs, folder / name)
        found[name] = hashes_of(folder / name)
    resumed(inputs, folder / "resumed")
    found["ppo-ptx resumed"] = hashes_of(folder / "resumed")
    if demo:
        story.run(story.DemoConfig(size="tiny", seed=0, workspace=folder / "workspace"))
        for out in sorted((folder / "workspace/runs/demo").iterdir()):
            if (out / "metrics.jsonl").exists():
                found[f"demo/{out.name}"] = hashes_of(out)
    return found


def main() -> int:
    """Write the hashes; with --compare name what differs and exit 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--compare", type=Path, help="JSON file that another tree wrote")
    parser.add_argument("--no_demo", action="store_true", help="leave out `wuya demo --size tiny`")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = all_hashes(Path(folder), demo=not arguments.no_demo)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if arguments.compare is None:
        return 0
    other = json.loads(arguments.compare.read_text(encoding="utf-8"))
    common = [run for run in found if run in other]
    differing = [f"{run}: {name}" for run in common for name in sorted({*found[run], *other[run]})
                 if found[run].get(name) != other[run].get(name)]  # fmt: skip
    for line in differing:
        print(f"differs: {line}")
    print(f"{len(common)} runs, {sum(map(len, found.values()))} hashes compared, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
