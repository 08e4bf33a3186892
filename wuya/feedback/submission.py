"""What a labeler hands in: a ranking, a demonstration, or answers to questions; written once, however often sent.

Everything happens in one transaction: the rows, the counters, the next state of the task, and the verdict on a test
task. A second labeler is asked for a third opinion where the first two disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from wuya.database.labeling_tables import (
    Assignment,
    DemonstrationRow,
    LabelProject,
    LabelTask,
    MetadataLabel,
    RankingItem,
    RankingRow,
    User,
    uuid7,
)
from wuya.errors import DataError
from wuya.feedback import gold
from wuya.feedback.bulk import Label, insert_rows, label_rows
from wuya.feedback.label_schema import complete_labels
from wuya.feedback.queue import IN_HAND, Closed, DraftConflict, assignment_row, candidates_of, regain_slot
from wuya.feedback.rankings import check_ranks, order_agreement
from wuya.feedback.rows import sha256_text

RANKED = ("ranking", "pairwise")
"""Types of tasks whose answer is an order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What one labeler says about one task."""

    ranks: Mapping[str, int] = field(default_factory=dict)
    """Dense rank by candidate id; every candidate is placed, unless `cannot_rank`."""
    labels: Mapping[str, Mapping[str, Label]] = field(default_factory=dict)
    """Answers to the schema's questions by candidate id, or by "" for the prompt; None is "not answered"."""
    completion: str = ""
    """The answer a labeler wrote, for a demonstration."""
    cannot_rank: bool = False
    comment: str = ""
    active_ms: int | None = None
    source: str = "ranking"
    signals: Mapping[str, Any] = field(default_factory=dict)
    """How the work went (keystrokes, pastes, time per answer); told in the guide that it is kept."""
    draft_rev: int | None = None
    """The draft this was made from; None does not ask."""
    key: str = ""
    """Idempotency key: the same key is the same submission, whatever else it says."""


def submit(connection: Connection, assignment_id: str, what: Submission, *, at: datetime) -> str:
    """Write it; the id of the ranking, or of the assignment where there is none. The same again changes nothing."""
    row = assignment_row(connection, assignment_id, lock=True)
    task = connection.execute(select(LabelTask.__table__).where(LabelTask.id == row["task_id"])).mappings().one()
    candidates = [c["id"] for c in candidates_of(connection, row["task_id"])]
    if row["state"] in ("submitted", "accepted"):
        return _same_again(connection, row, what)
    if what.draft_rev is not None and what.draft_rev != row["draft_rev"]:
        raise DraftConflict(row["draft"], row["draft_rev"])
    project = _project(connection, task["project_id"])
    labels = _checked(task, project, candidates, what)
    if row["state"] == "expired":
        regain_slot(connection, row)
    elif row["state"] == "revise":
        _forget(connection, assignment_id)
    elif row["state"] not in IN_HAND:
        raise Closed("this task can't be submitted", found=f"it is {row['state']}", hint="claim another task")
    written = _write(connection, row, task, what, at=at)
    answers = [label_rows(assignment_id, id or None, dict(values)) for id, values in labels.items()]
    insert_rows(connection, MetadataLabel, [row for rows in answers for row in rows])
    signals = {**what.signals, **({"key": what.key} if what.key else {})}
    done = {"state": "submitted", "submitted_at": at, "active_ms": what.active_ms, "lease_until": None}
    connection.execute(update(Assignment).where(Assignment.id == assignment_id).values(**done, signals=signals))
    _count(connection, task, project, at=at)
    if task["is_gold"]:
        gold.score_submission(connection, row, task, project, what.ranks, labels, at=at)
    return written


def _checked(
    task: RowMapping, project: RowMapping, candidates: list[str], what: Submission
) -> Mapping[str, Mapping[str, Label]]:
    """Raise DataError unless the submission fits its task; the labels with NULL for what was not answered."""
    if task["type"] in RANKED:
        check_order(what.ranks, candidates, cannot_rank=what.cannot_rank)
    elif what.ranks:
        raise DataError(f"a {task['type']} task has no ranks", found=f"{len(what.ranks)} ranks")
    if task["type"] == "demonstration" and not what.completion.strip():
        raise DataError("the demonstration is empty", hint="write an answer, or skip the task with a reason")
    schema = project["label_schema"]
    if schema:
        return complete_labels(schema, candidates, what.labels, required=project["require_fields"] or ())
    unknown = sorted(set(what.labels) - {"", *candidates})
    if unknown:
        raise DataError("labels for candidates that are not in the task", found=", ".join(unknown))
    return what.labels


def check_order(ranks: Mapping[str, int], candidates: list[str], *, cannot_rank: bool = False) -> None:
    """Raise DataError unless each candidate is placed and ranks are dense, or it can't be ranked and none is."""
    unknown = sorted(set(ranks) - set(candidates))
    if unknown:
        raise DataError("the ranking places candidates that are not in the task", found=", ".join(unknown))
    if cannot_rank:
        if ranks:
            raise DataError("a task that can't be ranked has no ranks", found=f"{len(ranks)} ranks")
        return
    missing = [str(i + 1) for i, id in enumerate(candidates) if id not in ranks]
    if missing:
        raise DataError(
            "the ranking omits an answer",
            found=f"candidate {', '.join(missing)} of {len(candidates)} not placed",
            hint="place every answer (ties are allowed), or say that it can't be ranked",
        )
    check_ranks([ranks[id] for id in candidates], len(candidates))


def _write(connection: Connection, row: RowMapping, task: RowMapping, what: Submission, *, at: datetime) -> str:
    """The rows of the submission itself."""
    if task["type"] == "demonstration":
        author = connection.execute(select(User.display_name).where(User.id == row["user_id"])).scalar()
        values = {"assignment_id": row["id"], "prompt_id": task["prompt_id"], "author": author or ""}
        connection.execute(
            insert(DemonstrationRow).values(
                **values, completion=what.completion, completion_sha256=sha256_text(what.completion), created_at=at
            )
        )
    if task["type"] not in RANKED:
        return str(row["id"])
    id = uuid7()
    values = {"id": id, "assignment_id": row["id"], "task_id": task["id"], "source": what.source, "created_at": at}
    connection.execute(insert(RankingRow).values(**values, cannot_rank=what.cannot_rank, comment=what.comment))
    items = [{"ranking_id": id, "candidate_id": c, "rank": rank} for c, rank in what.ranks.items()]
    insert_rows(connection, RankingItem, items)
    return id


def _count(connection: Connection, task: RowMapping, project: RowMapping, *, at: datetime) -> None:
    """Counters, and the task's next state: open, complete, or adjudication where people disagree to the end."""
    changed = update(LabelTask).where(LabelTask.id == task["id"])
    connection.execute(changed.values(n_active=LabelTask.n_active - 1, n_submitted=LabelTask.n_submitted + 1))
    columns = select(LabelTask.n_submitted, LabelTask.target, LabelTask.state).where(LabelTask.id == task["id"])
    n_submitted, target, state = connection.execute(columns).one()
    if task["is_gold"] or n_submitted < target or state not in ("open", "complete"):
        return
    settings = project["settings"] or {}
    raise_to, low = int(settings.get("raise_target", 0)), float(settings.get("min_agreement", 0.6))
    agreement = task_agreement(connection, task["id"]) if n_submitted > 1 and raise_to else None
    if agreement is not None and agreement < low and target < raise_to:
        connection.execute(changed.values(target=target + 1, state="open"))
    elif agreement is not None and agreement < low:
        connection.execute(changed.values(state="adjudication", completed_at=at))
    else:
        connection.execute(changed.values(state="complete", completed_at=at))


def task_agreement(connection: Connection, task: str) -> float | None:
    """Mean agreement of every two labelers on the order; None where there are not two orders."""
    query = (
        select(RankingRow.id, RankingItem.candidate_id, RankingItem.rank)
        .join(RankingItem, RankingItem.ranking_id == RankingRow.id)
        .where(RankingRow.task_id == task, RankingRow.is_final.is_(False), RankingRow.state != "rejected")
        .order_by(RankingRow.id, RankingItem.candidate_id)
    )
    orders: dict[str, list[int]] = {}
    for ranking, _, rank in connection.execute(query):
        orders.setdefault(ranking, []).append(rank)
    every = list(orders.values())
    pairs = [order_agreement(a, b) for i, a in enumerate(every) for b in every[i + 1 :]]
    return sum(pairs) / len(pairs) if pairs else None


def _same_again(connection: Connection, row: RowMapping, what: Submission) -> str:
    """What was written before, if this is the same."""
    if what.key and (row["signals"] or {}).get("key") == what.key:
        found = connection.execute(select(RankingRow.id).where(RankingRow.assignment_id == row["id"])).scalar()
        return str(found or row["id"])
    ranking = connection.execute(select(RankingRow.id).where(RankingRow.assignment_id == row["id"])).scalar()
    if ranking is None:
        query = select(DemonstrationRow.completion).where(DemonstrationRow.assignment_id == row["id"])
        same = connection.execute(query).scalar() in (None, what.completion)
    else:
        items = select(RankingItem.candidate_id, RankingItem.rank).where(RankingItem.ranking_id == ranking)
        same = {id: rank for id, rank in connection.execute(items)} == dict(what.ranks)
    if not same:
        raise Closed("this task was submitted before, with another ranking", hint="a submitted ranking stays as it is")
    return str(ranking or row["id"])


def _forget(connection: Connection, assignment_id: str) -> None:
    """Make room for the revised version of a task that was sent back; the old one is in the review's record."""
    connection.execute(delete(RankingRow).where(RankingRow.assignment_id == assignment_id))
    connection.execute(delete(DemonstrationRow).where(DemonstrationRow.assignment_id == assignment_id))
    connection.execute(delete(MetadataLabel).where(MetadataLabel.assignment_id == assignment_id))


def _project(connection: Connection, id: str) -> RowMapping:
    return connection.execute(select(LabelProject.__table__).where(LabelProject.id == id)).mappings().one()
