"""report.html of a run: curves of metrics.jsonl, the last samples, the settings. One file, no scripts, no network."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wuya.files import BadRows, read_json_object, read_jsonl, write_atomic
from wuya.training.metrics import Metric
from wuya.training.svg import line_plot

HIDDEN = frozenset({"step", "time"})
Curve = tuple[list[int], list[float]]
"""Steps and values."""
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}figure{display:inline-block;margin:.5rem;vertical-align:top;max-width:25rem}
table{border-collapse:collapse}td,th{border:1px solid #ddd;padding:.25rem .6rem;text-align:left;vertical-align:top}
td.number{text-align:right;font-variant-numeric:tabular-nums}td.text{white-space:pre-wrap}pre{white-space:pre-wrap;background:#f6f6f6;padding:.6rem}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#222}td,th{border-color:#444}}"""


def write_report(out: Path, documented: Mapping[str, Metric]) -> Path:
    """Write `<out>/report.html` from the run's files; returns its path.

    Args:
        documented: what the names in metrics.jsonl mean; others are shown without explanation.
    """
    metrics = [row for row in _rows(out / "metrics.jsonl") if type(row.get("step")) is int]
    samples = _rows(out / "samples.jsonl")
    file = out / "config.yaml"
    config = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{html.escape(out.name)}</title><style>{STYLE}</style><h1>{html.escape(out.name)}</h1>",
        "<h2>Last values</h2>",
        last_values_table(metrics, documented),
        heldout_section(out, metrics),
        "<h2>Curves</h2>",
        *figures(curves(metrics), documented),
        "<h2>Samples</h2>",
        samples_table(samples),
        f"<h2>Settings</h2><pre>{html.escape(config)}</pre></html>",
    ]
    path = out / "report.html"
    write_atomic(path, ("\n".join(parts) + "\n").encode("utf-8", "replace"))  # a sample may hold half a surrogate
    return path


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Name -> (steps, values) of every metric that is a number at least twice."""
    found: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if name not in HIDDEN and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = found.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(float(value))
    return {name: series for name, series in found.items() if len(series[0]) > 1}


def figures(found: Mapping[str, Curve], documented: Mapping[str, Metric]) -> list[str]:
    """One figure per metric, its meaning beneath; an interval is drawn with its mean."""
    drawn = []
    for name, curve in found.items():
        if name.removesuffix("_low").removesuffix("_high") in found and name.endswith(("_low", "_high")):
            continue
        ends = {end: found[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in found}
        caption = html.escape(documented[name].meaning) if name in documented else ""
        drawn.append(f"<figure>{line_plot(name, {'': curve, **ends})}<figcaption>{caption}</figcaption></figure>")
    return drawn


def heldout_section(out: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Every evaluation on held-out prompts with its intervals, and which one ships; nothing for a run without any."""
    evaluations = [row for row in rows if "eval/score" in row]
    if not evaluations:
        return ""
    choice = choice_of(out)
    names = [name for name in evaluations[0] if name.startswith("eval/") and not name.endswith(("_low", "_high"))]
    head = "".join(f"<th>{html.escape(name)}" for name in ("step", *names))
    body = ""
    for row in evaluations:
        chosen = choice.get("chosen", {}).get("step") == row["step"]
        cells = "".join(f"<td class=number>{html.escape(_with_interval(row, name))}" for name in names)
        body += f"<tr><td class=number>{row['step']}{' (ships)' if chosen else ''}{cells}"
    rule = f"<p>Ships: {html.escape(choice['rule'])}.</p>" if choice else "<p>The last policy ships.</p>"
    note = "<p>Means over held-out prompts, 95 % intervals in brackets.</p>"
    return f"<h2>Held-out prompts</h2>{rule}<table><tr>{head}{body}</table>{note}"


def choice_of(out: Path) -> dict[str, Any]:
    """What summary.json says about the choice of a checkpoint; nothing where the last one ships."""
    path = out / "summary.json"
    found = read_json_object(path).get("choice") if path.exists() else {}
    return found if isinstance(found, dict) else {}


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    value, low, high = row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")
    if not isinstance(value, int | float):
        return ""
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def last_values_table(rows: Sequence[Mapping[str, Any]], documented: Mapping[str, Metric]) -> str:
    """The newest value of each metric with its unit, healthy range and meaning."""
    last: dict[str, Any] = {}
    for row in rows:
        last.update({name: value for name, value in row.items() if name not in HIDDEN})
    lines = []
    for name, value in last.items():
        known = documented.get(name)
        shown = f"{value:,.5g}" if isinstance(value, float) else str(value)
        cells = [html.escape(text) for text in ((known.unit, known.healthy, known.meaning) if known else ("", "", ""))]
        lines.append(
            f"<tr><td>{html.escape(name)}<td class=number>{html.escape(shown)}" + "".join(f"<td>{c}" for c in cells)
        )
    return "<table><tr><th>metric<th>last<th>unit<th>healthy<th>meaning" + "".join(lines) + "</table>"


def samples_table(rows: Sequence[Mapping[str, Any]], count: int = 12) -> str:
    """The newest samples, one row each."""
    shown = rows[-count:]
    names = list(dict.fromkeys(name for row in shown for name in row))
    head = "".join(f"<th>{html.escape(name)}" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_text(row.get(name)))}" for name in names) for row in shown)
    return f"<table><tr>{head}{body}</table>" if shown else "<p>none</p>"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path, BadRows())] if path.exists() else []
