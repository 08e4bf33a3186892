"""An evaluation as a table and as report.html: figures with intervals, the same prompts answered by every model."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wuya.console import table
from wuya.files import read_jsonl, write_atomic
from wuya.training.report import STYLE

NUM_PROMPTS_SHOWN = 40
HEAD = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"


def write_evaluation_report(path: Path, report: Mapping[str, Any], answers_file: Path) -> None:
    """Write the page for one evaluation."""
    write_atomic(path, page("Evaluation", evaluation_sections(report, answers_file)))


def page(title: str, sections: Sequence[str]) -> str:
    """A whole HTML page of sections."""
    name = html.escape(title)
    return f"{HEAD}<title>{name}</title><style>{STYLE}</style><h1>{name}</h1>" + "\n".join(sections) + "</html>\n"


def evaluation_sections(report: Mapping[str, Any], answers_file: Path) -> list[str]:
    """The tables of one evaluation and its sample browser."""
    votes = html.escape(report["votes_by"])
    sections = [
        f"<h2>Who is preferred</h2><p>{report['num_prompts']} held-out prompts{_left_out(report)}, one answer each at "
        f"temperature 1; votes by {votes}; a tie counts half; 95 % intervals over prompts. At equal length: what a "
        "logistic model of the votes predicts where both answers have as many characters.</p>",
        html_table(["comparison", "preferred", "low", "high", "at equal length", "prompts"], [
            [name.replace("_", " "), *(f"{rate[k]:.1%}" for k in ("mean", "low", "high")),
             _rate(report.get("length_controlled", {}).get(name)), str(rate["n"])]
            for name, rate in report["win_rate"].items()
        ]),
        "<p>The same votes by length: a model that wins only where its answer is the longer one may win by length.</p>",
        html_table(["model", "mean words", "SFT's", "longer", "preferred when longer", "when not longer"],
                   [_length_row(report, name, row) for name, row in report["length"].items()]),
        "<h2>What it cost</h2><p>KL(policy || SFT) in nats on the policy's own answers; tax: bits per byte on held-out "
        "raw text less the SFT model's, paired by document.</p>",
        html_table(["model", "KL per response", "KL per token", "bits per byte", "tax", "proxy score", "gold score"],
                   [_cost_row(report, name) for name in _names(report)]),
        "<h2>Variety</h2>",
        html_table(
            ["model", "distinct-1", "distinct-2", "median words", "most frequent answer", "its share", "finished"],
            [_variety_row(report, name, row) for name, row in report["diversity"].items()],
        ),
    ]  # fmt: skip
    if report.get("outside_judges"):
        sections += _judge_section(report["outside_judges"])
    return [*sections, "<h2>The same prompts, every model</h2>", answers_table(answers_file)]


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are escaped; numbers are aligned by the page's style."""
    head = "".join(f"<th>{html.escape(name)}" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def answers_table(answers_file: Path, count: int = NUM_PROMPTS_SHOWN) -> str:
    """The first prompts with each model's answer and its proxy score."""
    blocks = []
    for number, (_, row) in enumerate(read_jsonl(answers_file)):
        if number >= count:
            break
        prompt = "<br>".join(f"<b>{html.escape(m['role'])}</b> {html.escape(m['content'])}" for m in row["prompt"])
        lines = "".join(
            f"<tr><td>{html.escape(name)}<td class=text>{html.escape(text)}"
            f"<td class=number>{row['scores'].get(name, '')}"
            for name, text in row["answers"].items()
        )
        blocks.append(f"<p>{prompt}</p><table><tr><th>model<th>answer<th>proxy{lines}</table>")
    return "".join(blocks)


def evaluation_table(report: Mapping[str, Any]) -> str:
    """The figures people ask for first, one row a model."""
    rows = []
    for name, variety in report["diversity"].items():
        comparison = f"{label(report, name)}_vs_sft"
        kl = report["kl"].get(name)
        bits = report["bits_per_byte"].get(name)
        rows.append(
            {
                "model": label(report, name),
                "preferred to sft": _rate(report["win_rate"].get(comparison)),
                "at equal length": _rate(report.get("length_controlled", {}).get(comparison)),
                "KL/response": f"{kl['per_response']:.2f}" if kl else "",
                "bits/byte": f"{bits['mean']:.3f}" if bits else "",
                "distinct-2": f"{variety['distinct_2']:.2f}",
                "words": f"{variety['median_words']:.0f}",
                "finished": f"{report['finished'][name]:.0%}",
            }
        )
    return table(rows, title=f"{report['num_prompts']} prompts, votes by {report['votes_by']}")


def label(report: Mapping[str, Any], name: str) -> str:
    """A model's name in tables: `best_of_n` with its n."""
    return f"best_of_{report['best_of']}" if name == "best_of_n" and report.get("best_of") else name


def _left_out(report: Mapping[str, Any]) -> str:
    count = len(report.get("left_out", ()))
    return f" ({count} more are left out for all models: too long for one of them)" if count else ""


def _length_row(report: Mapping[str, Any], name: str, row: Mapping[str, Any]) -> list[str]:
    return [
        label(report, name),
        f"{row['mean_words']:.1f}",
        f"{row['other_mean_words']:.1f}",
        f"{row['longer_share']:.1%}",
        *(_share(row[key]) for key in ("preferred_when_longer", "preferred_when_not_longer")),
    ]


def _rate(rate: Mapping[str, Any] | None) -> str:
    return f"{rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]" if rate else ""


def _share(rate: Mapping[str, Any] | None) -> str:
    return f"{_rate(rate)}, n {rate['n']}" if rate else ""


def _names(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*report["diversity"], *report["bits_per_byte"]]))


def _cost_row(report: Mapping[str, Any], name: str) -> list[str]:
    kl, bits, tax = (report[key].get(name) for key in ("kl", "bits_per_byte", "tax"))
    scores = report["scores"].get(name, {})
    return [
        label(report, name),
        f"{kl['per_response']:.2f}" if kl else "",
        f"{kl['per_token']:.3f}" if kl and kl["per_token"] is not None else "",
        f"{bits['mean']:.3f}" if bits else "",
        f"{tax['mean']:+.4f} [{tax['low']:+.4f}, {tax['high']:+.4f}]" if tax else "",
        f"{scores['proxy']:.2f}" if "proxy" in scores else "",
        f"{scores['gold']:.2f}" if "gold" in scores else "",
    ]


def _variety_row(report: Mapping[str, Any], name: str, row: Mapping[str, Any]) -> list[str]:
    return [
        label(report, name),
        f"{row['distinct_1']:.3f}",
        f"{row['distinct_2']:.3f}",
        f"{row['median_words']:.0f}",
        row["most_common"],
        f"{row['most_common_share']:.1%}",
        f"{report['finished'][name]:.0%}",
    ]


def _judge_section(judges: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, f"{row['mean']:.3f}", f"{judges['real_turn'][name]['mean']:.3f}"]
        for name, row in judges["bits_per_byte"].items()
    ]
    return [
        "<h2>Judges that saw no ranking</h2><p>Bits per byte of the answers under a model that never saw PPO (lower: "
        "more like human turns); probability of being the real next turn under a classifier of real against random "
        f"turns (area under its curve on held-out pairs: {judges['real_turn_auc']:.3f}).</p>",
        html_table(["model", "bits per byte of its answers", "P(real turn)"], rows),
    ]
