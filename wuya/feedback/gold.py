"""Test tasks: who may label (a quiz), and who may go on (the last 20 test tasks); nobody can tell them from others.

A test ("gold") task holds the answer an expert gave, in the order the answers were sampled:
`{"ranks": [2, 1, 3], "labels": [{...}, ...], "prompt": {...}}`. The quiz at the start is made of them, and later some
are mixed in.

    none -> in_quiz -> passed <-> paused (below 60 % of the last 20, or by the lead)
                    -> failed -> none (by the lead)
"""

import random
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, insert, select, update

from wuya.database.labeling_tables import Assignment, LabelProject, LabelTask, Qualification, now
from wuya.errors import DataError
from wuya.feedback.bulk import Label, Project
from wuya.feedback.queue import LabelingTask, candidates_of, claim
from wuya.feedback.rankings import order_agreement

WINDOW = 20
"""So many of the latest test tasks count."""
MIN_GOLD = 5
"""Nobody is paused before so many test tasks: one mistake is not a verdict."""
PAUSE_BELOW = 0.6
"""Whoever passes a smaller share of the window is paused."""
PASS_SCORE = 0.75
"""Agreement with the expert from which a test task is passed, and the quiz as a whole."""
FIRST_TASKS = 20
"""A labeler's first tasks in a project, of which a larger share are tests."""
FIRST_GOLD_RATE = 0.25


class NotQualified(DataError):
    """This person gets no tasks of the project; `state` says why: none, in_quiz, failed, paused."""

    def __init__(self, state: str) -> None:
        super().__init__("no tasks of this project for you now", found=state)
        self.state = state


def standing(connection: Connection, project: Project, user: str) -> RowMapping | None:
    """The person's qualification for a project, if there is one."""
    mine = select(Qualification.__table__).where(*_mine(project.id, user))
    return connection.execute(mine).mappings().first()


def _mine(project: str, user: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return Qualification.project_id == project, Qualification.user_id == user


def begin(connection: Connection, project: Project, user: str, *, profile: Mapping[str, Any], at: datetime) -> str:
    """The person has read the guide and agreed to it: on to the quiz, or to work where there is none. The new state."""
    row = standing(connection, project, user)
    if row is not None and row["state"] != "none":
        return str(row["state"])
    state = "in_quiz" if quiz_size(connection, project) else "passed"
    values: dict[str, Any] = {
        "state": state,
        "details": dict(profile),
        "gold_window": [],
        "score": None,
        "updated_at": at,
    }
    if row is None:
        connection.execute(insert(Qualification).values(user_id=user, project_id=project.id, **values))
    else:
        connection.execute(update(Qualification).where(*_mine(project.id, user)).values(**values))
    return state


def quiz_size(connection: Connection, project: Project) -> int:
    """How many test tasks the quiz has: as the project says, as far as there are any."""
    settings = connection.execute(select(LabelProject.settings).where(LabelProject.id == project.id)).scalar() or {}
    wanted = int(settings.get("quiz_size", 0))
    if not wanted:
        return 0
    there = select(func.count()).where(LabelTask.project_id == project.id, LabelTask.is_gold, LabelTask.state == "open")
    return min(wanted, int(connection.execute(there).scalar_one()))


def next_task(
    connection: Connection,
    project: Project,
    user: str,
    *,
    at: datetime,
    languages: tuple[str, ...] = (),
    author: str = "",
) -> LabelingTask | None:
    """What `claim` gives, with the quiz first and tests mixed in. Raises: NotQualified."""
    row = standing(connection, project, user)
    state = row["state"] if row is not None else "none"
    if state not in ("passed", "in_quiz"):
        raise NotQualified(state)
    options: dict[str, Any] = {"at": at, "languages": languages, "author": author}
    if state == "in_quiz":
        return claim(connection, project, user, gold=True, **options)
    rate = connection.execute(select(LabelProject.gold_rate).where(LabelProject.id == project.id)).scalar_one()
    if rate and draws_gold(f"{project.id} {user}", _num_done(connection, project, user), rate):
        found = claim(connection, project, user, gold=True, **options)
        if found is not None:
            return found
    return claim(connection, project, user, **options)


def draws_gold(person: str, num_done: int, rate: float) -> bool:
    """Whether a person's next task is a test. Asking again changes nothing; nobody can foresee it."""
    share = max(rate, FIRST_GOLD_RATE) if num_done < FIRST_TASKS else rate
    return random.Random(f"{person} {num_done}").random() < share


def _num_done(connection: Connection, project: Project, user: str) -> int:
    query = (
        select(func.count())
        .select_from(Assignment)
        .join(LabelTask, LabelTask.id == Assignment.task_id)
        .where(LabelTask.project_id == project.id, Assignment.user_id == user)
        .where(Assignment.state.in_(("submitted", "accepted", "skipped")))
    )
    return int(connection.execute(query).scalar_one())


def gold_score(
    gold: Mapping[str, Any],
    candidates: list[str],
    ranks: Mapping[str, int],
    labels: Mapping[str, Mapping[str, Label]],
) -> float:
    """How far a submission agrees with the expert, 0 to 1: the mean over the order and each expected label.

    Pairs the expert ties count half if the labeler orders them. A scale may be one off.
    """
    parts: list[float] = []
    if gold.get("ranks"):
        known = all(c in ranks for c in candidates)
        parts.append(order_agreement(gold["ranks"], [ranks[c] for c in candidates]) if known else 0.0)
    expected = [("", gold.get("prompt") or {}), *zip(candidates, gold.get("labels") or (), strict=False)]
    answers = [
        _fits(labels.get(id, {}).get(key), value) for id, wanted in expected for key, value in (wanted or {}).items()
    ]
    if answers:
        parts.append(sum(answers) / len(answers))
    return sum(parts) / len(parts) if parts else 1.0


def _fits(said: Label, expected: Label) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (said, expected))
    return abs(said - expected) <= 1 if numbers else said == expected  # type: ignore[operator]


def score_submission(
    connection: Connection,
    assignment: RowMapping,
    task: RowMapping,
    project: RowMapping,
    ranks: Mapping[str, int],
    labels: Mapping[str, Mapping[str, Label]],
    *,
    at: datetime,
) -> None:
    """Add the verdict on a test task to the person's window; end the quiz or pause the person if it is time."""
    candidates = [c["id"] for c in candidates_of(connection, task["id"])]
    score = gold_score(task["gold"] or {}, candidates, ranks, labels)
    mine = _mine(task["project_id"], assignment["user_id"])
    row = connection.execute(select(Qualification.__table__).where(*mine).with_for_update()).mappings().first()
    if row is None:  # from the terminal: no page has asked for a quiz
        return
    window = [*row["gold_window"], {"assignment": assignment["id"], "score": round(score, 4)}]
    passing = float((project["settings"] or {}).get("pass_score", PASS_SCORE))
    values: dict[str, Any] = {"updated_at": at}
    if row["state"] == "in_quiz":
        size = int((project["settings"] or {}).get("quiz_size", 0))
        there = select(func.count()).where(
            LabelTask.project_id == task["project_id"], LabelTask.is_gold, LabelTask.state == "open"
        )
        if len(window) >= min(size, int(connection.execute(there).scalar_one())):
            total = sum(entry["score"] for entry in window) / len(window)
            values |= {"state": "passed" if total >= passing else "failed", "score": total}
            window = []
    else:
        window = window[-WINDOW:]
        if row["state"] == "passed" and is_failing(window, passing):
            values |= {"state": "paused"}
    connection.execute(update(Qualification).where(*mine).values(gold_window=window, **values))


def is_failing(window: list[dict[str, Any]], passing: float = PASS_SCORE) -> bool:
    """Whether too few of the latest test tasks were passed."""
    passed = sum(entry["score"] >= passing for entry in window)
    return len(window) >= MIN_GOLD and passed < PAUSE_BELOW * len(window)


def set_standing(connection: Connection, project: Project, user: str, state: str) -> None:
    """What the lead decides: none (the quiz again), passed (go on, with a fresh window), paused."""
    if state not in ("none", "passed", "paused"):
        raise DataError("a lead sets a labeler to none, passed or paused", found=state)
    row = standing(connection, project, user)
    values = {"state": state, "updated_at": now()} | ({} if state == "paused" else {"gold_window": []})
    if row is None:
        connection.execute(insert(Qualification).values(user_id=user, project_id=project.id, **values))
    else:
        connection.execute(update(Qualification).where(*_mine(project.id, user)).values(**values))
