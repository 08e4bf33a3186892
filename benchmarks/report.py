"""The table of docs/benchmarks.md, from the JSON files the benchmarks wrote.

    python -m benchmarks.report                      # what `make bench` does last

Between the two marks of the page everything is replaced; the rest is written by hand.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, spread_text

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    reports = [json.loads(path.read_text()) for path in sorted(arguments.results.glob("*.json"))]
    page = arguments.page.read_text()
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    arguments.page.write_text(f"{before}{BEGIN}\n\n{rendered(reports)}\n\n{END}{after}")
    print(f"{sum(len(report['rows']) for report in reports)} rows in {arguments.page}")


def rendered(reports: list[dict[str, Any]]) -> str:
    """One table of all rows, and what each command was run on."""
    lines = [
        "| work | ours | peer | ratio by the clock | by CPU time | limit | target | others used |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for report in reports:
        for row in report["rows"]:
            lines += _lines(row)
    lines.append("")
    runs = {row["run"]["command"]: row["run"] for report in reports for row in report["rows"]}
    for run in runs.values():
        machine = run["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        lines.append(
            f"- `{run['command']}`: {run['date']}, commit {run['commit']}, {machine['cpu']} "
            f"({machine['capability']}), {machine['threads']} of {machine['cores']} cores, {versions}."
        )
    return "\n".join(lines)


def _lines(row: dict[str, Any]) -> list[str]:
    ours, unit = row["sides"][row["ours"]], row["unit"]
    limits = {f"of {row['limit']['name']}": row["limit"]["share"]} if "name" in row["limit"] else row["limit"]
    limit = ", ".join(f"{share:.0%} {name.removeprefix('share ')}" for name, share in limits.items() if share)
    shown = f"{ours['wall']['median']:.3g} {unit}{_memory(ours)}"
    work = row["work"] + (f" ({row['note']})" if row["note"] else "")
    if not row["ratios"]:
        return [f"| {work} | {shown} | | | | {limit} | | {row['others_used_cores']} cores |"]
    lines = []
    for name, ratio in row["ratios"].items():
        peer = row["sides"][name]
        target = f"{ratio['target']:g}: {'met' if ratio['met'] else '**missed**'}" if "target" in ratio else ""
        lines.append(
            f"| {work} | {shown} | {name}: {peer['wall']['median']:.3g} {unit}{_memory(peer)} "
            f"| {spread_text(ratio['wall'])} | "
            f"{spread_text(ratio['cpu'])} | {limit} | {target} | {row['others_used_cores']} cores |"
        )
    return lines


def _memory(side: dict[str, Any]) -> str:
    return f", {side['peak_mb']:,.0f} MB" if "peak_mb" in side else ""


if __name__ == "__main__":
    main()
