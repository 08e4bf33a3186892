"""Run the demo for several seeds and print one Markdown table over them, ready for docs/experiments.md.

    python scripts/demo_seeds.py --size small 1 2 3        # or: make demo-seeds

Reads and writes <workspace>/runs/demo-seed<N> and runs/demo-seeds.md; a seed that is finished is not run again.
Exit code 0 when every gate held in every seed, 1 when one failed or was not shown.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

from wuya.cli import main as wuya
from wuya.files import default_workspace, write_atomic

GROUPS = (
    "win_rate", "paired", "length", "reward_model", "scores", "kl", "bits_per_byte", "tax", "outside_judges",
    "diversity", "variety_beside_sft",
)  # fmt: skip
"""Of summary.json, in the table's order."""


def main() -> int:
    """Run what is missing, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("seeds", nargs="+", type=int)
    arguments = parser.parse_args()
    runs = default_workspace() / "runs"
    summaries: dict[int, dict[str, Any]] = {}
    for seed in arguments.seeds:
        code = wuya(["demo", "--seed", str(seed), "--size", arguments.size, "--name", f"demo-seed{seed}"])
        if code:
            return code
        summaries[seed] = json.loads((runs / f"demo-seed{seed}" / "summary.json").read_text(encoding="utf-8"))
    text = seeds_table(summaries)
    write_atomic(runs / "demo-seeds.md", text)
    print(f"\n{text}")
    return 0 if all(gate["passed"] for summary in summaries.values() for gate in summary["gates"]) else 1


def seeds_table(summaries: dict[int, dict[str, Any]]) -> str:
    """One column a seed; one row for each figure, one for each gate."""
    first = next(iter(summaries.values()))
    machine = first["environment"]
    lines = [
        f"Size {first.get('size', '')}, {machine['cpu']}, {machine['cores']} cores, commit {machine['git']}, "
        f"torch {machine['packages']['torch']}, {datetime.now(UTC):%Y-%m-%d}. "
        "The labelers are simulated. [low, high]: 95 % interval.",
        "",
        "| | " + " | ".join(f"seed {seed}" for seed in summaries) + " |",
        "| --- |" + " --- |" * len(summaries),
    ]
    columns = [dict(_figures(summary)) for summary in summaries.values()]
    for name in columns[0]:
        lines.append(f"| {name} | " + " | ".join(column.get(name, "") for column in columns) + " |")
    for number, gate in enumerate(first["gates"]):
        cells = [
            f"{g['state'] if g['passed'] else '**' + g['state'] + '**'}: {g['found']} ({g['bound']})"
            for g in (summary["gates"][number] for summary in summaries.values())
        ]
        lines.append(f"| gate: {gate['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [row for group in GROUPS for row in _rows(group, summary.get(group, {}))]
    return [*rows, ("minutes", f"{sum(summary['seconds'].values()) / 60:.1f}")]


def _rows(name: str, value: object) -> list[tuple[str, str]]:
    """One row a number or interval, however deep; texts, lists and unknown figures are left out."""
    if isinstance(value, dict):
        if {"mean", "low", "high"} <= set(value):
            return [(name, f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")]
        return [row for key, inner in value.items() for row in _rows(f"{name} {key.replace('_', ' ')}", inner)]
    if isinstance(value, float):
        return [(name, f"{value:.3f}")]
    return [(name, str(value))] if isinstance(value, int) else []


if __name__ == "__main__":
    sys.exit(main())
