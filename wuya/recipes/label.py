"""InstructGPT step 2a, second half: answers in the queue become rankings (arXiv:2203.02155, section 3.4).

    wuya label --candidates runs/samples/completions.jsonl --labeler terminal --name ann
    wuya label --candidates completions.jsonl --labeler simulated --labelers labelers.json --overlap 1
    wuya label --labeler file --rankings others.jsonl      # finished rankings: ours, HH-RLHF, WebGPT, OASST, ...

Reads answers (JSONL with `prompt` and `candidates`, as `wuya sample` writes them) or what is queued in the database;
writes the rankings into the database, then freezes them: OUT/rm_rankings-HASH.jsonl, which `wuya reward` reads, and its
manifest. What was ranked before is not asked again, so the same command goes on where it was interrupted.
Simulated labelers are programs (docs/concepts/labelers.md): whatever is made with their votes must say so.
"""

import getpass
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from wuya.config import require_positive
from wuya.console import Progress, say
from wuya.errors import ConfigError, DataError, Interrupted
from wuya.feedback.agreement import pairwise_agreement
from wuya.feedback.importers import import_rankings, read_answers
from wuya.feedback.queue import LabelingTask
from wuya.feedback.rankings import format_order, parse_order
from wuya.feedback.reading import Selection
from wuya.feedback.rows import sha256_text
from wuya.feedback.simulated import Labeler, Labelers
from wuya.feedback.snapshot import Snapshot
from wuya.feedback.store import FeedbackStore
from wuya.files import BadRows, default_workspace, to_json
from wuya.records import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Turn queued answers into rankings: by a person at this terminal, by simulated labelers, or from a file."""

    labeler: Literal["terminal", "simulated", "file"] = "terminal"
    """Who ranks: you, here; simulated people of `labelers`; or whoever wrote the file `rankings`."""
    candidates: Path | None = None
    """JSONL of prompts with K answers to queue first; without it, what is queued already."""
    database: str = field(default_factory=lambda: str(default_workspace() / "wuya.db"))
    """Feedback store: path of an SQLite file, or a database URL."""
    project: str = "default"
    """Labeling project the tasks belong to."""
    round: int = 0
    """Which round of the loop the answers come from; kept with every ranking."""
    name: str = field(default_factory=getpass.getuser)
    """At the terminal: the name your rankings are kept under."""
    overlap: int = 1
    """People per prompt. Paper: 1 (agreement is measured on a shared part)."""
    limit: int = 0
    """At the terminal: stop after so many rankings; 0 goes on until you stop or nothing is left."""
    labelers: Path | None = None
    """For simulated labelers: the JSON file of people, calibrated (the demo writes `labelers.json`)."""
    group: Literal["training", "held_out"] = "training"
    """Which of the simulated people rank: those a reward model learns from, or those who judge it."""
    spammers: tuple[str, ...] = ()
    """Names of simulated people who rank at random, to see whether `wuya agreement` finds them."""
    rankings: Path | None = None
    """For `file`: finished rankings in any format of docs/concepts/feedback.md."""
    out: Path = field(default_factory=lambda: default_workspace() / "rankings")
    """Folder the frozen snapshot is written to."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        require_positive(self, "overlap")
        for who, needs in (("simulated", "labelers"), ("file", "rankings")):
            if self.labeler == who and getattr(self, needs) is None:
                raise ConfigError(f"--labeler {who} needs a file", hint=f"name it: `--{needs} FILE`")


def run(config: LabelConfig) -> Path:
    """Queue, rank, freeze. Returns the path of the snapshot."""
    with FeedbackStore(config.database) as store:
        # 1. Queue the answers, unless they are queued already
        if config.candidates is None and config.labeler != "file":
            _require_tasks(store, config)
        if config.candidates is not None:
            bad = BadRows()
            answers = read_answers(config.candidates, bad)
            new = store.queue_tasks(answers, project=config.project, round=config.round, overlap=config.overlap)
            say(f"{new:,} new tasks queued from {config.candidates}")
            if bad.count:
                say(bad.summary())
        # 2. Rank them
        if config.labeler == "simulated":
            count = _simulate(store, config)
        elif config.labeler == "file":
            count = _import(store, config)
        else:
            count = _ask(store, config)
        # 3. Freeze what this project and round hold
        rounds = () if config.labeler == "file" else (config.round,)  # a file says its own rounds
        selection = Selection(project=config.project, rounds=rounds)
        snapshot = store.export_snapshot("rm_rankings", config.out, selection=selection)
        _report(store, snapshot, count, selection, config)
    return snapshot.path


def _require_tasks(store: FeedbackStore, config: LabelConfig) -> None:
    """Refuse to rank where nothing was ever queued; where all is ranked already, the rankings are frozen again."""
    rankings = store.rankings(Selection(project=config.project, rounds=(config.round,)))
    if any(True for _ in store.open_answers(project=config.project, round=config.round)) or any(True for _ in rankings):
        return
    raise DataError(
        f"no answers are queued in project `{config.project}`, round {config.round}, of `{config.database}`",
        hint="name the answers to rank: `wuya label --candidates runs/samples/completions.jsonl` (`wuya sample` writes "
        "them, and queues them with `--database`)",
    )


def _simulate(store: FeedbackStore, config: LabelConfig) -> int:
    assert config.labelers is not None
    people = Labelers.load(config.labelers).with_spammers(config.spammers)
    group: Sequence[Labeler] = people.training if config.group == "training" else people.held_out
    answers = list(store.open_answers(project=config.project, round=config.round))
    each = min(config.overlap, len(group))
    count = 0
    with Progress(len(answers) * each, "simulated labelers rank", unit="rankings") as progress:
        for start in range(0, len(answers), 500):
            rankings = [
                labeler.rank(prompt, candidates, round=config.round)
                for prompt, candidates in answers[start : start + 500]
                for labeler in _people_for(prompt, group, each)
            ]
            count += store.add_rankings(rankings, project=config.project)
            progress.update(len(rankings))
    return count


def _people_for(prompt: Prompt, group: Sequence[Labeler], count: int) -> list[Labeler]:
    """Who ranks a prompt: depends on the prompt alone, so that an interrupted command goes on as if it had not been."""
    first = int(sha256_text(prompt.id)[:8], 16)
    return [group[(first + offset) % len(group)] for offset in range(count)]


def _import(store: FeedbackStore, config: LabelConfig) -> int:
    assert config.rankings is not None
    bad = BadRows()

    def refuse(error: DataError) -> None:
        found = f" (found: {error.found})" if error.found else ""
        bad.add(config.rankings or "", 0, f"{error.what}{found}")

    count = store.add_rankings(import_rankings(config.rankings, bad), project=config.project, refuse=refuse)
    if bad.count:
        say(bad.summary())
    return count


def _ask(store: FeedbackStore, config: LabelConfig) -> int:
    """A session at the terminal: one task after the other until the person has had enough."""
    count = 0
    say("Best first: `2>1=3` ranks answer 2 first and ties 1 and 3. s: skip, q: stop.")
    while not config.limit or count < config.limit:
        task = store.claim(config.name, project=config.project, round=config.round)
        if task is None:
            say("nothing is left to rank")
            break
        print(_shown(task), file=sys.stderr, flush=True)  # noqa: T201 (stdout is for the result)
        try:
            order = _read_order(len(task.candidates))
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; your {count} rankings are kept", hint="the same command goes on") from None
        if order is None:
            break
        if order == ():
            store.skip(task.assignment_id, "skipped at the terminal")
            continue
        store.submit_ranking(task.assignment_id, task.ranks_by_id(order))
        say(f"kept: {format_order(order)}")
        count += 1
    return count


def _read_order(num_candidates: int) -> tuple[int, ...] | None:
    """Ranks as typed; () to skip, None to stop. Asks again until the answer makes sense."""
    while True:
        print("order> ", end="", file=sys.stderr, flush=True)  # noqa: T201
        line = sys.stdin.readline()
        if not line or line.strip().lower() in ("q", "quit"):
            return None
        if line.strip().lower() in ("s", "skip"):
            return ()
        try:
            return parse_order(line, num_candidates)
        except DataError as error:
            say(str(error).replace("\n\n", "\n"))


def _shown(task: LabelingTask) -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    turns = [f"{m.role}: {m.content}" for m in task.prompt.messages]
    answers = [f"[{i}] {c.text}{'' if c.finished else ' ...'}" for i, c in enumerate(task.candidates, start=1)]
    parts = [
        textwrap.fill(part, width, replace_whitespace=False, subsequent_indent="    ") for part in (*turns, *answers)
    ]
    return "\n".join(["", "-" * width, *parts[: len(turns)], "", *parts[len(turns) :]])


def _report(store: FeedbackStore, snapshot: Snapshot, count: int, selection: Selection, config: LabelConfig) -> None:
    agreement = pairwise_agreement(store.rankings(selection))
    if config.json:
        result = asdict(snapshot) | {"num_new": count, "agreement": asdict(agreement)}
        print(to_json(result))  # noqa: T201
        return
    people = " (simulated)" if config.labeler == "simulated" else ""
    say(f"{count:,} new rankings{people}; {snapshot.num_rows:,} frozen")
    if agreement.num_pairs:
        say(f"labelers agree on {agreement.mean:.1%} of pairs [{agreement.low:.1%}, {agreement.high:.1%}]{people}")
    print(snapshot.path)  # noqa: T201
