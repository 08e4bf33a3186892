"""The demo's report.html: gates, costs, curves of every stage, calibration, gold against proxy, answers in columns."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wuya.evals.evaluation_report import evaluation_sections, html_table, page
from wuya.files import BadRows, read_jsonl, write_atomic
from wuya.training.report import curves
from wuya.training.svg import line_plot

STATES = {"held": "held", "failed": "FAILED", "not shown": "not shown"}
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]

CURVES: tuple[tuple[str, dict[str, tuple[str, str]]], ...] = (
    ("pre-training: bits per byte, held-out chats", {"base": ("base", "validation/bits_per_byte")}),
    ("SFT: loss, nats per token", {"sft": ("sft", "loss")}),
    ("reward model: loss", {"reward": ("reward", "loss")}),
    (
        "PPO: score of the reward model",
        {"PPO": ("ppo", "objective/scores"), "PPO-ptx": ("ppo_ptx", "objective/scores")},
    ),
    ("PPO: KL to SFT, nats per response", {"PPO": ("ppo", "objective/kl"), "PPO-ptx": ("ppo_ptx", "objective/kl")}),
    ("PPO: answers that end", {"PPO": ("ppo", "objective/eos_share"), "PPO-ptx": ("ppo_ptx", "objective/eos_share")}),
    ("PPO: entropy", {"PPO": ("ppo", "objective/entropy"), "PPO-ptx": ("ppo_ptx", "objective/entropy")}),
    ("PPO-ptx: loss on pre-training text", {"PPO-ptx": ("ppo_ptx", "loss/ptx")}),
)
"""Title -> {label: (run folder, metric)}."""


def write_demo_report(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write <folder>/report.html from the runs' files and the summary."""
    metrics = {name: _metrics(folder / name) for name in ("base", "sft", "reward", "ppo", "ppo_ptx")}
    evaluation = json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    sections = [
        f"<p>Seed {summary['seed']}, size {summary['size']}. <b>The labelers are simulated</b>: a shared taste, tastes "
        "of their own and noise, on real people's prompts. The models saw rankings only.</p>",
        "<h2>Gates</h2><p>A claim held when its whole 95 % interval is on the right side of the bound, failed when the "
        "whole interval is on the wrong side, and was not shown when the bound lies inside.</p>",
        html_table(["claim", "state", "found", "bound"], [
            [gate["name"], STATES[gate["state"]], gate["found"], gate["bound"]] for gate in summary["gates"]
        ]) if summary["gates"] else "<p>none at this size: its models are too small to say anything</p>",
        "<h2>Time</h2>",
        html_table(["stage", "seconds"], [[name, f"{s:.0f}"] for name, s in summary["seconds"].items()]),
        "<h2>Curves</h2>",
        *(_plot(title, _series(metrics, lines)) for title, lines in CURVES),
        "<h2>Reward model</h2>",
        *_reward_model_section(summary["reward_model"]),
        "<h2>Gold against proxy</h2><p>Each point is one PPO update's episodes: the reward model's mean score (proxy) "
        "and the labelers' noiseless shared utility (gold, which no model sees), against the square root of the KL to "
        "the SFT model. A gold curve that bends down while the proxy rises is over-optimisation (Gao et al. 2022).</p>",
        *(
            _plot(f"{name}: against sqrt(KL)", _against_distance(rows), "sqrt(nats)")
            for name, rows in summary["gold_and_proxy"].items()
        ),
        *evaluation_sections(evaluation, folder / "evaluation" / "answers.jsonl"),
    ]  # fmt: skip
    path = folder / "report.html"
    write_atomic(path, page("wuya demo", sections))
    return path


def _reward_model_section(report: Mapping[str, Any]) -> list[str]:
    figures = [[name.replace("_", " "), f"{v:.3f}"] for name, v in report.items() if isinstance(v, float)]
    bins = report.get("reliability", [])
    confidence = [row["confidence"] for row in bins]
    plot = _plot(
        "reliability on individual votes",
        {"reward model": (confidence, [row["accuracy"] for row in bins]), "perfect": ([0.5, 1.0], [0.5, 1.0])},
        "predicted probability",
    )
    return [
        "<p>On prompts of people it has not met, against single votes of labelers it has not met. Agreement is that of "
        "two such labelers; the ceiling is what a perfect model of what they share could reach on single votes.</p>",
        html_table(["figure", "value"], figures),
        plot if bins else "",
    ]


def _series(metrics: Mapping[str, Sequence[Mapping[str, Any]]], lines: Mapping[str, tuple[str, str]]) -> Series:
    found = {}
    for label, (run, name) in lines.items():
        available = curves(metrics[run])
        if name in available:
            found[label] = available[name]
    return found


def _against_distance(rows: Sequence[Mapping[str, float]]) -> Series:
    distances = [math.sqrt(max(row["kl"], 0.0)) for row in rows]
    return {kind: (distances, [row[kind] for row in rows]) for kind in ("proxy", "gold")}


def _plot(title: str, series: Series, xlabel: str = "step") -> str:
    if not series:
        return ""
    return f"<figure>{line_plot(title, series, xlabel)}</figure>"


def _metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    return [row for _, row in read_jsonl(file, BadRows())] if file.exists() else []
