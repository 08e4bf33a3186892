"""Many rows at once: prompts, people, models, tasks and finished rankings, each written once however often they come.

Every function takes an open connection inside a writing transaction; `FeedbackStore` opens it.
"""

import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, func, insert, select, update

from wuya.data.messages import plain_tools
from wuya.database.labeling_tables import (
    Assignment,
    Base,
    LabelProject,
    LabelTask,
    MetadataLabel,
    ModelVersion,
    PromptRow,
    RankingItem,
    RankingRow,
    TaskCandidate,
    User,
    now,
    uuid7,
)
from wuya.errors import DataError
from wuya.feedback.identity import UnnamedVotes, dedupe_key, settled_prompts
from wuya.feedback.rankings import check_ranking
from wuya.feedback.rows import messages_to_json
from wuya.files import sha256_json
from wuya.records import Candidate, Prompt, Ranking

CHUNK = 500
"""Rows a statement: far below SQLite's limit on bound values."""
HUMAN = "human"
"""`Candidate.model` of an answer that a person wrote."""
T = TypeVar("T")
Answers = tuple[Prompt, Sequence[Candidate]]
Label = bool | int | float | str | None


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def insert_rows(connection: Connection, table: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    """Insert all rows, if there are any."""
    if rows:
        connection.execute(insert(table), list(rows))


@dataclass(frozen=True, slots=True)
class Project:
    """What queueing and claiming need to know of a labeling project."""

    id: str
    name: str
    type: str
    overlap: int
    double_rate: float
    lease_minutes: int
    schema_version: int
    guide_version: int


def ensure_project(connection: Connection, name: str, *, type: str = "ranking") -> Project:
    """The project of that name, made with defaults if it is new."""
    wanted = select(LabelProject.__table__).where(LabelProject.name == name)
    row = connection.execute(wanted).mappings().first()
    if row is None:
        connection.execute(insert(LabelProject).values(name=name, type=type))
        row = connection.execute(wanted).mappings().one()
    return Project(**{field: row[field] for field in Project.__dataclass_fields__})


def ensure_prompts(connection: Connection, prompts: Iterable[Prompt], *, split: str = "") -> int:
    """Write prompts that are new; how many. An id stands for one text for ever: see `settled_prompts`."""
    count = 0
    for chunk in chunks(prompts):
        by_id = {prompt.id: prompt for prompt in settled_prompts(connection, chunk)}
        known = set(connection.execute(select(PromptRow.id).where(PromptRow.id.in_(by_id))).scalars())
        rows = [
            {
                "id": prompt.id,
                "messages": messages_to_json(prompt.messages),
                "tools": plain_tools(prompt.tools) or None,
                "dedupe_key": dedupe_key(prompt),
                "source": prompt.source,
                "source_user_hash": prompt.author,
                "split": split or None,
            }
            for prompt in by_id.values()
            if prompt.id not in known
        ]
        insert_rows(connection, PromptRow, rows)
        count += len(rows)
    return count


def ensure_users(connection: Connection, names: Iterable[str], *, simulated: bool = False) -> dict[str, str]:
    """Ids of people by name; new ones are added."""
    wanted = set(names)
    ids = {name: id for id, name in connection.execute(select(User.id, User.display_name)) if name in wanted}
    new = [{"id": uuid7(), "display_name": name, "is_simulated": simulated} for name in sorted(wanted - ids.keys())]
    insert_rows(connection, User, new)
    return ids | {str(row["display_name"]): str(row["id"]) for row in new}


def ensure_models(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Ids of checkpoints by name (folder or alias); new ones are added."""
    wanted = {name for name in names if name and name != HUMAN}
    query = select(ModelVersion.id, ModelVersion.name).where(ModelVersion.name.in_(sorted(wanted)))
    ids = {name: id for id, name in connection.execute(query)} if wanted else {}
    new = [{"id": uuid7(), "name": name, "path": name} for name in sorted(wanted - ids.keys())]
    insert_rows(connection, ModelVersion, new)
    return ids | {row["name"]: row["id"] for row in new}


def task_key(project: Project, round: int, prompt: Prompt, candidates: Sequence[Candidate]) -> str:
    """What makes two tasks the same: project, round, prompt and the answers in their order."""
    return sha256_json([project.name, round, prompt.id, [candidate.text for candidate in candidates]])


def ensure_tasks(
    connection: Connection,
    project: Project,
    answers: Sequence[Answers],
    *,
    round: int,
    target: int,
    priority: int = 0,
    double_rate: float = 0.0,
) -> dict[str, str]:
    """Write tasks that are new; ids of the new ones by their key. The order of the queue is shuffled by the key.

    A share `double_rate` of tasks for one person goes to two, so that agreement can be measured.
    """
    prompts = settled_prompts(connection, [prompt for prompt, _ in answers])
    answers = list(zip(prompts, (group for _, group in answers), strict=True))
    ensure_prompts(connection, prompts)
    models = ensure_models(connection, {c.model for _, group in answers for c in group})
    by_key = {task_key(project, round, prompt, group): (prompt, group) for prompt, group in answers}
    known = existing_tasks(connection, list(by_key))
    new = {key: uuid7() for key in by_key if key not in known}
    tasks, candidates = [], []
    for key, id in new.items():
        prompt, group = by_key[key]
        doubled = target == 1 and random.Random(f"double {key}").random() < double_rate
        tasks.append(
            {
                "id": id,
                "project_id": project.id,
                "prompt_id": prompt.id,
                "type": project.type,
                "round": round,
                "target": 2 if doubled else target,
                "priority": priority,
                "dedupe_key": key,
                "shuffle_key": random.Random(key).random(),
            }
        )
        candidates += [_candidate_row(id, position, c, models) for position, c in enumerate(group)]
    insert_rows(connection, LabelTask, tasks)
    insert_rows(connection, TaskCandidate, candidates)
    return new


def existing_tasks(connection: Connection, keys: Sequence[str]) -> dict[str, str]:
    """Task ids by key, for the keys that have one."""
    found: dict[str, str] = {}
    for chunk in chunks(keys):
        query = select(LabelTask.dedupe_key, LabelTask.id).where(LabelTask.dedupe_key.in_(chunk))
        found |= {key: id for key, id in connection.execute(query)}
    return found


def insert_rankings(
    connection: Connection,
    project: Project,
    rankings: Sequence[Ranking],
    *,
    unnamed: UnnamedVotes | None = None,
    refuse: Callable[[DataError], None] | None = None,
) -> int:
    """Write finished rankings with their prompts, tasks and people; how many were new.

    Args:
        unnamed: of the whole import, where it comes in several calls.
        refuse: called for invalid ranks, and where a labeler ranked the same task differently before; by default it
            raises, else that ranking is left out.
    """
    refuse = refuse or _raise
    prompts = settled_prompts(connection, [ranking.prompt for ranking in rankings])
    rankings = [replace(ranking, prompt=prompt) for ranking, prompt in zip(rankings, prompts, strict=True)]
    rankings = [ranking for ranking in rankings if _is_valid(ranking, refuse)]
    for round in sorted({r.round for r in rankings}):
        ensure_tasks(
            connection, project, [(r.prompt, r.candidates) for r in rankings if r.round == round], round=round, target=1
        )
    keys = [task_key(project, r.round, r.prompt, r.candidates) for r in rankings]
    tasks = existing_tasks(connection, list(dict.fromkeys(keys)))
    votes = list(zip((tasks[key] for key in keys), rankings, strict=True))
    known = _known_ranks(connection, sorted(set(tasks.values())))
    new = _new_votes(votes, known, unnamed or UnnamedVotes(), refuse)
    _write_votes(connection, new)
    return len(new)


def _new_votes(
    votes: Sequence[tuple[str, Ranking]],
    known: dict[str, dict[str, tuple[int, ...]]],
    unnamed: UnnamedVotes,
    refuse: Callable[[DataError], None],
) -> list[tuple[str, Ranking]]:
    """(task, ranking) of votes that are not in the store, each with its labeler's name there."""
    new = []
    for task, ranking in votes:
        there = known.setdefault(task, {})
        name = ranking.labeler or unnamed.labeler(task, ranking.ranks, there)
        if name not in there:
            there[name] = ranking.ranks
            new.append((task, replace(ranking, labeler=name)))
        elif there[name] != ranking.ranks:
            refuse(_other_opinion(ranking, before=there[name]))
    return new


def _write_votes(connection: Connection, votes: Sequence[tuple[str, Ranking]]) -> None:
    users: dict[str, str] = {}
    for simulated in (True, False):
        names = {r.labeler for _, r in votes if (r.source == "simulated") == simulated}
        users |= ensure_users(connection, names, simulated=simulated)
    task_ids = sorted({task for task, _ in votes})
    candidates = _candidate_ids(connection, task_ids)
    slots = _next_slots(connection, task_ids)
    assignments: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for task, ranking in votes:
        assignment, id, at = uuid7(), uuid7(), _moment(ranking.created_at)
        slot = slots[task] = slots.get(task, -1) + 1
        assignments.append(
            {
                "id": assignment,
                "task_id": task,
                "user_id": users[ranking.labeler],
                "slot": slot,
                "state": "submitted",
                "permutation": list(range(len(ranking.ranks))),
                "started_at": at,
                "submitted_at": at,
            }
        )
        rows.append(
            {"id": id, "assignment_id": assignment, "task_id": task, "source": ranking.source, "created_at": at}
        )
        items += [
            {"ranking_id": id, "candidate_id": candidate, "rank": rank}
            for candidate, rank in zip(candidates[task], ranking.ranks, strict=True)
        ]
        labels += label_rows(assignment, None, ranking.flags)
    insert_rows(connection, Assignment, assignments)
    insert_rows(connection, RankingRow, rows)
    insert_rows(connection, RankingItem, items)
    insert_rows(connection, MetadataLabel, labels)
    recount_tasks(connection, task_ids)


def label_rows(assignment: str, candidate: str | None, labels: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of `metadata_labels`; None stays NULL: shown, but not answered."""
    return [
        {
            "assignment_id": assignment,
            "candidate_id": candidate,
            "key": key,
            "value_bool": value if isinstance(value, bool) else None,
            "value_num": value if isinstance(value, int | float) and not isinstance(value, bool) else None,
            "value_text": value if isinstance(value, str) else None,
        }
        for key, value in labels.items()
    ]


def recount_tasks(connection: Connection, task_ids: Sequence[str]) -> None:
    """Set counters and states of tasks that got rankings from outside the queue."""
    for chunk in chunks(task_ids):
        done = (
            select(func.count())
            .where(Assignment.task_id == LabelTask.id, Assignment.state == "submitted")
            .scalar_subquery()
        )
        connection.execute(update(LabelTask).where(LabelTask.id.in_(chunk)).values(n_submitted=done))
        full = LabelTask.n_submitted >= LabelTask.target
        connection.execute(
            update(LabelTask)
            .where(LabelTask.id.in_(chunk), full)
            .values(state="complete", target=LabelTask.n_submitted, completed_at=now())
        )


def _raise(error: DataError) -> None:
    raise error


def _is_valid(ranking: Ranking, refuse: Callable[[DataError], None]) -> bool:
    try:
        check_ranking(ranking, where=f"the ranking of prompt {ranking.prompt.id!r} by {ranking.labeler!r}")
    except DataError as error:
        refuse(error)
        return False
    return True


def _other_opinion(ranking: Ranking, *, before: tuple[int, ...]) -> DataError:
    return DataError(
        f"{ranking.labeler!r} has ranked prompt {ranking.prompt.id!r} before, and differently",
        found=f"{list(before)}, now {list(ranking.ranks)}",
        hint="a later opinion needs another round or project",
    )


def _candidate_row(task: str, position: int, candidate: Candidate, models: dict[str, str]) -> dict[str, Any]:
    if not candidate.is_text:
        raise DataError("an answer has tool calls or reasoning: the labeling database keeps texts")
    return {
        "id": str(uuid.uuid4()),  # labelers see it: one that ascends would tell in which order models answered
        "task_id": task,
        "position": position,
        "text": candidate.text,
        "model_version_id": models.get(candidate.model),
        "is_human": candidate.model == HUMAN,
        "finished": candidate.finished,
        "token_ids": list(candidate.token_ids),
        "sampling": {"temperature": candidate.temperature},
    }


def _candidate_ids(connection: Connection, task_ids: Sequence[str]) -> dict[str, list[str]]:
    """Candidate ids of each task, in position order."""
    found: dict[str, list[str]] = {}
    for chunk in chunks(task_ids):
        query = select(TaskCandidate.task_id, TaskCandidate.id).where(TaskCandidate.task_id.in_(chunk))
        for task, id in connection.execute(query.order_by(TaskCandidate.task_id, TaskCandidate.position)):
            found.setdefault(task, []).append(id)
    return found


def _known_ranks(connection: Connection, task_ids: Sequence[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """task -> labeler's name -> ranks in position order."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for chunk in chunks(task_ids):
        query = (
            select(Assignment.task_id, User.display_name, RankingItem.rank)
            .join(User, User.id == Assignment.user_id)
            .join(RankingRow, RankingRow.assignment_id == Assignment.id)
            .join(RankingItem, RankingItem.ranking_id == RankingRow.id)
            .join(TaskCandidate, TaskCandidate.id == RankingItem.candidate_id)
            .where(Assignment.task_id.in_(chunk))
            .order_by(TaskCandidate.position)
        )
        for task, name, rank in connection.execute(query):
            ranks = found.setdefault(task, {})
            ranks[name] = (*ranks.get(name, ()), rank)
    return found


def _next_slots(connection: Connection, task_ids: Sequence[str]) -> dict[str, int]:
    """The highest slot taken in each task."""
    found: dict[str, int] = {}
    for chunk in chunks(task_ids):
        query = select(Assignment.task_id, func.max(Assignment.slot)).where(Assignment.task_id.in_(chunk))
        found |= {t: slot for t, slot in connection.execute(query.group_by(Assignment.task_id)) if slot is not None}
    return found


def _moment(created_at: str) -> datetime:
    """The record's time, or the present where it has none."""
    try:
        moment = datetime.fromisoformat(created_at)
    except ValueError:
        return now()
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
