"""Where labeling stands: each labeler's own figures, the lead's list of tasks, and what looks wrong in them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from statistics import median
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, func, select

from wuya.database.labeling_tables import (
    Assignment,
    LabelTask,
    MetadataLabel,
    PromptRow,
    Qualification,
    RankingItem,
    RankingRow,
    TaskCandidate,
    User,
)
from wuya.feedback.bulk import Project, chunks
from wuya.feedback.gold import PASS_SCORE, standing
from wuya.feedback.rankings import order_agreement

HARM_FLAGS = ("sexual", "violent", "encourages_harm", "denigrates_class", "harmful_advice")
"""A yes to one of these brings a task to the lead's "flagged" list."""
FAST_SHARE = 0.3
"""Work done in less than this share of the project's median time is "fast"."""
DONE = ("submitted", "accepted")
Filter = Literal["all", "disagree", "gold", "fast", "flagged", "skipped", "adjudication"]


@dataclass(slots=True)
class Work:
    """One submission as the lead sees it."""

    assignment_id: str
    labeler: str
    state: str
    ranks: tuple[int, ...]
    """In the order the answers were sampled; empty where nothing was ranked."""
    active_ms: int | None
    submitted_at: datetime | None
    gold_score: float | None = None


@dataclass(slots=True)
class TaskOverview:
    """One task with everybody's work on it."""

    id: str
    type: str
    state: str
    prompt: str
    num_candidates: int
    target: int
    n_submitted: int
    n_skipped: int
    is_gold: bool
    work: list[Work] = field(default_factory=list)
    agreement: float | None = None
    """Mean agreement of every two labelers."""
    flags: list[str] = field(default_factory=list)
    fast: bool = False


def my_figures(connection: Connection, project: Project, user: str, *, at: datetime) -> dict[str, Any]:
    """What a labeler may know of the own work: counts, pace, agreement with others, tests passed."""
    mine = (
        select(Assignment.state, Assignment.active_ms, Assignment.submitted_at, Assignment.draft_rev, LabelTask.is_gold)
        .join(LabelTask, LabelTask.id == Assignment.task_id)
        .where(LabelTask.project_id == project.id, Assignment.user_id == user)
    )
    rows = connection.execute(mine).all()
    done = [row for row in rows if row.state in DONE]
    times = [row.active_ms for row in done if row.active_ms]
    day = at - timedelta(hours=24)
    row = standing(connection, project, user)
    window = list(row["gold_window"]) if row is not None else []
    orders = _orders(connection, project.id)
    return {
        "state": row["state"] if row is not None else "none",
        "quiz_score": row["score"] if row is not None else None,
        "submitted": len(done),
        "last_day": sum(1 for row in done if row.submitted_at and row.submitted_at > day),
        "drafts": sum(1 for row in rows if row.state == "drafting"),
        "skipped": sum(1 for row in rows if row.state == "skipped"),
        "median_ms": median(times) if times else None,
        "agreement": _agreement_of(orders, user),
        "team_agreement": _agreement_of(orders, None),
        "gold_passed": sum(1 for entry in window if entry["score"] >= PASS_SCORE),
        "gold_seen": len(window),
    }


def _agreement_of(orders: Mapping[str, Mapping[str, Sequence[int]]], user: str | None) -> float | None:
    """Mean over tasks with two labelers or more; of one person's pairs, or of everybody's."""
    found = [
        order_agreement(work[a], work[b])
        for work in orders.values()
        for a, b in combinations(sorted(work), 2)
        if user is None or user in (a, b)
    ]
    return sum(found) / len(found) if found else None


def _orders(connection: Connection, project_id: str) -> dict[str, dict[str, list[int]]]:
    """task -> person -> ranks in sampled order, of finished tasks that are no tests: nobody learns of others before."""
    query = (
        select(RankingRow.task_id, Assignment.user_id, RankingItem.rank)
        .join(Assignment, Assignment.id == RankingRow.assignment_id)
        .join(LabelTask, LabelTask.id == RankingRow.task_id)
        .join(RankingItem, RankingItem.ranking_id == RankingRow.id)
        .join(TaskCandidate, TaskCandidate.id == RankingItem.candidate_id)
        .where(LabelTask.project_id == project_id, LabelTask.is_gold.is_(False), LabelTask.n_submitted > 1)
        .where(LabelTask.state != "open", RankingRow.is_final.is_(False), RankingRow.state == "accepted")
        .where(Assignment.user_id.is_not(None))
        .order_by(TaskCandidate.position)
    )
    found: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for task, user, rank in connection.execute(query):
        found[task].setdefault(str(user), []).append(rank)
    return found


def tasks(
    connection: Connection, project: Project, *, show: Filter = "all", after: str = "", limit: int = 50
) -> list[TaskOverview]:
    """The lead's list, newest first; `after` is the last id of the page before."""
    query = (
        select(LabelTask.__table__, PromptRow.messages)
        .join(PromptRow, PromptRow.id == LabelTask.prompt_id)
        .where(LabelTask.project_id == project.id)
        .order_by(LabelTask.id.desc())
    )
    if show == "gold":
        query = query.where(LabelTask.is_gold)
    elif show == "skipped":
        query = query.where(LabelTask.state == "review")
    elif show == "adjudication":
        query = query.where(LabelTask.state == "adjudication")
    elif show != "all":
        query = query.where(LabelTask.n_submitted > 0)
    if show == "disagree":
        query = query.where(LabelTask.n_submitted > 1, LabelTask.is_gold.is_(False))
    if after:
        query = query.where(LabelTask.id < after)
    typical = _median_ms(connection, project.id)
    found: list[TaskOverview] = []
    for chunk in chunks(connection.execute(query).mappings(), max(limit, 100)):
        for task in _overviews(connection, chunk, typical):
            if _shown(task, show):
                found.append(task)
        if len(found) >= limit:
            break
    return found[:limit]


def _shown(task: TaskOverview, show: Filter) -> bool:
    if show == "disagree":
        return task.agreement is not None and task.agreement < 0.6
    if show == "gold":
        return any(work.gold_score is not None and work.gold_score < PASS_SCORE for work in task.work)
    return {"fast": task.fast, "flagged": bool(task.flags)}.get(show, True)


def overview(connection: Connection, task_id: str) -> TaskOverview | None:
    """One task with everybody's work."""
    query = (
        select(LabelTask.__table__, PromptRow.messages)
        .join(PromptRow, PromptRow.id == LabelTask.prompt_id)
        .where(LabelTask.id == task_id)
    )
    rows = connection.execute(query).mappings().all()
    return _overviews(connection, rows, None)[0] if rows else None


def _overviews(connection: Connection, rows: Iterable[RowMapping], typical: float | None) -> list[TaskOverview]:
    found: dict[str, TaskOverview] = {}
    for row in rows:
        last = row["messages"][-1]["content"] if row["messages"] else ""
        columns = {k: row[k] for k in ("id", "type", "state", "target", "n_submitted", "n_skipped", "is_gold")}
        found[row["id"]] = TaskOverview(**columns, prompt=last[:300], num_candidates=0)
    counts = select(TaskCandidate.task_id, func.count()).where(TaskCandidate.task_id.in_(found))
    for id, count in connection.execute(counts.group_by(TaskCandidate.task_id)):
        found[id].num_candidates = count
    scores = _gold_scores(connection) if any(task.is_gold for task in found.values()) else {}
    query = (
        select(Assignment.__table__, User.display_name)
        .outerjoin(User, User.id == Assignment.user_id)
        .where(Assignment.task_id.in_(found), Assignment.state.in_((*DONE, "revise", "rejected", "final")))
        .order_by(Assignment.submitted_at)
    )
    ranks = ranks_of(connection, list(found))
    for row in connection.execute(query).mappings():
        task = found[row["task_id"]]
        own = tuple(ranks.get(row["id"], ()))
        work = Work(row["id"], row["display_name"] or "", row["state"], own, row["active_ms"], row["submitted_at"])
        work.gold_score = scores.get(row["id"])
        task.work.append(work)
        if typical and work.active_ms is not None and work.active_ms < FAST_SHARE * typical:
            task.fast = True
    flagged = (
        select(Assignment.task_id, MetadataLabel.key)
        .join(Assignment, Assignment.id == MetadataLabel.assignment_id)
        .where(Assignment.task_id.in_(found), MetadataLabel.key.in_(HARM_FLAGS), MetadataLabel.value_bool.is_(True))
        .distinct()
    )
    for id, key in connection.execute(flagged):
        found[id].flags.append(key)
    for task in found.values():
        orders = [work.ranks for work in task.work if work.ranks and work.state in DONE]
        pairs = [order_agreement(a, b) for a, b in combinations(orders, 2)]
        task.agreement = sum(pairs) / len(pairs) if pairs else None
    return list(found.values())


def ranks_of(connection: Connection, tasks: Sequence[str]) -> dict[str, list[int]]:
    """Ranks in sampled order by assignment."""
    query = (
        select(RankingRow.assignment_id, RankingItem.rank)
        .join(RankingItem, RankingItem.ranking_id == RankingRow.id)
        .join(TaskCandidate, TaskCandidate.id == RankingItem.candidate_id)
        .where(RankingRow.task_id.in_(tasks))
        .order_by(TaskCandidate.position)
    )
    found: dict[str, list[int]] = defaultdict(list)
    for assignment, rank in connection.execute(query):
        found[assignment].append(rank)
    return found


def _gold_scores(connection: Connection) -> dict[str, float]:
    """Scores of the test tasks in people's windows, by assignment."""
    windows = connection.execute(select(Qualification.gold_window)).scalars()
    return {entry["assignment"]: entry["score"] for window in windows for entry in window or ()}


def _median_ms(connection: Connection, project_id: str) -> float | None:
    query = (
        select(Assignment.active_ms)
        .join(LabelTask, LabelTask.id == Assignment.task_id)
        .where(LabelTask.project_id == project_id, Assignment.active_ms.is_not(None))
    )
    times = [time for time in connection.execute(query).scalars() if time is not None]
    return median(times) if len(times) >= 5 else None
