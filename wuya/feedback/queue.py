"""The labeling queue: claim a task, submit a ranking, skip, let a lease run out (web.md section 6).

A task is open until `target` people have submitted. A claim holds one of its slots for the length of a lease; when the
lease is over the slot is free again, but whoever comes back in time may still submit. All within one transaction each.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, exists, insert, select, update

from wuya.errors import DataError
from wuya.feedback.bulk import Label, Project, insert_rows, label_rows
from wuya.feedback.rankings import check_ranks
from wuya.feedback.rows import messages_from_json
from wuya.feedback.tables import (
    Assignment,
    LabelTask,
    MetadataLabel,
    PromptRow,
    RankingItem,
    RankingRow,
    TaskCandidate,
    now,
    uuid7,
)
from wuya.records import Candidate, Prompt

SKIPS_TO_REVIEW = 3
"""After so many people skipped a task, it leaves the queue for a look by the lead."""


@dataclass(frozen=True, slots=True)
class LabelingTask:
    """What a labeler sees: the prompt and the answers in a shuffled order, without the models that wrote them."""

    assignment_id: str
    task_id: str
    prompt: Prompt
    candidate_ids: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    lease_until: datetime

    def ranks_by_id(self, ranks: Sequence[int]) -> dict[str, int]:
        """Ranks given in the order shown, as `submit_ranking` takes them."""
        check_ranks(ranks, len(self.candidate_ids))
        return dict(zip(self.candidate_ids, ranks, strict=True))


def claim(
    connection: Connection, project: Project, user: str, *, at: datetime, round: int | None = None
) -> LabelingTask | None:
    """The person's task in hand, or the next one of the queue (of one round only, if given); None if there is none."""
    expire(connection, project, at=at)
    wanted = LabelTask.project_id == project.id
    if round is not None:
        wanted &= LabelTask.round == round
    in_hand = connection.execute(
        select(Assignment.id)
        .join(LabelTask, LabelTask.id == Assignment.task_id)
        .where(Assignment.user_id == user, Assignment.state.in_(("assigned", "drafting")))
        .where(wanted)
    ).scalar()
    until = at + timedelta(minutes=project.lease_minutes)
    if in_hand:
        connection.execute(update(Assignment).where(Assignment.id == in_hand).values(lease_until=until))
        return _task(connection, in_hand)
    touched = exists().where(
        Assignment.task_id == LabelTask.id, Assignment.user_id == user, Assignment.state != "expired"
    )
    task = connection.execute(
        select(LabelTask.id)
        .where(wanted, LabelTask.state == "open", ~touched)
        .where(LabelTask.n_active + LabelTask.n_submitted < LabelTask.target)
        .order_by((LabelTask.n_submitted > 0).desc(), LabelTask.priority.desc(), LabelTask.shuffle_key)
        .limit(1)
        .with_for_update(skip_locked=True, of=LabelTask.__table__)
    ).scalar()
    if task is None:
        return None
    return _task(connection, _take_slot(connection, project, task, user, until=until))


def expire(connection: Connection, project: Project, *, at: datetime) -> int:
    """Free the slots of leases that are over; how many. Drafts are kept."""
    late = connection.execute(
        select(Assignment.id, Assignment.task_id)
        .join(LabelTask, LabelTask.id == Assignment.task_id)
        .where(LabelTask.project_id == project.id)
        .where(Assignment.state.in_(("assigned", "drafting")), Assignment.lease_until < at)
    ).all()
    for assignment, task in late:
        _release(connection, assignment, task, state="expired")
    return len(late)


def skip(connection: Connection, assignment_id: str, reason: str) -> None:
    """Give a task back for good."""
    row = _assignment(connection, assignment_id)
    if row["state"] not in ("assigned", "drafting"):
        raise DataError("this task can't be skipped", found=f"it is {row['state']}")
    _release(connection, assignment_id, row["task_id"], state="skipped")
    connection.execute(update(Assignment).where(Assignment.id == assignment_id).values(skip_reason=reason))
    task = update(LabelTask).where(LabelTask.id == row["task_id"])
    connection.execute(task.values(n_skipped=LabelTask.n_skipped + 1))
    connection.execute(task.where(LabelTask.n_skipped >= SKIPS_TO_REVIEW).values(state="review"))


def submit(
    connection: Connection,
    assignment_id: str,
    ranks: Mapping[str, int],
    *,
    labels: Mapping[str, Mapping[str, Label]] | None = None,
    cannot_rank: bool = False,
    comment: str = "",
    active_ms: int | None = None,
    source: str = "ranking",
    at: datetime,
) -> str:
    """Write a ranking; its id. Submitting the same again changes nothing.

    Args:
        ranks: dense rank by candidate id; every candidate is placed, unless `cannot_rank`.
        labels: answers to the schema's questions by candidate id, or by "" for the prompt; None is "not answered".
    """
    row = _assignment(connection, assignment_id)
    candidates = _candidates(connection, row["task_id"])
    _check_submission(ranks, [c["id"] for c in candidates], cannot_rank=cannot_rank)
    unknown = sorted(set(labels or {}) - {"", *(c["id"] for c in candidates)})
    if unknown:
        raise DataError("labels for candidates that are not in the task", found=", ".join(unknown))
    if row["state"] in ("submitted", "accepted"):
        return _same_again(connection, assignment_id, ranks)
    if row["state"] == "expired":
        _regain_slot(connection, row)
    elif row["state"] not in ("assigned", "drafting"):
        raise DataError("this task can't be submitted", found=f"it is {row['state']}", hint="claim another task")
    ranking = uuid7()
    connection.execute(
        insert(RankingRow).values(
            id=ranking,
            assignment_id=assignment_id,
            task_id=row["task_id"],
            cannot_rank=cannot_rank,
            comment=comment,
            source=source,
            created_at=at,
        )
    )
    items = [{"ranking_id": ranking, "candidate_id": id, "rank": rank} for id, rank in ranks.items()]
    insert_rows(connection, RankingItem, items)
    answers = [label_rows(assignment_id, id or None, dict(values)) for id, values in (labels or {}).items()]
    insert_rows(connection, MetadataLabel, [row for rows in answers for row in rows])
    connection.execute(
        update(Assignment)
        .where(Assignment.id == assignment_id)
        .values(state="submitted", submitted_at=at, active_ms=active_ms, lease_until=None)
    )
    task = update(LabelTask).where(LabelTask.id == row["task_id"])
    connection.execute(task.values(n_active=LabelTask.n_active - 1, n_submitted=LabelTask.n_submitted + 1))
    connection.execute(task.where(LabelTask.n_submitted >= LabelTask.target).values(state="complete", completed_at=at))
    return ranking


def check_candidates(prompt: Prompt, candidates: Sequence[Candidate]) -> None:
    """Raise DataError unless there are answers to compare."""
    if len(candidates) < 2:
        raise DataError(
            f"prompt {prompt.id!r} has fewer than two answers to rank",
            found=f"K = {len(candidates)}",
            hint="sample more: `wuya sample --num_samples 4`",
        )


def _check_submission(ranks: Mapping[str, int], candidates: Sequence[str], *, cannot_rank: bool) -> None:
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


def _same_again(connection: Connection, assignment_id: str, ranks: Mapping[str, int]) -> str:
    """The ranking written before, if it says the same."""
    ranking = connection.execute(select(RankingRow.id).where(RankingRow.assignment_id == assignment_id)).scalar_one()
    query = select(RankingItem.candidate_id, RankingItem.rank).where(RankingItem.ranking_id == ranking)
    if {id: rank for id, rank in connection.execute(query)} != dict(ranks):
        raise DataError(
            "this task was submitted before, with another ranking", hint="a submitted ranking stays as it is"
        )
    return str(ranking)


def _regain_slot(connection: Connection, row: RowMapping) -> None:
    """After the lease: still fine if nobody else took the place."""
    slot = _free_slot(connection, row["task_id"])
    if slot is None:
        raise DataError("the lease of this task is over and somebody else has it", hint="claim another task")
    connection.execute(update(Assignment).where(Assignment.id == row["id"]).values(slot=slot))
    connection.execute(update(LabelTask).where(LabelTask.id == row["task_id"]).values(n_active=LabelTask.n_active + 1))


def _take_slot(connection: Connection, project: Project, task: str, user: str, *, until: datetime) -> str:
    """Assign the task to the person; the id of the assignment. The order of the answers is shuffled once and kept."""
    slot = _free_slot(connection, task)
    bumped = connection.execute(
        update(LabelTask)
        .where(LabelTask.id == task, LabelTask.n_active + LabelTask.n_submitted < LabelTask.target)
        .values(n_active=LabelTask.n_active + 1)
    )
    if slot is None or bumped.rowcount != 1:
        raise DataError("somebody else took the task", hint="ask again")
    before = connection.execute(
        select(Assignment.id).where(Assignment.task_id == task, Assignment.user_id == user)
    ).scalar()
    values: dict[str, Any] = {"slot": slot, "state": "assigned", "lease_until": until}
    if before:
        connection.execute(update(Assignment).where(Assignment.id == before).values(**values))
        return str(before)
    id, order = uuid7(), list(range(len(_candidates(connection, task))))
    random.Random(f"{task} {user}").shuffle(order)
    versions = {"schema_version": project.schema_version, "guide_version": project.guide_version}
    connection.execute(
        insert(Assignment).values(id=id, task_id=task, user_id=user, permutation=order, **values, **versions)
    )
    return id


def _free_slot(connection: Connection, task: str) -> int | None:
    target = connection.execute(select(LabelTask.target).where(LabelTask.id == task)).scalar_one()
    query = select(Assignment.slot).where(Assignment.task_id == task, Assignment.slot.is_not(None))
    taken = set(connection.execute(query).scalars())
    return next((slot for slot in range(target) if slot not in taken), None)


def _release(connection: Connection, assignment: str, task: str, *, state: str) -> None:
    values: dict[str, Any] = {"state": state, "slot": None, "lease_until": None}
    connection.execute(update(Assignment).where(Assignment.id == assignment).values(**values))
    connection.execute(update(LabelTask).where(LabelTask.id == task).values(n_active=LabelTask.n_active - 1))


def _assignment(connection: Connection, id: str) -> RowMapping:
    row = connection.execute(select(Assignment.__table__).where(Assignment.id == id)).mappings().first()
    if row is None:
        raise DataError("there is no such assignment", found=id, hint="claim a task first")
    return row


def _candidates(connection: Connection, task: str) -> Sequence[RowMapping]:
    query = select(TaskCandidate.__table__).where(TaskCandidate.task_id == task).order_by(TaskCandidate.position)
    return connection.execute(query).mappings().all()


def _task(connection: Connection, assignment_id: str) -> LabelingTask:
    """What the labeler sees of an assignment."""
    row = _assignment(connection, assignment_id)
    prompt = (
        connection.execute(
            select(PromptRow.__table__)
            .join(LabelTask, LabelTask.prompt_id == PromptRow.id)
            .where(LabelTask.id == row["task_id"])
        )
        .mappings()
        .one()
    )
    candidates = _candidates(connection, row["task_id"])
    shown = [candidates[position] for position in row["permutation"]]
    return LabelingTask(
        assignment_id=assignment_id,
        task_id=row["task_id"],
        prompt=Prompt(prompt["id"], messages_from_json(prompt["messages"]), prompt["source"]),
        candidate_ids=tuple(c["id"] for c in shown),
        candidates=tuple(Candidate(c["text"], finished=c["finished"]) for c in shown),
        lease_until=row["lease_until"] or now(),
    )
