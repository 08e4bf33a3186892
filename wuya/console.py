"""What people see while something runs: progress with rate and ETA, headings, tables. Readable in a log without colour.

Logs and progress go to stderr, so that stdout carries data only.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tqdm import tqdm

QUIET_SECONDS = 3.0
"""A bar appears only for work that takes longer than this."""
PLAIN_INTERVAL_SECONDS = 10.0
"""Without a terminal, one line of progress at most this often."""


class _PlainLines(tqdm):  # type: ignore[type-arg]
    """tqdm for logs: whole lines instead of a line that is redrawn."""

    @staticmethod
    def status_printer(file):  # type: ignore[no-untyped-def]
        def print_line(text: str) -> None:
            if text.strip():
                file.write(text.rstrip() + "\n")
                file.flush()

        return print_line

    def close(self) -> None:
        if not self.disable and self.last_print_t >= self.start_t + QUIET_SECONDS:  # else too short to show at all
            self.display()
        self.disable = True
        self._decr_instances(self)  # type: ignore[attr-defined]  # what tqdm.close does, less its newline


class Progress:
    """Progress of known length: `with Progress(total, "pre-train") as progress: progress.update(4096, loss=3.1)`.

    Draws a bar in a terminal, prints a plain line every ten seconds elsewhere, and stays silent for work under 3 s.
    """

    def __init__(self, total: int, description: str, unit: str = "tok", *, start: int = 0) -> None:
        """`start` is what an earlier run already did (resume): shown, not counted in the rate."""
        terminal = sys.stderr.isatty()
        self._bar = (tqdm if terminal else _PlainLines)(
            total=total,
            initial=start,
            desc=description,
            unit=unit if len(unit) > 3 else f" {unit}",
            unit_scale=True,
            file=sys.stderr,
            delay=QUIET_SECONDS,
            mininterval=0.2 if terminal else PLAIN_INTERVAL_SECONDS,
            miniters=0,
            dynamic_ncols=terminal,
            ncols=None if terminal else 0,
            leave=True,
        )

    def __enter__(self) -> Self:
        return self

    def update(self, n: int = 1, **shown_values: float | int | str) -> None:
        """Count `n` more units; numbers given by name are shown after the rate."""
        if shown_values:
            self._bar.set_postfix(
                {name: f"{v:.4g}" if isinstance(v, float) else v for name, v in shown_values.items()}, refresh=False
            )
        self._bar.update(n)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def say(message: str) -> None:
    """One log line for people, to stderr, without breaking a progress bar."""
    if sys.stderr.isatty():
        tqdm.write(message, file=sys.stderr)
    else:
        sys.stderr.write(message + "\n")
    sys.stderr.flush()


def heading(message: str) -> None:
    """Start a stage of a longer story."""
    say(f"\n== {message} ==")


def warn(message: str) -> None:
    """Something was not as asked, and the run goes on."""
    say(f"warning: {message}")


def table(rows: Sequence[Mapping[str, object]], title: str = "") -> str:
    """Rows as aligned text; columns in order of first appearance, numbers to the right, missing cells empty."""
    from rich.box import ASCII2, SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return f"{title}\n(no rows)" if title else "(no rows)"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    box = SIMPLE_HEAD if encoding.lower().startswith("utf") else ASCII2
    grid = Table(box=box, show_edge=False, pad_edge=False)
    for name in columns:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        grid.add_column(Text(name), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(_cell(row.get(name))) for name in columns))
    out = io.StringIO()
    Console(file=out, width=10_000, no_color=True, force_terminal=False, legacy_windows=False).print(grid)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return f"{title}\n\n{text}" if title else text


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
