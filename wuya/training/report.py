"""report.html of a run: curves of metrics.jsonl, the last samples, the settings. One file, no scripts, no network."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wuya.files import BadRows, read_jsonl, write_atomic
from wuya.training.metrics import METRICS
from wuya.training.ppo_metrics import PPO_METRICS
from wuya.training.svg import line_plot

KNOWN = {**METRICS, **PPO_METRICS}
HIDDEN = frozenset({"step", "time"})
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}figure{display:inline-block;margin:.5rem;vertical-align:top;max-width:25rem}
table{border-collapse:collapse}td,th{border:1px solid #ddd;padding:.25rem .6rem;text-align:left;vertical-align:top}
td.number{text-align:right;font-variant-numeric:tabular-nums}pre{white-space:pre-wrap;background:#f6f6f6;padding:.6rem}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#222}td,th{border-color:#444}}"""


def write_report(out: Path) -> Path:
    """Write `<out>/report.html` from the run's files; returns its path."""
    metrics = _rows(out / "metrics.jsonl")
    samples = _rows(out / "samples.jsonl")
    config = (out / "config.yaml").read_text(encoding="utf-8") if (out / "config.yaml").exists() else ""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{html.escape(out.name)}</title><style>{STYLE}</style><h1>{html.escape(out.name)}</h1>",
        "<h2>Last values</h2>",
        last_values_table(metrics),
        "<h2>Curves</h2>",
        *(figure(name, steps, values) for name, (steps, values) in curves(metrics).items()),
        "<h2>Samples</h2>",
        samples_table(samples),
        f"<h2>Settings</h2><pre>{html.escape(config)}</pre></html>",
    ]
    path = out / "report.html"
    write_atomic(path, "\n".join(parts) + "\n")
    return path


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Name -> (steps, values) of every metric that is a number at least twice."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in HIDDEN and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = found.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(float(value))
    return {name: series for name, series in found.items() if len(series[0]) > 1}


def figure(name: str, steps: Sequence[int], values: Sequence[float]) -> str:
    """One curve with the metric's meaning beneath."""
    caption = html.escape(KNOWN[name].meaning) if name in KNOWN else ""
    return f"<figure>{line_plot(name, {'': (steps, values)})}<figcaption>{caption}</figcaption></figure>"


def last_values_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The newest value of each metric with its unit, healthy range and meaning."""
    last: dict[str, Any] = {}
    for row in rows:
        last.update({name: value for name, value in row.items() if name not in HIDDEN})
    lines = []
    for name, value in last.items():
        known = KNOWN.get(name)
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
