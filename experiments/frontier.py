"""Nine ways from the same rankings to a policy on one chart: win rate (held-out labelers) against KL.

    python experiments/frontier.py runs/demo-seed1 --out runs/frontier --methods dpo        # one policy, a few minutes
    python experiments/frontier.py runs/demo-seed1 runs/demo-seed2 runs/demo-seed3 --out runs/frontier

Reads finished demos (`wuya demo`): the SFT model, the rankings, the reward model, PPO and PPO-ptx. Trains RLOO, GRPO,
DPO, KTO, SimPO, ORPO and best-of-n distillation beside them (`--strengths 2`: at two strengths each), judges all on the
final prompts, and writes <out>/{frontier.json, frontier.md, frontier.svg}. What is finished is not run again, and what
the demo has judged is taken from it. Every KL is measured on sampled answers; the labelers are simulated, and the table
says so.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from wuya.demo.alignment import PTX_COEF, ppo_config
from wuya.demo.sizes import SIZES, Demo
from wuya.files import make_folder, to_json, write_atomic
from wuya.recipes import best_of_n, dpo, evaluate, grpo, kto, orpo, ppo, sample_completions, sft, simpo
from wuya.recipes.best_of_n import BestOfNConfig
from wuya.recipes.dpo import DPOConfig
from wuya.recipes.evaluate import EvaluateConfig
from wuya.recipes.grpo import GRPOConfig
from wuya.recipes.kto import KTOConfig
from wuya.recipes.orpo import ORPOConfig
from wuya.recipes.sample_completions import SampleConfig
from wuya.recipes.sft import SFTConfig
from wuya.recipes.simpo import SimPOConfig
from wuya.training.svg import scatter_plot

Train = Callable[[Demo, Path, float], object]
"""(the demo, where to write, strength) -> trains a policy into that folder."""


def train_ppo(demo: Demo, out: Path, kl_coef: float, *, ptx_coef: float = 0.0) -> None:
    """Plain PPO at another price of KL."""
    config = replace(ppo_config(demo), kl_coef=kl_coef, ptx_coef=ptx_coef, dump_rollouts=False)
    ppo.run(replace(config, out=out, resume=out.exists()))


def train_ppo_ptx(demo: Demo, out: Path, kl_coef: float) -> None:
    """PPO with the pre-training mix."""
    train_ppo(demo, out, kl_coef, ptx_coef=PTX_COEF)


def train_group(demo: Demo, out: Path, kl_coef: float, *, algorithm: str) -> None:
    """RLOO or GRPO: as many episodes, answers a step and updates as PPO, four answers a prompt."""
    like = ppo_config(demo)
    grpo.run(
        GRPOConfig(
            policy=like.policy,
            reward=like.reward,
            prompts=like.prompts,
            out=out,
            resume=out.exists(),
            algorithm=algorithm,  # type: ignore[arg-type]
            num_updates=like.num_updates,
            rollout_batch_size=like.rollout_batch_size,
            minibatch_size=like.minibatch_size,
            group_size=4,
            max_tokens=like.max_tokens,
            max_prompt_tokens=like.max_prompt_tokens,
            learning_rate=like.learning_rate,
            warmup_updates=like.warmup_updates,
            kl_coef=kl_coef,
            clip_range=1.0 if algorithm == "rloo" else 0.2,  # of a whole answer: four steps a batch leave .2 at once
            ema_decay=like.ema_decay,
            seed=demo.seed,
            dtype="float32",
        )
    )


def train_rloo(demo: Demo, out: Path, kl_coef: float) -> None:
    """RLOO."""
    train_group(demo, out, kl_coef, algorithm="rloo")


def train_grpo(demo: Demo, out: Path, kl_coef: float) -> None:
    """GRPO."""
    train_group(demo, out, kl_coef, algorithm="grpo")


def rankings_of(demo: Demo) -> Path:
    """What the demo's reward model learned from."""
    labels = json.loads((demo.folder / "stages" / "label.json").read_text(encoding="utf-8"))
    return demo.folder / "rankings" / "training" / Path(labels["snapshots"]["training"]).name


def preference_fields(demo: Demo, out: Path) -> dict[str, Any]:
    """One epoch over those rankings from the SFT model; the same for every method without samples."""
    return {
        "model": demo.folder / "sft", "out": out, "resume": out.exists(), "batch_size": 8, "learning_rate": 1e-4,
        "warmup_steps": 5, "seed": demo.seed, "dtype": "float32",
    }  # fmt: skip


def train_dpo(demo: Demo, out: Path, beta: float) -> None:
    """DPO."""
    dpo.run(DPOConfig(**preference_fields(demo, out), rankings=rankings_of(demo), beta=beta))


def train_kto(demo: Demo, out: Path, beta: float) -> None:
    """KTO on the pairs taken apart; a batch holds as many answers as DPO's has on average."""
    fields = preference_fields(demo, out) | {"batch_size": 32}
    kto.run(KTOConfig(**fields, ratings=rankings_of(demo), beta=beta))


def train_simpo(demo: Demo, out: Path, beta: float) -> None:
    """SimPO, with the target margin at half of beta."""
    simpo.run(
        SimPOConfig(**preference_fields(demo, out), rankings=rankings_of(demo), beta=beta, target_margin=beta / 2)
    )


def train_orpo(demo: Demo, out: Path, odds_coef: float) -> None:
    """ORPO from the SFT model, so that all methods start alike."""
    orpo.run(ORPOConfig(**preference_fields(demo, out), rankings=rankings_of(demo), odds_coef=odds_coef))


def train_best_of_n(demo: Demo, out: Path, n: float) -> None:
    """Best of n answers to PPO's prompts, imitated for one epoch."""
    like = ppo_config(demo)
    samples, best = out.parent / f"{out.name}_samples", out.parent / f"{out.name}_best"
    sample_completions.run(
        SampleConfig(
            checkpoint=demo.folder / "sft",
            prompts=like.prompts,
            max_prompts=like.num_updates * like.rollout_batch_size // 4,
            k=int(n),
            max_tokens=like.max_tokens,
            out=samples,
            resume=samples.exists(),
            seed=demo.seed + 77,
            dtype="float32",
        )
    )
    best_of_n.run(
        BestOfNConfig(candidates=samples / "completions.jsonl", model=demo.folder / "sft", reward=like.reward, out=best)
    )
    sft.run(
        SFTConfig(
            base=demo.folder / "sft",
            demonstrations=best / "demonstrations.jsonl",
            out=out,
            resume=out.exists(),
            epochs=2.0,
            learning_rate=2e-3,
            seed=demo.seed,
            dtype="float32",
        )
    )


METHODS: Mapping[str, tuple[Train, Sequence[float], str]] = {
    "ppo": (train_ppo, (0.3, 0.6), "kl_coef"),
    "ppo_ptx": (train_ppo_ptx, (0.3, 0.6), "kl_coef"),
    "rloo": (train_rloo, (0.3, 0.6), "kl_coef"),
    "grpo": (train_grpo, (0.3, 1.0), "kl_coef"),
    "dpo": (train_dpo, (0.1, 0.5), "beta"),
    "kto": (train_kto, (0.1, 0.5), "beta"),
    "simpo": (train_simpo, (2.0, 10.0), "beta"),
    "orpo": (train_orpo, (1.0, 0.25), "odds_coef"),
    "best_of_n_sft": (train_best_of_n, (4, 16), "n"),
}
"""Method -> how it is trained, at which strengths, and what the strength is called."""
SHOWN = {
    "ppo": "PPO", "ppo_ptx": "PPO-ptx", "rloo": "RLOO", "grpo": "GRPO", "dpo": "DPO", "kto": "KTO",
    "simpo": "SimPO", "orpo": "ORPO", "best_of_n": "best of 4",
    "best_of_n_sft": "best of 4, distilled",
}  # fmt: skip
"""Names in the chart."""
READY = {("ppo", 0.3): "ppo", ("ppo_ptx", 0.3): "ppo_ptx"}
"""What the demo has trained already."""


def main() -> None:
    """Train what is missing, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--strengths", type=int, default=1, help="how many of each method's strengths")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in arguments.demos:
        rows += judged(folder, arguments.out / folder.name, arguments.methods, arguments.strengths)
    text, picture = report(rows)
    make_folder(arguments.out)
    write_atomic(arguments.out / "frontier.json", to_json(rows, indent=1) + "\n")
    write_atomic(arguments.out / "frontier.md", text)
    write_atomic(arguments.out / "frontier.svg", picture + "\n")
    print(text)


def judged(folder: Path, out: Path, methods: Sequence[str], num_strengths: int) -> list[dict[str, Any]]:
    """One row a policy of one demo: method, strength, KL, win rate against SFT, gold and proxy score."""
    identity = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    demo = Demo(folder, SIZES[identity["size"]], identity["seed"], identity["evaluate_on"])
    of_demo = json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    rows = [row_of(of_demo, folder.name, "best_of_n", "4", "best_of_n", rate="best_of_4_vs_sft")]
    for method in methods:
        train, strengths, _ = METHODS[method]
        for strength in strengths[:num_strengths]:
            if ready := READY.get((method, strength)):
                rows.append(row_of(of_demo, folder.name, method, f"{strength:g}", ready))
                continue
            name = f"{method}_{strength:g}"
            if not (out / name / "done").exists():
                train(demo, make_folder(out) / name, strength)
                write_atomic(out / name / "done", "")
            found = compared(demo, out / name, out / f"{name}_evaluation")
            rows.append(row_of(found, folder.name, method, f"{strength:g}", "policy"))
    return rows


def compared(demo: Demo, policy: Path, out: Path) -> dict[str, Any]:
    """A policy against the SFT model on the demo's final prompts, by the demo's seed: the same SFT answers for all."""
    path = out / "evaluation.json"
    if not path.exists():
        evaluate.run(
            EvaluateConfig(
                out=out,
                sft=demo.folder / "sft",
                policies={"policy": policy},
                prompts=demo.folder / "data" / "evaluation.jsonl",
                labelers=demo.folder / "data" / "labelers.json",
                reward_model=str(demo.folder / "reward"),
                best_of=1,
                num_prompts=demo.size.evaluation_prompts,
                max_tokens=demo.size.max_answer_tokens,
                seed=demo.seed,
                quiet=True,
            )
        )
    return dict(json.loads(path.read_text(encoding="utf-8")))


def row_of(
    found: Mapping[str, Any], demo: str, method: str, strength: str, name: str, *, rate: str = ""
) -> dict[str, Any]:
    """What an evaluation says of one of its policies."""
    votes = found["win_rate"][rate or f"{name}_vs_sft"]
    return {
        "demo": demo,
        "method": method,
        "strength": strength,
        "kl": found["kl"][name]["per_response"],
        **{key: votes[key] for key in ("mean", "low", "high")},
        **found["scores"][name],
        "distinct_2": found["diversity"][name]["distinct_2"],
    }


def report(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """(Markdown table over seeds, SVG chart with a dot a seed)."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["strength"]].append(row)
    seeds = len({row["demo"] for row in rows})
    lines = [
        f"{seeds} seeds; votes by held-out *simulated* labelers; [lowest, highest] over seeds; half width: of one",
        "seed's 95 % interval. KL in nats an answer, measured on sampled answers (best_of_n: log n - (n-1)/n).",
        "",
        "| method | strength | KL | preferred to SFT | half width | gold | proxy | distinct-2 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (method, strength), group in sorted(groups.items()):
        kl, rate = mean(r["kl"] for r in group), mean(r["mean"] for r in group)
        half = mean((r["high"] - r["low"]) / 2 for r in group)
        name = METHODS[method][2] if method in METHODS else "n"
        lines.append(
            f"| {method} | {name} {strength} | {kl:.2f} [{min(r['kl'] for r in group):.2f}, "
            f"{max(r['kl'] for r in group):.2f}] | {rate:.1%} [{min(r['mean'] for r in group):.1%}, "
            f"{max(r['mean'] for r in group):.1%}] | {half:.1%} | {mean(r['gold'] for r in group):+.2f} | "
            f"{mean(r['proxy'] for r in group):+.2f} | {mean(r['distinct_2'] for r in group):.2f} |"
        )
    strengths = {method: len({row["strength"] for row in rows if row["method"] == method}) for method, _ in groups}
    series = {
        SHOWN.get(method, method) + (f" {strength}" if strengths[method] > 1 else ""): (
            [row["kl"] for row in group],
            [row["mean"] for row in group],
        )
        for (method, strength), group in groups.items()
    }
    chart = scatter_plot("preferred to SFT against KL", series, xlabel="KL to the SFT model, nats an answer")
    return "\n".join(lines) + "\n", chart


if __name__ == "__main__":
    main()
