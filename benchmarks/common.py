"""What every benchmark shares: ours and peers in turn, medians and spread, the machine's limit in the same run, JSON.

    rounds = alternate({"ours": ours, "peer": peer}, pairs=5)          # a warm-up, then ours, peer, ours, peer ...
    row = row_of("decode, batch 8", rounds, amount=512, unit="tokens/s", target=2.0)
    finish("generate", [row], arguments)                               # prints the table, writes results/generate.json

A side is a function that does the work once. What it returns is kept: a mapping of further figures (peak memory, loss),
and where it has `wall` and `cpu` (seconds it measured itself, as a `Peer` in another venv does) these are the times.
A ratio is the peer's seconds over ours in the same round, above 1 where ours is faster, as median and quartiles over
rounds; twice: by wall clock, and by CPU seconds, the steadier figure on a machine with other work.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
Figures = Mapping[str, float]
Side = Callable[[], Figures | None]
Row = dict[str, Any]


def parser_of(doc: str | None, *, pairs: int = 5) -> argparse.ArgumentParser:
    """The arguments every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=pairs, help="rounds of ours and peers after the warm-up")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder for the JSON that `make bench` makes a table of"
    )
    parser.add_argument("--add", action="store_true", help="keep the rows of earlier runs, of other work, in that JSON")
    return parser


@dataclass(frozen=True)
class Rounds:
    """What `alternate` measured."""

    wall: dict[str, list[float]]
    """Seconds by side, one a round."""
    cpu: dict[str, list[float]]
    figures: dict[str, list[Figures]]
    others_used_cores: float
    """Cores that other processes kept busy meanwhile; not known (0) where there is no /proc/stat."""

    def of(self, names: Sequence[str]) -> "Rounds":
        """Of some sides."""
        wall, cpu, figures = ({n: table[n] for n in names} for table in (self.wall, self.cpu, self.figures))
        return Rounds(wall, cpu, figures, self.others_used_cores)  # type: ignore[arg-type]


def alternate(sides: Mapping[str, Side], *, pairs: int = 5, warmups: int = 1) -> Rounds:
    """Run the sides in turn, `pairs` times after `warmups` rounds that are not counted."""
    for _ in range(warmups):
        for side in sides.values():
            side()
    rounds = Rounds({n: [] for n in sides}, {n: [] for n in sides}, {n: [] for n in sides}, 0.0)
    busy_before, began = busy_seconds(), time.perf_counter()
    for _ in range(pairs):
        for name, side in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            figures = side() or {}
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            rounds.wall[name].append(figures.get("wall", wall))
            rounds.cpu[name].append(figures.get("cpu", cpu))
            rounds.figures[name].append(figures)
    own = sum(sum(values) for values in rounds.cpu.values())
    others = (busy_seconds() - busy_before - own) / (time.perf_counter() - began)
    return Rounds(rounds.wall, rounds.cpu, rounds.figures, max(0.0, round(others, 2)) if busy_before else 0.0)


def row_of(
    work: str,
    rounds: Rounds,
    *,
    amount: float,
    unit: str,
    ours: str = "ours",
    target: float | Mapping[str, float] | None = None,
    limit: Mapping[str, float | str] | None = None,
    checks: Mapping[str, Any] | None = None,
    note: str = "",
) -> Row:
    """One row of the table.

    Args:
        work: what was done, in words.
        amount: how many of `unit` (tokens/s: tokens) one call of a side does; for unit "s" the seconds are shown.
        ours: which side the ratios are of.
        target: the ratio that was aimed at, of every peer or by peer.
        limit: `{"name": "GEMM float32", "share": 0.61}`: the share of what the machine can do that ours used.
        checks: evidence that both did the same work.
    """
    sides = {}
    for name in rounds.wall:
        rate = _rates(rounds.wall[name], amount, unit)
        kept = {key for figures in rounds.figures[name] for key in figures} - {"wall", "cpu"}
        sides[name] = {
            "wall": _spread(rate),
            "cpu": _spread(_rates(rounds.cpu[name], amount, unit)),
            **{key: statistics.median(f[key] for f in rounds.figures[name] if key in f) for key in sorted(kept)},
        }
    ratios: dict[str, dict[str, Any]] = {}
    for name in rounds.wall:
        if name != ours:
            ratios[name] = {
                clock: _spread([b / a for a, b in zip(seconds[ours], seconds[name], strict=True) if a > 0])
                for clock, seconds in (("wall", rounds.wall), ("cpu", rounds.cpu))
            }
            wanted = target.get(name) if isinstance(target, Mapping) else target
            if wanted is not None:
                ratios[name] |= {"target": wanted, "met": ratios[name]["wall"]["median"] >= wanted}
    return {
        "work": work, "unit": unit, "ours": ours, "sides": sides, "ratios": ratios, "limit": dict(limit or {}),
        "checks": dict(checks or {}), "others_used_cores": rounds.others_used_cores, "note": note,
    }  # fmt: skip


def finish(
    name: str,
    rows: Sequence[Row],
    arguments: argparse.Namespace,
    packages: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Print the table and write `<out>/<name>.json`; returns its path. With `--add` it keeps what other work is there.

    Args:
        packages: whose versions are recorded besides torch.
        versions: those of a peer in a venv of its own: `Peer.versions`.
    """
    where = machine(arguments.threads, ("torch", *packages))
    run = {
        "command": _command(name),
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": where | {"versions": where["versions"] | dict(versions or {})},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path: Path = arguments.out / f"{name}.json"
    kept = json.loads(path.read_text())["rows"] if getattr(arguments, "add", False) and path.exists() else []
    ours = {row["work"] for row in rows}
    report = {
        "benchmark": name,
        "rows": [row for row in kept if row["work"] not in ours] + [row | {"run": run} for row in rows],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows:
        sys.stdout.write(described(row) + "\n")
    sys.stdout.write(f"written: {path}\n")
    return path


def described(row: Row) -> str:
    """A row for the terminal, one line a side."""
    lines = [row["work"]]
    for name, side in row["sides"].items():
        more = ", ".join(f"{key} {value:.4g}" for key, value in side.items() if key not in ("wall", "cpu"))
        lines.append(f"  {name:24} {side['wall']['median']:>10.4g} {row['unit']}" + (f"   {more}" if more else ""))
    for name, ratio in row["ratios"].items():
        aimed = f", target {ratio['target']:g}: {'met' if ratio['met'] else 'missed'}" if "target" in ratio else ""
        lines.append(
            f"  vs {name:21} {spread_text(ratio['wall'])} x by the clock, {spread_text(ratio['cpu'])} x CPU{aimed}"
        )
    if row["limit"]:
        lines.append("  limit                    " + ", ".join(f"{key} {value}" for key, value in row["limit"].items()))
    if row["checks"]:
        lines.append(
            "  equal work               " + ", ".join(f"{key} {value}" for key, value in row["checks"].items())
        )
    lines.append(f"  others used              {row['others_used_cores']} cores")
    return "\n".join(lines)


def spread_text(spread: Mapping[str, float]) -> str:
    """`1.32 [1.30, 1.35]`: median and quartiles."""
    return f"{spread['median']:.3g} [{spread['low']:.3g}, {spread['high']:.3g}]"


class Peer:
    """A peer in a venv of its own: a process that does its work once for each line it is sent.

    It is run as `python -m MODULE ARGUMENTS...` there and calls `serve_peer`.
    """

    def __init__(self, python: Path, module: str, *arguments: str) -> None:
        command = [str(python), "-m", module, *arguments]
        self.command = shlex.join(command)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        self.versions: dict[str, str] = self._answer()["versions"]

    def __call__(self) -> Figures:
        """One call of the peer's work: its `wall`, `cpu` and further figures."""
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # what its libraries print is passed on
            if line.startswith("answer "):
                answer: dict[str, Any] = json.loads(line.removeprefix("answer "))
                return answer
            sys.stderr.write(line)
        raise SystemExit(f"the peer stopped, exit code {self.process.wait()}: {self.command}")

    def close(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def serve_peer(work: Side, packages: Sequence[str]) -> None:
    """The other end of `Peer`: do `work` for each line on stdin, answer with its times and figures."""
    versions = {name: metadata.version(name) for name in ("torch", *packages)}
    sys.stdout.write("answer " + json.dumps({"versions": versions}) + "\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        figures = dict(work() or {})
        figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu} | figures
        sys.stdout.write("answer " + json.dumps(figures) + "\n")
        sys.stdout.flush()


def gemm_gflops(dtype: torch.dtype = torch.float32, *, size: int = 1024, seconds: float = 1.0) -> float:
    """The limit of matrix products now, with torch's present threads: the best of repeated square products."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times) / 1e9


def memory_gb_per_second(megabytes: int = 256, *, seconds: float = 1.0) -> float:
    """How fast torch's present threads read memory that no cache holds: the best of repeated sums."""
    x = torch.ones(megabytes * 1024 * 256)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        x.sum()
        times.append(time.perf_counter() - began)
    return x.numel() * 4 / min(times) / 1e9


def peak_mb() -> float:
    """The most memory this process ever had resident, MB (10^6 bytes)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def busy_seconds() -> float:
    """CPU seconds all processes of this machine have used (Linux; 0 elsewhere)."""
    try:
        user, nice, system = (int(field) for field in Path("/proc/stat").read_text().split()[1:4])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def machine(threads: int, packages: Sequence[str] = ("torch",)) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def cpu_name() -> str:
    """The processor's own name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _rates(seconds: Sequence[float], amount: float, unit: str) -> list[float]:
    return list(seconds) if unit == "s" else [amount / value for value in seconds if value > 0]


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        only = values[0] if values else float("nan")
        return {"median": only, "low": only, "high": only}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def _command(name: str) -> str:
    """As typed, but for where things lie on this machine."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:] if word != "--add"]
    if "--out" in words:
        place = words.index("--out")
        del words[place : place + 2]
    return shlex.join(["python", "-m", f"benchmarks.{name}", *words])


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
