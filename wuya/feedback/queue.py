"""The labeling queue: claim a task, save a draft, renew or lose a lease, skip, give back.

A task is open until `target` people have submitted. A claim holds one of its slots for the length of a lease; when the
lease is over the slot is free again, but whoever comes back in time may still submit. All within one transaction each.
What is submitted: `wuya.feedback.submission`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, exists, insert, or_, select, text, update

from wuya.database.labeling_tables import Assignment, LabelTask, PromptRow, TaskCandidate, User, now, uuid7
from wuya.errors import DataError
from wuya.feedback.bulk import Project
from wuya.feedback.rankings import check_ranks
from wuya.feedback.rows import messages_from_json
from wuya.records import Candidate, Prompt

SKIPS_TO_REVIEW = 3
"""After so many people skipped a task, it leaves the queue for a look by the lead."""
DRAFT_HOURS = 24
"""So long after a lease ran out, the same person gets the task back first, with the draft."""
LONGEST_LEASE = timedelta(hours=24)
"""Of any project. A lease that ends later was given before the clock was set back, and is over."""
IN_HAND = ("assigned", "drafting")
"""States of an assignment that somebody works on, and that hold a slot under a lease."""


class NotThere(DataError):
    """There is no such thing, or it is somebody else's."""


class DraftConflict(DataError):
    """Another tab saved a newer draft; `draft` and `draft_rev` are what the store holds."""

    def __init__(self, draft: Mapping[str, Any] | None, draft_rev: int) -> None:
        super().__init__("this task was changed in another tab", found=f"draft {draft_rev}", hint="take one of the two")
        self.draft = draft
        self.draft_rev = draft_rev


class LeaseLost(DataError):
    """The lease ran out and somebody else has the task."""


class Closed(DataError):
    """The assignment is in a state in which this can't be done."""


@dataclass(frozen=True, slots=True)
class LabelingTask:
    """What a labeler sees: the prompt and the answers in a shuffled order, without the models that wrote them."""

    assignment_id: str
    task_id: str
    prompt: Prompt
    candidate_ids: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    lease_until: datetime
    type: str = "ranking"
    state: str = "assigned"
    draft: dict[str, Any] | None = None
    draft_rev: int = 0
    schema_version: int = 1
    guide_version: int = 1
    started_at: datetime | None = None

    def ranks_by_id(self, ranks: Sequence[int]) -> dict[str, int]:
        """Ranks given in the order shown, as `submit_ranking` takes them."""
        check_ranks(ranks, len(self.candidate_ids))
        return dict(zip(self.candidate_ids, ranks, strict=True))


def claim(
    connection: Connection,
    project: Project,
    user: str,
    *,
    at: datetime,
    round: int | None = None,
    gold: bool = False,
    languages: Sequence[str] = (),
    author: str = "",
) -> LabelingTask | None:
    """The person's task in hand, or the next one of the queue; None if there is none.

    Args:
        round: of one round only.
        gold: a test task, where there is none in hand; else only tasks whose answer nobody knows.
        languages: of prompts this person reads; empty is any. A prompt without language fits everybody.
        author: this person's name as an author of prompts: nobody labels their own.
    """
    _lock_person(connection, user)
    expire(connection, project, at=at)
    wanted = LabelTask.project_id == project.id
    if round is not None:
        wanted &= LabelTask.round == round
    in_hand = connection.execute(
        select(Assignment.id)
        .join(LabelTask, LabelTask.id == Assignment.task_id)
        .where(Assignment.user_id == user, Assignment.state.in_(IN_HAND), wanted)
        .order_by(Assignment.started_at)
    ).scalar()
    until = at + timedelta(minutes=project.lease_minutes)
    if in_hand:
        connection.execute(update(Assignment).where(Assignment.id == in_hand).values(lease_until=until))
        return view(connection, in_hand)
    free = (
        select(LabelTask.id)
        .where(wanted, LabelTask.state == "open", LabelTask.n_active + LabelTask.n_submitted < LabelTask.target)
        .where(LabelTask.is_gold == gold)
        .limit(1)
        .with_for_update(skip_locked=True, of=LabelTask.__table__)
    )
    if languages or author:
        free = free.join(PromptRow, PromptRow.id == LabelTask.prompt_id)
    if languages:
        free = free.where(PromptRow.lang.is_(None) | PromptRow.lang.in_(languages))
    if author:
        free = free.where(PromptRow.source_user_hash != author)
    task = _own_draft(connection, free, user, at) or _next(connection, free, user)
    return view(connection, _take_slot(connection, project, task, user, until=until)) if task else None


def _own_draft(connection: Connection, free: Select[Any], user: str, at: datetime) -> str | None:
    """A free task whose lease ran out on this person, who left a draft not long ago."""
    left = connection.execute(
        select(Assignment.task_id)
        .where(Assignment.user_id == user, Assignment.state == "expired", Assignment.draft_rev > 0)
        .where(Assignment.lease_until > at - timedelta(hours=DRAFT_HOURS))
    ).scalars()
    tasks = list(left)
    found: str | None = connection.execute(free.where(LabelTask.id.in_(tasks))).scalar() if tasks else None
    return found


def _next(connection: Connection, free: Select[Any], user: str) -> str | None:
    """The free task that is next: one that lacks a second opinion, then priority, then chance."""
    touched = exists().where(
        Assignment.task_id == LabelTask.id, Assignment.user_id == user, Assignment.state != "expired"
    )
    # Both walk an index and stop at the first row that fits, however long the queue is.
    half_done = free.where(~touched, text("label_tasks.state = 'open' AND label_tasks.n_submitted > 0"))
    fresh = free.where(~touched, LabelTask.n_submitted == 0)
    by_chance = LabelTask.priority.desc(), LabelTask.shuffle_key.desc()
    found: str | None = (
        connection.execute(half_done).scalar() or connection.execute(fresh.order_by(*by_chance)).scalar()
    )
    return found


def late(connection: Connection, *, at: datetime) -> bool:
    """Whether any lease is over whose slot was not freed yet."""
    query = select(Assignment.id).where(Assignment.state.in_(IN_HAND), _is_over(at)).limit(1)
    return connection.execute(query).scalar() is not None


def expire(connection: Connection, project: Project, *, at: datetime) -> int:
    """Free the slots of leases that are over; how many. Drafts are kept."""
    late = connection.execute(
        select(Assignment.id, Assignment.task_id)
        .join(LabelTask, LabelTask.id == Assignment.task_id)
        .where(LabelTask.project_id == project.id)
        .where(Assignment.state.in_(IN_HAND), _is_over(at))
        .order_by(Assignment.task_id)  # one order for all: no two processes wait for each other
        .with_for_update(skip_locked=True, of=Assignment.__table__)
    ).all()
    for assignment, task in late:
        release(connection, assignment, task, state="expired")
    return len(late)


def _is_over(at: datetime) -> ColumnElement[bool]:
    return or_(Assignment.lease_until < at, Assignment.lease_until > at + LONGEST_LEASE)


def save_draft(
    connection: Connection, assignment_id: str, draft: Mapping[str, Any], *, draft_rev: int, at: datetime, minutes: int
) -> int:
    """Keep what was filled in so far and renew the lease; the new revision.

    Raises: DraftConflict unless `draft_rev` is the revision the store holds: another tab was faster.
    """
    row = assignment_row(connection, assignment_id, lock=True)
    if row["state"] not in (*IN_HAND, "expired", "revise"):
        raise Closed("this task takes no more drafts", found=f"it is {row['state']}")
    if row["draft_rev"] != draft_rev:
        raise DraftConflict(row["draft"], row["draft_rev"])
    values: dict[str, Any] = {"draft": dict(draft), "draft_rev": draft_rev + 1}
    if row["state"] in IN_HAND:
        values |= {"state": "drafting", "lease_until": at + timedelta(minutes=minutes)}
    connection.execute(update(Assignment).where(Assignment.id == assignment_id).values(**values))
    return draft_rev + 1


def renew(connection: Connection, assignment_id: str, *, at: datetime, minutes: int) -> datetime:
    """Keep the task for another lease; when it ends. A lease that is over is taken up again if the place is free."""
    row = assignment_row(connection, assignment_id, lock=True)
    if row["state"] == "expired":
        regain_slot(connection, row)
    elif row["state"] not in (*IN_HAND, "revise"):
        raise Closed("this task is not in hand", found=f"it is {row['state']}")
    until = at + timedelta(minutes=minutes)
    state = {"expired": "drafting" if row["draft_rev"] else "assigned"}.get(row["state"], row["state"])
    if state != "revise":
        connection.execute(
            update(Assignment).where(Assignment.id == assignment_id).values(lease_until=until, state=state)
        )
    return until


def give_back(connection: Connection, assignment_id: str) -> None:
    """Free the slot without a reason; the same person may get the task again, with the draft."""
    row = assignment_row(connection, assignment_id, lock=True)
    if row["state"] in IN_HAND:
        release(connection, assignment_id, row["task_id"], state="expired")


def skip(connection: Connection, assignment_id: str, reason: str) -> None:
    """Give a task back for good."""
    row = assignment_row(connection, assignment_id, lock=True)
    if row["state"] not in IN_HAND:
        raise Closed("this task can't be skipped", found=f"it is {row['state']}")
    release(connection, assignment_id, row["task_id"], state="skipped")
    connection.execute(update(Assignment).where(Assignment.id == assignment_id).values(skip_reason=reason))
    task = update(LabelTask).where(LabelTask.id == row["task_id"])
    connection.execute(task.values(n_skipped=LabelTask.n_skipped + 1))
    tired = LabelTask.n_skipped >= SKIPS_TO_REVIEW, LabelTask.state == "open", LabelTask.is_gold.is_(False)
    connection.execute(task.where(*tired).values(state="review"))


def check_candidates(prompt: Prompt, candidates: Sequence[Candidate]) -> None:
    """Raise DataError unless there are answers to compare."""
    if len(candidates) < 2:
        raise DataError(
            f"prompt {prompt.id!r} has fewer than two answers to rank",
            found=f"K = {len(candidates)}",
            hint="sample more: `wuya sample --k 4`",
        )


def regain_slot(connection: Connection, row: RowMapping) -> None:
    """After the lease: still fine if nobody else took the place."""
    slot = _free_slot(connection, row["task_id"])
    if slot is None:
        raise LeaseLost("the lease of this task is over and somebody else has it", hint="claim another task")
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
        raise DataError("somebody else took the task", hint="ask again")  # the row is locked: this is for a bug
    before = connection.execute(
        select(Assignment.id).where(Assignment.task_id == task, Assignment.user_id == user)
    ).scalar()
    values: dict[str, Any] = {"slot": slot, "state": "assigned", "lease_until": until}
    if before:
        connection.execute(update(Assignment).where(Assignment.id == before).values(**values))
        return str(before)
    id, order = uuid7(), list(range(len(candidates_of(connection, task))))
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


def release(connection: Connection, assignment: str, task: str, *, state: str) -> None:
    """Take the assignment's slot away. `lease_until` stays: it says when a draft was left."""
    values: dict[str, Any] = {"state": state, "slot": None}
    connection.execute(update(Assignment).where(Assignment.id == assignment).values(**values))
    connection.execute(update(LabelTask).where(LabelTask.id == task).values(n_active=LabelTask.n_active - 1))


def _lock_person(connection: Connection, user: str) -> None:
    """Two tabs of one person claim one after the other (PostgreSQL; SQLite has one writer anyway)."""
    connection.execute(select(User.id).where(User.id == user).with_for_update())


def assignment_row(connection: Connection, id: str, *, lock: bool = False) -> RowMapping:
    """The assignment's columns; locked against a second tab if it shall be changed."""
    query = select(Assignment.__table__).where(Assignment.id == id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        raise NotThere("there is no such assignment", found=id, hint="claim a task first")
    return row


def candidates_of(connection: Connection, task: str) -> Sequence[RowMapping]:
    """The task's answers in the order they were sampled."""
    query = select(TaskCandidate.__table__).where(TaskCandidate.task_id == task).order_by(TaskCandidate.position)
    return connection.execute(query).mappings().all()


def view(connection: Connection, assignment_id: str) -> LabelingTask:
    """What the labeler sees of an assignment."""
    row = assignment_row(connection, assignment_id)
    task = (
        connection.execute(
            select(PromptRow.__table__, LabelTask.type.label("task_type"))
            .join(LabelTask, LabelTask.prompt_id == PromptRow.id)
            .where(LabelTask.id == row["task_id"])
        )
        .mappings()
        .one()
    )
    candidates = candidates_of(connection, row["task_id"])
    shown = [candidates[position] for position in row["permutation"]]
    return LabelingTask(
        assignment_id=assignment_id,
        task_id=row["task_id"],
        prompt=Prompt(task["id"], messages_from_json(task["messages"]), task["source"]),
        candidate_ids=tuple(c["id"] for c in shown),
        candidates=tuple(Candidate(c["text"], finished=c["finished"]) for c in shown),
        lease_until=row["lease_until"] or now(),
        type=task["task_type"],
        **{key: row[key] for key in ("state", "draft", "draft_rev", "schema_version", "guide_version", "started_at")},
    )
