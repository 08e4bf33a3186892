"""Freeze what people said into a file that training reads: rankings, pairs from every source, demonstrations.

    wuya snapshot --kind rm_pairs --database runs/wuya.db --out runs/data        # for wuya reward, wuya dpo
    wuya snapshot --kind dpo --weights '{regenerate: 0, thumbs: 1}'              # for TRL
    wuya snapshot --kind sft --better_answers true

Reads the feedback store; writes OUT/KIND-HASH.jsonl, its manifest and its data card, and prints the path. Kinds,
sources and weights: docs/concepts/feedback.md. The same content always gets the same name.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from wuya.console import say
from wuya.errors import ConfigError
from wuya.feedback.comparisons import DEFAULT_WEIGHTS
from wuya.feedback.reading import Selection
from wuya.feedback.snapshot import Kind
from wuya.feedback.store import FeedbackStore
from wuya.files import default_workspace, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotConfig:
    """Freeze the feedback store into a hashed file with a data card."""

    kind: Kind
    """What to write: sft, rm_rankings, rm_pairs, dpo, kto, prompts, feedback or raw."""
    database: str = field(default_factory=lambda: str(default_workspace() / "wuya.db"))
    """Feedback store: path of an SQLite file, or a database URL."""
    project: str = ""
    """Only rankings of this labeling project; empty: all."""
    rounds: tuple[int, ...] = ()
    """Only rankings of these rounds of the loop; empty: all."""
    labelers: tuple[str, ...] = ()
    """Only rankings of these people; empty: all."""
    without_labelers: tuple[str, ...] = ()
    """Leave out rankings of these people: spammers that `wuya agreement` found."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights of comparisons by source that differ from the table in docs/concepts/feedback.md; 0 leaves out."""
    better_answers: bool = False
    """For sft: also what users of the chat wrote in place of an answer."""
    out: Path = field(default_factory=lambda: default_workspace() / "snapshots")
    """Folder to write into."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(DEFAULT_WEIGHTS))
        if unknown:
            raise ConfigError(
                f"`weights` names an unknown source: {', '.join(unknown)}", hint=f"known: {', '.join(DEFAULT_WEIGHTS)}"
            )


def run(config: SnapshotConfig) -> Path:
    """Returns the path of the frozen file."""
    with FeedbackStore(config.database) as store:
        selection = Selection(
            project=config.project,
            rounds=config.rounds,
            labelers=config.labelers,
            without_labelers=config.without_labelers,
        )
        weights = {**DEFAULT_WEIGHTS, **config.weights}
        snapshot = store.export_snapshot(
            config.kind, config.out, selection=selection, weights=weights, better_answers=config.better_answers
        )
    if config.json:
        print(to_json(asdict(snapshot)))  # noqa: T201
    else:
        say(f"{snapshot.num_rows:,} rows frozen; the data card: {snapshot.path.with_suffix('.card.md')}")
        print(snapshot.path)  # noqa: T201
    return snapshot.path
