"""A second look by the lead: accept, send back with a note, reject, decide a disputed task, make a test task of it.

The lead's own ranking of a task is *final*: training reads it instead of the labelers' rankings, which stay for the
figures on agreement. Nobody reviews a dispute they took part in.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, insert, select, update

from wuya.database.labeling_tables import (
    Assignment,
    DemonstrationRow,
    LabelProject,
    LabelTask,
    MetadataLabel,
    RankingItem,
    RankingRow,
    Review,
    uuid7,
)
from wuya.errors import DataError
from wuya.feedback.bulk import Label, insert_rows, label_rows
from wuya.feedback.label_schema import complete_labels
from wuya.feedback.queue import Closed, NotThere, assignment_row, candidates_of
from wuya.feedback.reading import labels_of
from wuya.feedback.submission import check_order

Decision = Literal["accept", "revise", "reject"]
GOLD_TARGET = 1_000_000
"""A test task is never complete: everybody may meet it once."""


def review(
    connection: Connection, assignment_id: str, reviewer: str, decision: Decision, note: str = "", *, at: datetime
) -> str:
    """Accept a submission, send it back for another try, or reject it; the assignment's new state."""
    row = assignment_row(connection, assignment_id, lock=True)
    if row["state"] not in ("submitted", "accepted", "revise"):
        raise Closed("only submitted work is reviewed", found=f"it is {row['state']}")
    if decision == "revise" and not note.strip():
        raise DataError("work is sent back with a note", hint="say what should change")
    said = submission_of(connection, row)
    values = {"assignment_id": assignment_id, "reviewer_id": reviewer, "decision": decision, "note": note}
    connection.execute(insert(Review).values(id=uuid7(), **values, submission=said, created_at=at))
    state = {"accept": "accepted", "revise": "revise", "reject": "rejected"}[decision]
    changes: dict[str, Any] = {"state": state}
    if decision == "revise":
        changes |= {"draft": said, "draft_rev": row["draft_rev"] + 1}
    if decision == "reject":
        changes |= {"slot": None}
    connection.execute(update(Assignment).where(Assignment.id == assignment_id).values(**changes))
    kept = "accepted" if decision == "accept" else "rejected"
    for table in (RankingRow, DemonstrationRow):
        connection.execute(update(table).where(table.assignment_id == assignment_id).values(state=kept))
    _recount(connection, row["task_id"], at=at)
    return state


def _recount(connection: Connection, task: str, *, at: datetime) -> None:
    """Counters and state of a task, from its assignments."""
    rows = connection.execute(select(Assignment.state).where(Assignment.task_id == task)).scalars().all()
    submitted = sum(state in ("submitted", "accepted") for state in rows)
    active = sum(state in ("assigned", "drafting", "revise") for state in rows)
    changed = update(LabelTask).where(LabelTask.id == task)
    connection.execute(changed.values(n_submitted=submitted, n_active=active))
    state, target, is_gold = connection.execute(
        select(LabelTask.state, LabelTask.target, LabelTask.is_gold).where(LabelTask.id == task)
    ).one()
    if is_gold or state in ("cancelled", "paused", "review"):
        return
    if submitted < target:
        connection.execute(changed.values(state="open", completed_at=None))
    elif all(state == "accepted" for state in rows if state in ("submitted", "accepted")):
        connection.execute(changed.values(state="accepted", completed_at=at))
    elif state == "open":
        connection.execute(changed.values(state="complete", completed_at=at))


def adjudicate(
    connection: Connection,
    task_id: str,
    reviewer: str,
    ranks: Mapping[str, int],
    *,
    labels: Mapping[str, Mapping[str, Label]] | None = None,
    comment: str = "",
    at: datetime,
) -> str:
    """Decide a task with the reviewer's own ranking; its id. An earlier verdict is replaced."""
    task = task_row(connection, task_id, lock=True)
    own = select(Assignment.__table__).where(Assignment.task_id == task_id, Assignment.user_id == reviewer)
    mine = connection.execute(own).mappings().first()
    if mine is not None and mine["state"] != "final":
        raise Closed("you have worked on this task yourself", hint="somebody else decides it")
    candidates = [c["id"] for c in candidates_of(connection, task_id)]
    check_order(ranks, candidates)
    schema = connection.execute(
        select(LabelProject.label_schema).where(LabelProject.id == task["project_id"])
    ).scalar_one()
    complete = complete_labels(schema, candidates, labels or {}) if schema and labels else {}
    old = update(RankingRow).where(RankingRow.task_id == task_id, RankingRow.is_final)
    connection.execute(old.values(is_final=False, state="rejected"))
    assignment = uuid7()
    if mine is not None:  # the same reviewer decides anew: the old row makes room, its ranking stays as rejected
        connection.execute(update(Assignment).where(Assignment.id == mine["id"]).values(user_id=None))
    connection.execute(
        insert(Assignment).values(
            id=assignment,
            task_id=task_id,
            user_id=reviewer,
            state="final",
            permutation=list(range(len(candidates))),
            started_at=at,
            submitted_at=at,
        )
    )
    id = uuid7()
    values = {"id": id, "assignment_id": assignment, "task_id": task_id, "comment": comment, "created_at": at}
    connection.execute(insert(RankingRow).values(**values, source="adjudication", is_final=True))
    insert_rows(connection, RankingItem, [{"ranking_id": id, "candidate_id": c, "rank": r} for c, r in ranks.items()])
    answers = [label_rows(assignment, key or None, dict(values)) for key, values in complete.items()]
    insert_rows(connection, MetadataLabel, [row for rows in answers for row in rows])
    connection.execute(update(LabelTask).where(LabelTask.id == task_id).values(state="accepted", completed_at=at))
    return id


def set_task_state(connection: Connection, task_id: str, action: Literal["pause", "resume", "cancel"]) -> str:
    """Take a task out of the queue, put it back, or end it; its new state."""
    task = task_row(connection, task_id, lock=True)
    if action == "resume":
        full = not task["is_gold"] and task["n_submitted"] >= task["target"]
        state = "complete" if full else "open"
        values: dict[str, Any] = {"state": state, "n_skipped": 0}
    else:
        state = {"pause": "paused", "cancel": "cancelled"}[action]
        values = {"state": state}
    connection.execute(update(LabelTask).where(LabelTask.id == task_id).values(**values))
    return state


def make_gold(
    connection: Connection,
    task_id: str,
    ranks: Sequence[int],
    *,
    labels: Sequence[Mapping[str, Label]] = (),
    prompt: Mapping[str, Label] | None = None,
) -> None:
    """Make a test task of it, with the expert's answer in the order the answers were sampled."""
    task = task_row(connection, task_id, lock=True)
    candidates = [c["id"] for c in candidates_of(connection, task_id)]
    if task["type"] in ("ranking", "pairwise"):
        if len(ranks) > len(candidates):
            raise DataError("more ranks than answers", found=f"{len(ranks)} for {len(candidates)}")
        check_order(dict(zip(candidates, ranks, strict=False)), candidates)
    gold = {"ranks": list(ranks), "labels": [dict(row) for row in labels], "prompt": dict(prompt or {})}
    connection.execute(
        update(LabelTask)
        .where(LabelTask.id == task_id)
        .values(is_gold=True, gold=gold, target=GOLD_TARGET, state="open", completed_at=None)
    )


def submission_of(connection: Connection, row: RowMapping) -> dict[str, Any]:
    """What an assignment says, as the page's draft holds it: ranks, labels, comment, completion."""
    ranking = (
        connection.execute(select(RankingRow.__table__).where(RankingRow.assignment_id == row["id"])).mappings().first()
    )
    said: dict[str, Any] = {"ranks": {}, "labels": {}, "comment": "", "cannot_rank": False}
    if ranking is not None:
        items = select(RankingItem.candidate_id, RankingItem.rank).where(RankingItem.ranking_id == ranking["id"])
        said["ranks"] = {id: rank for id, rank in connection.execute(items)}
        said |= {"comment": ranking["comment"], "cannot_rank": ranking["cannot_rank"]}
    labels = labels_of(connection, [row["id"]]).get(row["id"], {})
    said["labels"] = {id or "": values for id, values in labels.items()}
    text = select(DemonstrationRow.completion).where(DemonstrationRow.assignment_id == row["id"])
    completion = connection.execute(text).scalar()
    return said | ({"completion": completion} if completion is not None else {})


def task_row(connection: Connection, id: str, *, lock: bool = False) -> RowMapping:
    """A task's columns. Raises: DataError."""
    query = select(LabelTask.__table__).where(LabelTask.id == id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        raise NotThere("there is no such task", found=id)
    return row


def history(connection: Connection, task_id: str) -> list[RowMapping]:
    """Reviews of a task's submissions, oldest first."""
    query = (
        select(Review.__table__)
        .join(Assignment, Assignment.id == Review.assignment_id)
        .where(Assignment.task_id == task_id)
        .order_by(Review.created_at)
    )
    return list(connection.execute(query).mappings())


def last_note(connection: Connection, assignment_id: str) -> str:
    """What the last reviewer wrote."""
    query = select(Review.note).where(Review.assignment_id == assignment_id).order_by(Review.id.desc()).limit(1)
    return str(connection.execute(query).scalar() or "")
