"""The whole loop on a real model, SmolLM2-135M, with real people's demonstrations and comparisons.

    wuya assistant                        # or: make assistant; data by name from the Hugging Face hub
    wuya assistant --data FOLDER          # a copy of the data: FOLDER/hh-rlhf/, FOLDER/instruct/
    wuya assistant --size tiny            # minutes: every stage runs, its figures say nothing

SFT (LoRA) on demonstrations -> K answers, queued for people -> a reward model of people's comparisons -> PPO (LoRA),
judged by a gold reward model of other people's conversations and by the likelihood of held-out demonstrations. Writes
<workspace>/runs/assistant: one folder per stage, summary.json, report.md and report.html with twenty answers side by
side. Run it again to resume: finished stages are skipped, a stage that was cut off goes on from its last checkpoint.

Every stage is a recipe called with a config, as a person would call it. The model is small and the budget an hour of
two cores: where it gains little, the report says so.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wuya.checkpoints.checkpoint import resolve_checkpoint
from wuya.console import heading
from wuya.demo.assistant import data, judging, training
from wuya.demo.assistant.report import figures_table, write_reports
from wuya.demo.assistant.sizes import SIZES, Assistant
from wuya.demo.stages import keep_other_aside, run_stage
from wuya.environment import environment_report
from wuya.files import FileLock, default_workspace, make_folder, sha256_json, to_json, write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantConfig:
    """Run the whole loop on a real model with real people's comparisons."""

    size: Literal["tiny", "small", "medium"] = "small"
    """tiny: every stage, figures that say nothing. small: the published one. medium: about three times as much."""
    data: Path | None = None
    """A folder with a copy of the data (`hh-rlhf/`, `instruct/`), in place of the two names below."""
    comparisons: str = "hf:trl-lib/hh-rlhf-helpful-base:train"
    """People's comparisons, in any format of `wuya reward`: a name on the Hugging Face hub or a file."""
    demonstrations: str = "hf:databricks/databricks-dolly-15k:train"
    """People's demonstrations: a name on the hub or a file; Dolly's, Self-Instruct's or any form of `wuya sft`."""
    model: str = "smollm2"
    """The real model to start from: any checkpoint with a chat template."""
    seed: int = 0
    """Seeds everything drawn but the split of the data."""
    name: str = "assistant"
    """The run is <workspace>/runs/<name>."""
    workspace: Path | None = None
    """Where everything is written; default: $WUYA_WORKSPACE, or ./workspace."""

    @property
    def folder(self) -> Path:
        """<workspace>/runs/<name>."""
        return (self.workspace or default_workspace()) / "runs" / self.name


Stage = tuple[str, str, Callable[[Assistant], dict[str, Any]]]

STORY: tuple[Stage, ...] = (
    ("data", "Real demonstrations and comparisons, split by conversation", data.prepare_data),
    ("sft", "Step 1: fine-tuning on people's demonstrations", training.finetune),
    ("sample", "Step 2a: K answers to each prompt, queued for people to rank", training.sample_answers),
    ("reward", "Step 2b: a reward model of people's comparisons", training.train_reward_model),
    ("gold", "The judge: a gold reward model of other people's conversations", training.train_gold_reward_model),
    ("ppo", "Step 3: PPO against the reward model, KL to the SFT model", training.run_ppo),
    ("evaluate", "Held-out prompts: the gold reward model compares the answers", judging.evaluate),
    ("answers", "Twenty prompts answered by each model, to read side by side", judging.answers_to_read),
    ("likelihood", "Held-out demonstrations: how likely each model finds them", judging.demonstration_likelihood),
)


def run(config: AssistantConfig) -> Path:
    """Returns the path of summary.json."""
    resolve_checkpoint(config.model)  # a model that is missing is said before anything is read
    sources = (config.comparisons, config.demonstrations) if config.data is None else data.files_of(config.data)
    folder = make_folder(config.folder)
    assistant = Assistant(folder, SIZES[config.size], config.seed, config.model, *sources)
    identity = {"fingerprint": sha256_json([asdict(assistant.size), config.seed, config.model, *sources])}
    with FileLock(folder / "assistant.lock"):
        keep_other_aside(folder, identity, file="assistant.json")
        results: dict[str, dict[str, Any]] = {}
        for number, (name, title, stage) in enumerate(STORY, start=1):
            heading(f"{number}/{len(STORY)} {title}")
            results[name] = run_stage(folder, name, partial(stage, assistant))
        summary = {"size": config.size, "seed": config.seed, "model": config.model, **results}
        summary["environment"] = environment_report()
        path = folder / "summary.json"
        write_atomic(path, to_json(summary, indent=1) + "\n")
        write_reports(folder, summary)
    print(_closing(folder, summary))  # noqa: T201
    return path


def _closing(folder: Path, summary: dict[str, Any]) -> str:
    program = sys.argv[0] if Path(sys.argv[0]).name == "wuya" and "/" in sys.argv[0] else "wuya"
    seconds = sum(summary[name]["seconds"] for name, _, _ in STORY)
    return "\n".join(
        [
            figures_table(summary),
            f"{seconds / 60:.1f} minutes; twenty answers side by side: {folder / 'report.html'}",
            f"talk to it: {program} chat {folder / 'ppo'}",
            f"rank its answers: {program} serve {folder / 'ppo'} --database {folder / 'wuya.db'}",
        ]
    )
