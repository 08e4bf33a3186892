"""What `wuya assistant` found: figures with intervals, what they cost, and twenty answers side by side."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wuya.console import table
from wuya.demo.assistant.judging import READ
from wuya.evals.evaluation_report import html_table, page
from wuya.files import read_jsonl, write_atomic
from wuya.training.svg import line_plot

SHOWN = {"original": "original", "sft": "SFT", "ppo": "PPO", "best_of_n": "best of 4"}
CURVES = {"objective/scores": "reward model's score", "objective/kl": "KL to SFT, nats per answer"}
ENDS_APART = 0.15
"""Difference in the share of answers that end beyond which the verdict names it."""
VOTES = (
    "Votes are the gold reward model's, trained on other people's conversations than the reward model that PPO "
    "optimised; on one answer each at temperature 1. As in PPO, an answer that the limit cuts scores min(score, 0) - "
    "1, so learning to end counts. A tie counts half; intervals are 95 %, over prompts."
)
READING = "Sampled as `wuya chat` does, at temperature 0.3; an ellipsis marks an answer that the limit cut."
Rows = list[list[str]]


def write_reports(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write <folder>/report.md and report.html."""
    answers = [row for _, row in read_jsonl(folder / READ)]
    write_atomic(folder / "report.md", markdown(summary, answers))
    write_atomic(folder / "report.html", page("wuya assistant", html_sections(summary, answers)))


def figures(summary: Mapping[str, Any]) -> Rows:
    """(figure, value with its 95 % interval): preference, accuracy, likelihood, distance, length."""
    evaluation, likelihood = summary["evaluate"], summary["likelihood"]
    rows = [
        [f"{_name(comparison)}, by the gold reward model", _share(interval)]
        for comparison, interval in evaluation["win_rate"].items()
    ]
    for name, title in (("reward", "reward model"), ("gold", "gold reward model")):
        report = summary[name]
        rows.append([f"{title}: accuracy on {report['num_prompts']} held-out comparisons", _share(report["accuracy"])])
        rows.append([f"{title}: correlation of score and length", f"{report['length_correlation']:+.2f}"])
    for name in ("original", "sft", "ppo"):
        figure = likelihood[name]
        rows.append([f"{SHOWN[name]}: nats per token of held-out demonstrations", _number(figure)])
    for name in ("sft", "ppo"):
        rows.append([f"{SHOWN[name]} less original, nats per token", _number(likelihood[f"{name}_less_original"], "+")])
    for name, kl in evaluation["kl"].items():
        rows.append([f"KL({SHOWN.get(name, name)} || SFT), nats per answer", f"{kl['per_response']:.2f}"])
    for name, share in evaluation["finished"].items():
        words = evaluation["diversity"][name]["median_words"]
        rows.append([f"{SHOWN.get(name, name)}: answers that end; median words", f"{share:.0%}; {words:.0f}"])
    return rows


def verdict(summary: Mapping[str, Any]) -> str:
    """What the intervals allow to say, and no more."""
    evaluation, gold = summary["evaluate"], summary["gold"]["accuracy"]
    rate = evaluation["win_rate"]["ppo_vs_sft"]
    sentences = [_compared("PPO", "SFT", rate, 0.5)]
    ends, words = evaluation["finished"], {n: row["median_words"] for n, row in evaluation["diversity"].items()}
    if abs(ends["ppo"] - ends["sft"]) > ENDS_APART:
        sentences.append(
            f"Of PPO's answers {ends['ppo']:.0%} end before the limit, of SFT's {ends['sft']:.0%}, with "
            f"{words['ppo']:.0f} and {words['sft']:.0f} words in the median: that is part of the preference."
        )
    longer = summary["likelihood"]["sft_less_original"]
    if longer["high"] < 0:
        sentences.append("SFT made held-out demonstrations more likely.")
    elif longer["low"] > 0:
        sentences.append("SFT made held-out demonstrations less likely.")
    else:
        sentences.append("SFT did not measurably change the likelihood of held-out demonstrations.")
    if gold["low"] <= 0.5:
        sentences.append("The gold reward model is not measurably better than chance: its preferences prove nothing.")
    else:
        sentences.append(f"The gold reward model orders {gold['mean']:.0%} of held-out comparisons as people did.")
    sentences.append("A model of 135M parameters and an hour of two cores: read the answers before believing a figure.")
    return " ".join(sentences)


def _compared(name: str, other: str, rate: Mapping[str, float], even: float) -> str:
    if rate["low"] > even:
        return f"The gold reward model prefers {name} to {other}."
    if rate["high"] < even:
        return f"The gold reward model prefers {other} to {name}: PPO made it worse."
    return f"The gold reward model sees no measurable difference between {name} and {other}."


def costs(summary: Mapping[str, Any]) -> Rows:
    """(stage, seconds, CPU seconds)."""
    stages = [(name, result) for name, result in summary.items() if isinstance(result, dict) and "seconds" in result]
    rows = [[name, f"{r['seconds']:.0f}", f"{r['cpu_seconds']:.0f}"] for name, r in stages]
    total = [f"{sum(r[key] for _, r in stages) / 60:.1f} min" for key in ("seconds", "cpu_seconds")]
    return [*rows, ["all", *total]]


def figures_table(summary: Mapping[str, Any]) -> str:
    """The figures and the verdict for the terminal."""
    rows = [{"figure": name, "value": value} for name, value in figures(summary)]
    return f"{table(rows)}\n{verdict(summary)}"


def markdown(summary: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> str:
    """The whole report as Markdown."""
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in summary["data"]["counts"].items())
    parts = [
        f"# wuya assistant: {summary['model']}, size {summary['size']}, seed {summary['seed']}",
        verdict(summary),
        VOTES,
        f"Data: {counts}.",
        _markdown_table(["figure", "value [95 % interval]"], figures(summary)),
        "## Time",
        _markdown_table(["stage", "seconds", "CPU seconds"], costs(summary)),
        f"## {len(answers)} prompts, every model's answer",
        READING,
    ]
    for number, row in enumerate(answers, start=1):
        prompt = "\n".join(f"> **{m['role']}**: {_one_line(m['content'])}" for m in row["prompt"])
        lines = [f"- **{SHOWN.get(name, name)}**: {_one_line(text)}" for name, text in _ordered(row)]
        parts.append("\n".join([f"### {number}", "", prompt, "", *lines]))
    return "\n\n".join(parts) + "\n"


def html_sections(summary: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same as a page."""
    updates = summary["ppo"]["updates"]
    steps = [float(step) for step in range(len(updates))]
    plots = [
        f"<figure>{line_plot(title, {'PPO': (steps, [float(row[name]) for row in updates])}, 'update')}</figure>"
        for name, title in CURVES.items()
    ]
    sections = [
        f"<p>{html.escape(verdict(summary))}</p>",
        f"<p>{VOTES}</p>",
        html_table(["figure", "value"], figures(summary)),
        "<h2>PPO</h2>",
        *plots,
        "<h2>Time</h2>",
        html_table(["stage", "seconds", "CPU seconds"], costs(summary)),
        f"<h2>{len(answers)} prompts, every model's answer</h2>",
        f"<p>{READING} Which would you choose?</p>",
    ]
    for row in answers:
        prompt = "<br>".join(f"<b>{html.escape(m['role'])}</b> {html.escape(m['content'])}" for m in row["prompt"])
        head = "".join(f"<th>{html.escape(SHOWN.get(name, name))}" for name, _ in _ordered(row))
        cells = "".join(f"<td class=text>{html.escape(text)}" for _, text in _ordered(row))
        sections.append(f"<p>{prompt}</p><table><tr>{head}<tr>{cells}</table>")
    return sections


def _ordered(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The answers in the order a reader compares them; one that the limit cut ends in an ellipsis."""
    answers, finished = row["answers"], row["finished"]
    return [(name, answers[name] + ("" if finished[name] else " ...")) for name in SHOWN if name in answers]


def _name(comparison: str) -> str:
    first, _, second = comparison.partition("_vs_")
    return f"{SHOWN.get(first, first.replace('_', ' '))} preferred to {SHOWN.get(second, second)}"


def _share(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.1%} [{interval['low']:.1%}, {interval['high']:.1%}]"


def _number(interval: Mapping[str, float], sign: str = "") -> str:
    return f"{interval['mean']:{sign}.3f} [{interval['low']:{sign}.3f}, {interval['high']:{sign}.3f}]"


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())


def _markdown_table(header: Sequence[str], rows: Rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
