"""The story of ChatGPT on real chats, told from the first byte to the aligned model, on two CPU cores.

    wuya demo                      # or: make demo          (SEED=, SIZE=)
    wuya demo --size tiny          # a minute, to see that everything works; its models are too small to say anything

Reads the chats of PyPI `chitchat-dataset`; writes everything under <workspace>/runs/demo: one folder a stage,
summary.json and report.html. Run it again and finished stages are skipped, a stage that was cut off goes on where it
was.

The labelers are simulated, and every table says so. The people of the data are real: their chats are the corpus, their
replies the demonstrations. Budgets are counts of tokens and episodes, never seconds.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wuya.console import heading, table
from wuya.demo import alignment, evaluation, models, people, preferences
from wuya.demo.report import STATES, write_demo_report
from wuya.demo.sizes import SIZES, Demo
from wuya.demo.stages import keep_other_aside, run_stage
from wuya.environment import environment_report
from wuya.evals.evaluation_report import evaluation_table
from wuya.evals.gates import Gate, check_gates
from wuya.files import FileLock, default_workspace, make_folder, sha256_json, to_json, write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Run the whole loop on real chats."""

    size: Literal["tiny", "small", "medium"] = "small"
    """tiny: every stage in a minute. small: the published table. medium: several times more of everything."""
    seed: int = 0
    """Of everything drawn: weights, orders, samples. The data's split and the labelers are the same for every seed."""
    name: str = "demo"
    """The run is <workspace>/runs/<name>."""
    workspace: Path | None = None
    """Where everything is written; default: $WUYA_WORKSPACE, or ./workspace."""
    evaluate_on: Literal["final", "tuning"] = "final"
    """Prompts and chats to judge on: the final ones, or those set apart for choosing settings."""
    json: bool = False
    """Print summary.json to stdout instead of tables."""

    @property
    def folder(self) -> Path:
        """<workspace>/runs/<name>."""
        return (self.workspace or default_workspace()) / "runs" / self.name


RESULTS_FORM = 2
"""Grows when the figures of a stage change their form, so that a newer wuya does not read an older demo's stages."""

Stage = tuple[str, str, Callable[[Demo], dict[str, Any]]]

STORY: tuple[Stage, ...] = (
    ("data", "Real chats, split by person; who the (simulated) labelers are", people.prepare_people_and_data),
    ("tokenizer", "A vocabulary, learned from the raw text", models.train_tokenizer),
    ("corpus", "The raw text: filtered, de-duplicated, decontaminated, in token shards", models.prepare_corpus),
    ("pretrain", "Pre-training: a GPT from random weights to plausible chat", models.pretrain),
    ("sft", "Step 1: supervised fine-tuning on demonstrations", models.finetune),
    ("judge", "An outside judge: another SFT model, from other demonstrations and another seed", models.finetune_judge),
    ("sample", "Step 2a: K answers to every prompt", preferences.sample_answers),
    ("label", "Step 2b: (simulated) labelers rank them", preferences.rank_answers),
    ("reward", "Step 2c: a reward model learns the rankings", preferences.train_reward_model),
    ("ppo", "Step 3: PPO against the reward model, KL to the SFT model", alignment.run_ppo),
    ("ppo_ptx", "Step 3 with the pre-training mix: PPO-ptx", alignment.run_ppo_ptx),
    ("sft_plus_ptx", "Control: the same pre-training mix without PPO", alignment.continue_pretraining),
    ("evaluate", "Evaluation on prompts of people no stage has met", evaluation.evaluate),
)


def run(config: DemoConfig) -> Path:
    """Returns the path of summary.json."""
    demo = Demo(make_folder(config.folder), SIZES[config.size], config.seed, config.evaluate_on)
    with FileLock(demo.folder / "demo.lock"):
        keep_other_aside(demo.folder, _identity(demo, config), file="demo.json")
        results: dict[str, dict[str, Any]] = {}
        for number, (name, title, stage) in enumerate(STORY, start=1):
            heading(f"{number}/{len(STORY)} {title}")
            results[name] = run_stage(demo.folder, name, partial(stage, demo))
        summary = evaluation.summarize(results, demo.seed, config.size)
        gates = check_gates(summary) if config.size != "tiny" else []
        summary |= {"gates": [gate.to_dict() for gate in gates], "environment": environment_report()}
        path = demo.folder / "summary.json"
        write_atomic(path, to_json(summary, indent=1) + "\n")
        write_demo_report(demo.folder, summary)
    if config.json:
        print(to_json(summary))  # noqa: T201
    else:
        print(_closing(demo.folder, summary, gates))  # noqa: T201
    return path


def _identity(demo: Demo, config: DemoConfig) -> dict[str, Any]:
    """What must be the same for stages to belong together."""
    return {
        "seed": demo.seed,
        "size": config.size,
        "evaluate_on": demo.evaluate_on,
        "fingerprint": sha256_json(asdict(demo.size)),
        "results": RESULTS_FORM,
    }


def _closing(folder: Path, summary: dict[str, Any], gates: list[Gate]) -> str:
    seconds = summary["seconds"]
    rows = [
        {"gate": gate.name, "state": STATES[gate.state], "found": gate.found, "bound": gate.bound} for gate in gates
    ]
    return "\n".join(
        [
            evaluation_table(summary),
            table(rows, title="gates") if rows else "",
            f"{sum(seconds.values()) / 60:.1f} minutes; labelers are simulated; report: {folder / 'report.html'}",
            f"talk to it: {_this_program()} chat {folder / 'ppo_ptx'}",
            f"or in a browser: {_this_program()} serve {folder / 'ppo_ptx'} {folder / 'sft'}",
        ]
    )


def _this_program() -> str:
    """`wuya` as it was called, so that the line can be typed as it stands: make calls the one in .venv."""
    return sys.argv[0] if Path(sys.argv[0]).name == "wuya" and "/" in sys.argv[0] else "wuya"
