"""Step 2: answers of the SFT model, ranked by simulated labelers, and a reward model that learns the rankings."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch

from wuya.console import say
from wuya.demo.sizes import Demo
from wuya.feedback.simulated import Labelers, calibrate_noise
from wuya.files import read_jsonl
from wuya.losses.preference import order_credit
from wuya.recipes import label, reward_model, sample_completions
from wuya.recipes.label import LabelConfig
from wuya.recipes.reward_model import RewardModelConfig
from wuya.recipes.sample_completions import SampleConfig, read_completions

LABELERS_A_PROMPT = 6
"""Training labelers who rank each prompt; their votes weigh 1 together. More opinions cost a reward model no time."""


def sample_answers(demo: Demo) -> dict[str, Any]:
    """K answers of the SFT model to the prompts for training, for the reward model's report, and for calibration."""
    size = demo.size
    budgets = {
        "reward": size.ranked_prompts,
        "reward_report": size.held_out_rankings,
        "calibration": size.calibration_prompts,
    }
    for number, (use, count) in enumerate(budgets.items()):
        out = demo.folder / "samples" / use
        sample_completions.run(
            SampleConfig(
                checkpoint=demo.folder / "sft",
                prompts=demo.folder / "data" / f"{use}.jsonl",
                max_prompts=count,
                k=demo.size.answers_per_prompt,
                max_tokens=demo.size.max_answer_tokens,
                out=out,
                resume=out.exists(),
                seed=demo.seed * 10 + number,
                dtype="float32",
            )
        )
    return {"samples": json.loads((demo.folder / "samples" / "reward" / "summary.json").read_text(encoding="utf-8"))}


def rank_answers(demo: Demo) -> dict[str, Any]:
    """Calibrate the labelers' noise once on SFT answers, freeze it, and let them rank through the feedback store."""
    uncalibrated = Labelers.load(demo.folder / "data" / "labelers_uncalibrated.json")
    answers = list(read_completions(demo.folder / "samples" / "calibration" / "completions.jsonl"))
    labelers = calibrate_noise(uncalibrated, answers)
    labelers.save(demo.folder / "data" / "labelers.json")
    say(f"two training labelers agree on {labelers.agreement:.1%} of pairs of SFT answers (simulated)")
    groups: dict[Literal["training", "held_out"], tuple[str, int]] = {
        "training": ("reward", LABELERS_A_PROMPT),
        "held_out": ("reward_report", len(labelers.held_out)),
    }
    snapshots = {}
    for group, (use, overlap) in groups.items():
        snapshots[group] = label.run(
            LabelConfig(
                labeler="simulated",
                candidates=demo.folder / "samples" / use / "completions.jsonl",
                database=str(demo.folder / "wuya.db"),
                project=group,
                labelers=demo.folder / "data" / "labelers.json",
                group=group,
                overlap=overlap,
                out=demo.folder / "rankings" / group,
            )
        )
    return {
        "training_agreement": labelers.agreement,
        "snapshots": {name: str(path) for name, path in snapshots.items()},
    }


def train_reward_model(demo: Demo) -> dict[str, Any]:
    """The reward model, judged on other prompts by labelers it never learned from."""
    snapshots = json.loads((demo.folder / "stages" / "label.json").read_text(encoding="utf-8"))["snapshots"]
    held_out = Path(snapshots["held_out"])
    reward_model.run(
        RewardModelConfig(
            model=demo.folder / "sft",
            rankings=Path(snapshots["training"]),
            demonstrations=demo.folder / "data" / "sft.jsonl",
            heldout_rankings=(held_out,),
            out=demo.folder / "reward",
            resume=(demo.folder / "reward").exists(),
            batch_size=8,
            learning_rate=7e-4,
            warmup_steps=5,
            seed=demo.seed,
            dtype="float32",
        )
    )
    report = json.loads((demo.folder / "reward" / "report.json").read_text(encoding="utf-8"))[str(held_out)]
    return {**report, "accuracy_vs_utility": _accuracy_against_utility(demo.folder)}


def _accuracy_against_utility(folder: Path) -> float:
    """Share of the same answer pairs that the reward model orders as the noiseless shared utility does; ties half."""
    labelers = Labelers.load(folder / "data" / "labelers.json")
    scores = {
        (row["prompt_id"], row["text"]): row["score"]
        for _, row in read_jsonl(folder / "reward" / "heldout_scores.jsonl")
    }
    margins: list[float] = []
    for prompt, candidates in read_completions(folder / "samples" / "reward_report" / "completions.jsonl"):
        for a, b in combinations(candidates, 2):
            difference = labelers.shared_utility(prompt, a) - labelers.shared_utility(prompt, b)
            if difference and (prompt.id, a.text) in scores and (prompt.id, b.text) in scores:
                margin = scores[prompt.id, a.text] - scores[prompt.id, b.text]
                margins.append(margin if difference > 0 else -margin)
    return float(order_credit(torch.tensor(margins)).mean())
