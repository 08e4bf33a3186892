"""How far labelers agree, who stands out, and which model they prefer (InstructGPT, section 3.4 and appendix B).

    wuya agreement --database runs/wuya.db --project default
    wuya agreement --rankings rankings.jsonl --out runs/agreement

Reads rankings from the feedback store, or from a file in any format of docs/concepts/feedback.md; prints tables of
labelers, questions, models and drift, and writes <out>/agreement.json. The formulas and how to read them:
docs/concepts/agreement.md.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wuya.config import require_positive
from wuya.console import say, table
from wuya.errors import DataError
from wuya.feedback.agreement import ClusterInterval
from wuya.feedback.agreement_report import AgreementReport, agreement_report, raw_of
from wuya.feedback.bradley_terry import Ratings
from wuya.feedback.importers import import_rankings
from wuya.feedback.reading import RawRanking, Selection
from wuya.feedback.store import FeedbackStore
from wuya.files import BadRows, default_workspace, make_folder, to_json, write_atomic

WIDEST_MATRIX = 12
"""A matrix of more labelers does not fit a terminal; agreement.json has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementConfig:
    """Compare labelers with each other, and models by their votes."""

    database: str = field(default_factory=lambda: str(default_workspace() / "wuya.db"))
    """Feedback store: path of an SQLite file, or a database URL. Without effect with `rankings`."""
    rankings: Path | None = None
    """A file of rankings to report on instead of the database."""
    project: str = ""
    """Only this labeling project; empty: all."""
    rounds: tuple[int, ...] = ()
    """Only these rounds of the loop; empty: all."""
    num_samples: int = 500
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Of the resampling."""
    out: Path = field(default_factory=lambda: default_workspace() / "agreement")
    """Folder to write agreement.json into."""
    json: bool = False
    """Print the report as one JSON object."""

    def __post_init__(self) -> None:
        require_positive(self, "num_samples")


def run(config: AgreementConfig) -> AgreementReport:
    """Read, compare, print."""
    raw = list(_from_file(config.rankings) if config.rankings else _from_store(config))
    if not raw:
        raise DataError("there are no rankings to compare", hint="label some: `wuya label --help`")
    report = agreement_report(raw, num_samples=config.num_samples, seed=config.seed)
    write_atomic(make_folder(config.out) / "agreement.json", to_json(report.to_dict(), indent=1) + "\n")
    if config.json:
        print(to_json(report.to_dict()))  # noqa: T201
    else:
        print("\n\n".join(shown(report)))  # noqa: T201
    return report


def _from_store(config: AgreementConfig) -> Iterable[RawRanking]:
    with FeedbackStore(config.database) as store:
        yield from store.raw_rankings(Selection(project=config.project, rounds=config.rounds))


def _from_file(path: Path) -> Iterable[RawRanking]:
    bad = BadRows()
    yield from map(raw_of, import_rankings(path, bad))
    if bad.count:
        say(bad.summary())


def shown(report: AgreementReport) -> list[str]:
    """The report as tables for a terminal."""
    summary = (
        f"{report.num_rankings:,} rankings of {report.num_prompts:,} prompts by {len(report.labelers)} labelers\n"
        f"agreement on pairs   {_percent(report.pairwise)} on {report.pairwise.num_pairs:,} pairs both decided\n"
        f"ceiling of a model   {_number(report.ceiling)} of single votes, at that agreement\n"
        f"Kendall's tau-b      {_number(report.kendall.mean)}\n"
        f"Krippendorff's alpha {_number(report.alpha)} (0 is chance)"
    )
    parts = [summary, table([_labeler(report, i) for i in range(len(report.labelers))], title="labelers")]
    if 2 < len(report.matrix_labelers) <= WIDEST_MATRIX:
        parts.append(table(_matrix(report), title="agreement of each two labelers"))
    if report.questions:
        rows = [
            {"question": q.key, "answers": q.answers, "mean": _number(q.mean), "alpha": _number(q.alpha)}
            | {"kappa": _number(q.kappa)}
            for q in report.questions
        ]
        parts.append(table(rows, title="questions"))
    if report.models.players:
        title = (
            f"models (Bradley-Terry; a tie is half a win; Davidson's nu {_number(report.models_with_ties.tie_odds)})"
        )
        parts.append(table(_ratings(report.models, report.elo), title=title))
    if report.strictness.players:
        parts.append(table(_ratings(report.strictness, {}), title="labelers' strictness (higher grades lower)"))
    if not report.models.connected or not report.strictness.connected:
        parts.append("Some players never met, not even through others: their ratings can't be compared.")
    suspects = [row.labeler for row in report.labelers if row.suspect]
    if suspects:
        parts.append(f"Votes that look random: {', '.join(suspects)}. Look at them before you train on them.")
    unknown = [row.labeler for row in report.labelers if math.isnan(row.skill)]
    if unknown and len(report.labelers) > 1:
        parts.append(
            f"Skill unknown: {', '.join(unknown)}. Of two who share prompts with nobody else, who errs can't be told: "
            "give prompts to three people, or to other twos."
        )
    fell = [row.labeler for row in report.drifts if row.fell]
    if fell:
        parts.append(f"Agreement fell lately: {', '.join(fell)}.")
    return parts


def _labeler(report: AgreementReport, number: int) -> dict[str, object]:
    row = report.labelers[number]
    drift = next((d for d in report.drifts if d.labeler == row.labeler), None)
    return {
        "labeler": row.labeler,
        "rankings": row.rankings,
        "agrees with others": _percent(row.with_others),
        "skill": f"{_number(row.skill)} [{_number(row.skill_low)}, {_number(row.skill_high)}]",
        "ties": f"{row.tie_share:.0%}",
        "seconds": "" if row.seconds is None else f"{row.seconds:.0f}",
        "lately": "" if drift is None else f"{drift.after - drift.before:+.1%}" + (" fell" if drift.fell else ""),
        "": "random?" if row.suspect else "",
    }


def _matrix(report: AgreementReport) -> list[dict[str, object]]:
    names = report.matrix_labelers
    rows: list[dict[str, object]] = []
    for a, shares in zip(names, report.matrix, strict=True):
        cells = {b: "" if math.isnan(x) else f"{x:.0%}" for b, x in zip(names, shares, strict=True)}
        rows.append({"": a, **cells})
    return rows


def _ratings(ratings: Ratings, elo: dict[str, float]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for r in ratings.players:
        row: dict[str, object] = {"player": r.player, "rating": f"{r.rating:.0f} [{r.low:.0f}, {r.high:.0f}]"}
        if r.player in elo:
            row["Elo"] = f"{elo[r.player]:.0f}"
        rows.append(row | {"battles": r.battles, "wins + ties/2": f"{r.win_share:.1%}"})
    return rows


def _percent(interval: ClusterInterval) -> str:
    if math.isnan(interval.mean):
        return "unknown"
    return f"{interval.mean:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _number(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.3f}"
