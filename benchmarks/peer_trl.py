"""TRL's trainers as peers: run by benchmarks/ppo.py and reward.py in a venv of TRL's own, not by hand.

Every request is one optimizer step (reward), or one update with its generation (PPO, RLOO, GRPO); its seconds are those
between the trainer's step callbacks where it has them, so that no start-up of `train()` is counted.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from benchmarks.common import Figures, Side, peak_mb, serve_peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=["ppo", "rloo", "grpo", "reward"])
    parser.add_argument("folder", type=Path, help="policy/, reward/ and settings.json, written by ours")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    settings: dict[str, Any] = json.loads((arguments.folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    make = {"ppo": ppo, "rloo": group, "grpo": group, "reward": reward}[arguments.trainer]
    serve_peer(make(arguments.trainer, arguments.folder, settings), ["trl", "transformers"])


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds between the beginning and the end of each step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.wall.append(time.perf_counter() - self.began[0])
        self.cpu.append(time.process_time() - self.began[1])


def common(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of every trainer."""
    return {
        "output_dir": tempfile.mkdtemp(), "report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
        "bf16": False, "lr_scheduler_type": "constant", "learning_rate": settings["learning_rate"],
        "logging_strategy": "no", "gradient_checkpointing": False,
    }  # fmt: skip


def ppo(_: str, folder: Path, settings: dict[str, Any]) -> Side:
    """PPO with policy, reference, reward and value model apart."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    episodes, parts = settings["episodes"], settings["microbatches"]
    config = PPOConfig(
        **common(settings) | {"logging_strategy": "steps"}, per_device_train_batch_size=episodes // parts,
        gradient_accumulation_steps=parts, num_mini_batches=1, num_ppo_epochs=settings["ppo_epochs"],
        total_episodes=episodes, response_length=settings["new_tokens"], local_rollout_forward_batch_size=episodes,
        missing_eos_penalty=None, num_sample_generations=0, kl_coef=settings["kl_coef"], temperature=1.0,
    )  # fmt: skip
    rows = Dataset.from_list([{"input_ids": ids} for ids in settings["prompts"]])
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy") for _ in range(2))
    scorer, values = (
        AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1) for _ in range(2)
    )
    trainer = PPOTrainer(
        config, AutoTokenizer.from_pretrained(folder / "policy"), policy, reference, scorer, rows, values,
        eval_dataset=rows,
    )  # fmt: skip

    def update() -> Figures:
        trainer.train()
        return {"peak_mb": peak_mb(), "episodes": float(episodes)}

    return update


def group(name: str, folder: Path, settings: dict[str, Any]) -> Side:
    """RLOO or GRPO with a reference; the reward is a function."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    make_config, make_trainer = (RLOOConfig, RLOOTrainer) if name == "rloo" else (GRPOConfig, GRPOTrainer)
    config = make_config(
        **common(settings), per_device_train_batch_size=settings["episodes"] // settings["microbatches"],
        gradient_accumulation_steps=settings["microbatches"], num_generations=settings["group_size"], max_steps=1,
        max_completion_length=settings["new_tokens"], beta=settings["kl_coef"], num_iterations=1, temperature=1.0,
        top_k=0, top_p=1.0,
    )  # fmt: skip
    clock = Clock()
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    prompts = Dataset.from_list([{"prompt": text} for text in settings["prompt_texts"]])

    def lengths(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(sum(ids) % 7) for ids in completion_ids]

    trainer = make_trainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "policy"), reward_funcs=lengths, args=config,
        train_dataset=prompts, processing_class=tokenizer, callbacks=[clock],
    )  # fmt: skip

    def update() -> Figures:
        clock.wall, clock.cpu = [], []
        trainer.train()
        return {"peak_mb": peak_mb(), "wall": sum(clock.wall), "cpu": sum(clock.cpu)}

    return update


def reward(_: str, folder: Path, settings: dict[str, Any]) -> Side:
    """Every pair of every prompt, as RewardTrainer wants them."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    pairs = [
        {"chosen_ids": prompt + answers[better], "rejected_ids": prompt + answers[worse]}
        for prompt, answers in zip(settings["prompts"], settings["answers"], strict=True)
        for better in range(len(answers))
        for worse in range(better + 1, len(answers))
    ]
    clock = Clock()
    losses: list[float] = []
    config = RewardConfig(
        **common(settings) | {"logging_strategy": "steps", "logging_steps": 1}, max_steps=1, max_length=None,
        per_device_train_batch_size=len(pairs) // settings["microbatches"],
        gradient_accumulation_steps=settings["microbatches"],
    )  # fmt: skip
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1), args=config,
        train_dataset=Dataset.from_list(pairs), processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
        callbacks=[clock],
    )  # fmt: skip

    def step() -> Figures:
        clock.wall, clock.cpu = [], []
        output = trainer.train()
        losses.append(output.training_loss)
        return {"peak_mb": peak_mb(), "wall": sum(clock.wall), "cpu": sum(clock.cpu), "loss": output.training_loss,
                "sequences": float(2 * len(pairs))}  # fmt: skip

    return step


if __name__ == "__main__":
    main()
