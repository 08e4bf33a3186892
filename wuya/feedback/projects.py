"""Labeling projects as the lead sets them up: settings, prompts of an import, tasks of any type, test tasks."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from wuya.database.labeling_tables import Assignment, LabelProject, LabelTask, PromptRow, TaskCandidate, uuid7
from wuya.errors import DataError
from wuya.feedback.bulk import Answers, Project, chunks, ensure_prompts, ensure_tasks
from wuya.feedback.identity import settled_prompts
from wuya.feedback.label_schema import check_schema, default_schema
from wuya.feedback.prompt_filter import ImportReport, PersonalData, PromptFilter, text_of
from wuya.feedback.queue import NotThere
from wuya.feedback.reading import prompts as read_prompts
from wuya.feedback.review import make_gold
from wuya.records import Prompt

TYPES = ("ranking", "demonstration", "pairwise", "metadata")
CHANGEABLE = (
    "name",
    "guide_md",
    "label_schema",
    "k_min",
    "k_max",
    "overlap",
    "double_rate",
    "gold_rate",
    "lease_minutes",
    "require_fields",
    "settings",
    "state",
    "lang",
)
DEFAULTS: Mapping[str, Any] = {
    "double_rate": 0.15,
    "gold_rate": 0.08,
    "settings": {"raise_target": 3, "min_agreement": 0.6, "quiz_size": 0, "pass_score": 0.75},
}
"""What a project made on the page starts with."""


SETTINGS: Mapping[str, tuple[float, float]] = {
    "raise_target": (0, 20),
    "min_agreement": (0, 1),
    "quiz_size": (0, 100),
    "pass_score": (0, 1),
    "target_tokens": (0, 100_000),
}
"""What `settings` may hold, and between which numbers (`target_tokens`: two of them)."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def create(connection: Connection, name: str, type: str, **values: Any) -> str:
    """A new project with the paper's questions and these settings; its id."""
    if type not in TYPES:
        raise DataError("there is no such kind of labeling", found=type, hint=", ".join(TYPES))
    if not name.strip():
        raise DataError("a project needs a name")
    if connection.execute(select(LabelProject.id).where(LabelProject.name == name)).scalar():
        raise DataError("there is a project of that name", found=name, hint="choose another name")
    id = uuid7()
    start = {"label_schema": default_schema(type), **DEFAULTS}
    if type == "pairwise":
        start |= {"k_min": 2, "k_max": 2}
    columns = start | _checked(values)
    columns["settings"] = {**DEFAULTS["settings"], **columns["settings"]}
    connection.execute(insert(LabelProject).values(id=id, name=name, type=type, **columns))
    return id


def change(connection: Connection, id: str, **values: Any) -> None:
    """Change settings. A new guide or new questions get a new version; assignments keep the one they were shown."""
    row = project_row(connection, id)
    columns = _checked(values)
    if "settings" in columns:
        columns["settings"] = {**(row["settings"] or {}), **columns["settings"]}
    for text, version in (("guide_md", "guide_version"), ("label_schema", "schema_version")):
        if text in columns and columns[text] != row[text]:
            columns[version] = row[version] + 1
    if columns:
        connection.execute(update(LabelProject).where(LabelProject.id == id).values(**columns))


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(values) - set(CHANGEABLE))
    if unknown:
        raise DataError("a project has no such setting", found=", ".join(unknown))
    if "label_schema" in values:
        check_schema(values["label_schema"])
    for key, value in values.get("settings", {}).items():
        low, high = SETTINGS.get(key, (0, 0))
        numbers = value if isinstance(value, list) else [value]
        if key not in SETTINGS or not all(_is_number(number) and low <= number <= high for number in numbers):
            raise DataError(f"{key!r} is no setting, or not with this value", found=repr(value)[:80])
    for key in ("double_rate", "gold_rate"):
        if not 0 <= values.get(key, 0) <= 1:
            raise DataError(f"{key} is a share", found=repr(values[key]), hint="0 to 1")
    if not 1 <= values.get("lease_minutes", 45) <= 24 * 60 or not 1 <= values.get("overlap", 1) <= 20:
        raise DataError("a lease takes 1 minute to a day, a task 1 to 20 people")
    return dict(values)


def project_row(connection: Connection, id_or_name: str) -> RowMapping:
    """A project's columns. Raises: DataError."""
    wanted = (LabelProject.id == id_or_name) | (LabelProject.name == id_or_name)
    row = connection.execute(select(LabelProject.__table__).where(wanted)).mappings().first()
    if row is None:
        raise NotThere("there is no such project", found=id_or_name)
    return row


def as_project(row: RowMapping) -> Project:
    """What the queue needs to know of it."""
    return Project(**{name: row[name] for name in Project.__dataclass_fields__})


def named(connection: Connection, id_or_name: str) -> Project:
    """A project as the queue needs it. Raises: DataError."""
    return as_project(project_row(connection, id_or_name))


def every_project(connection: Connection) -> list[dict[str, Any]]:
    """All projects with counts of their tasks by state."""
    rows = connection.execute(select(LabelProject.__table__).order_by(LabelProject.created_at)).mappings().all()
    query = (
        select(LabelTask.project_id, LabelTask.state, func.count())
        .where(LabelTask.is_gold.is_(False))
        .group_by(LabelTask.project_id, LabelTask.state)
    )
    counts: dict[str, dict[str, int]] = {row["id"]: {} for row in rows}
    for project, state, count in connection.execute(query):
        counts[project][state] = count
    gold = select(LabelTask.project_id, func.count()).where(LabelTask.is_gold).group_by(LabelTask.project_id)
    golds = {project: count for project, count in connection.execute(gold)}
    return [dict(row) | {"tasks": counts[row["id"]], "gold_tasks": golds.get(row["id"], 0)} for row in rows]


def num_waiting(connection: Connection, project: str, user: str) -> int:
    """Tasks of the queue that this person could still get."""
    touched = select(Assignment.task_id).where(Assignment.user_id == user, Assignment.state != "expired")
    query = (
        select(func.count())
        .select_from(LabelTask)
        .where(LabelTask.project_id == project, LabelTask.state == "open", LabelTask.is_gold.is_(False))
        .where(LabelTask.n_active + LabelTask.n_submitted < LabelTask.target, LabelTask.id.not_in(touched))
    )
    return int(connection.execute(query).scalar_one())


@dataclass(slots=True)
class BulkReport:
    """What became of tasks sent in bulk."""

    added: int = 0
    known: int = 0
    doubled: int = 0
    gold: int = 0
    sizes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class NewTask:
    """A prompt with its answers, and for a test task what the expert said."""

    answers: Answers
    gold: Mapping[str, Any] | None = None


def add_tasks(
    connection: Connection, project: RowMapping, tasks: Iterable[NewTask], *, round: int = 0, priority: int = 0
) -> BulkReport:
    """Queue tasks of the project's type; the same tasks again add nothing."""
    report, small = BulkReport(), as_project(project)
    for raw in chunks(tasks):
        prompts = settled_prompts(connection, [task.answers[0] for task in raw])
        chunk = [replace(task, answers=(prompt, task.answers[1])) for task, prompt in zip(raw, prompts, strict=True)]
        for task in chunk:
            _check_size(project, task.answers)
        answers = [task.answers for task in chunk]
        new = ensure_tasks(
            connection,
            small,
            answers,
            round=round,
            target=small.overlap,
            priority=priority,
            double_rate=small.double_rate,
        )
        report.added += len(new)
        report.known += len(answers) - len(new)
        report.sizes.update(len(candidates) for _, candidates in answers)
        ids = dict(_by_answers(connection, new))
        for task in chunk:
            prompt, candidates = task.answers
            id = ids.get((prompt.id, tuple(c.text for c in candidates)))
            if task.gold is not None and id:
                gold = task.gold
                make_gold(
                    connection, id, gold.get("ranks", []), labels=gold.get("labels", ()), prompt=gold.get("prompt")
                )
                report.gold += 1
        twice = select(func.count()).where(LabelTask.id.in_(new.values()), LabelTask.target == 2)
        report.doubled += int(connection.execute(twice).scalar_one()) if small.overlap == 1 else 0
    return report


def _by_answers(connection: Connection, new: Mapping[str, str]) -> list[tuple[tuple[str, tuple[str, ...]], str]]:
    found: dict[str, tuple[str, list[str]]] = {}
    query = (
        select(LabelTask.id, LabelTask.prompt_id, TaskCandidate.text)
        .outerjoin(TaskCandidate, TaskCandidate.task_id == LabelTask.id)
        .where(LabelTask.id.in_(new.values()))
        .order_by(LabelTask.id, TaskCandidate.position)
    )
    for id, prompt, text in connection.execute(query):
        found.setdefault(id, (prompt, []))[1].extend([text] if text is not None else [])
    return [((prompt, tuple(texts)), id) for id, (prompt, texts) in found.items()]


def _check_size(project: RowMapping, answers: Answers) -> None:
    prompt, candidates = answers
    low, high = {"demonstration": (0, 0), "metadata": (0, 1)}.get(project["type"], (project["k_min"], project["k_max"]))
    if not low <= len(candidates) <= high:
        raise DataError(
            f"prompt {prompt.id!r} does not fit a {project['type']} project",
            found=f"K = {len(candidates)}",
            hint=f"{low} to {high} answers",
        )


def import_prompts(
    connection: Connection,
    prompts: Iterable[Prompt],
    *,
    personal: PersonalData = "redact",
    lang: str = "",
    screen: bool = False,
) -> ImportReport:
    """Add prompts that are new, not too many of one author, without personal data; each in its author's split.

    With `screen` none is used before a lead has approved it.
    """
    per_author: dict[str, int] = {}
    for author, count in connection.execute(
        select(PromptRow.source_user_hash, func.count()).group_by(PromptRow.source_user_hash)
    ):
        per_author[author] = count
    known = (text_of(prompt) for prompt in read_prompts(connection, in_any_state=True))
    sieve = PromptFilter(known, per_author, personal=personal)
    kept: list[tuple[Prompt, str, str]] = [found for prompt in prompts if (found := sieve.admit(prompt))]
    prompts = settled_prompts(connection, [prompt for prompt, _, _ in kept])
    kept = [(prompt, split, state) for prompt, (_, split, state) in zip(prompts, kept, strict=True)]
    for split in sorted({split for _, split, _ in kept}):
        ensure_prompts(connection, [p for p, s, _ in kept if s == split], split=split)
    for state in sorted({state for _, _, state in kept}):
        for chunk in chunks([p.id for p, _, s in kept if s == state]):
            values = {"pii_state": state} | ({"lang": lang} if lang else {}) | ({"state": "new"} if screen else {})
            connection.execute(update(PromptRow).where(PromptRow.id.in_(chunk)).values(**values))
    return sieve.report


def tasks_from_prompts(
    connection: Connection, project: RowMapping, *, split: str = "train", limit: int = 1000, seed: int = 0
) -> Sequence[NewTask]:
    """Approved prompts without a task in the project, for demonstrations or metadata; a random choice."""
    taken = set(connection.execute(select(LabelTask.prompt_id).where(LabelTask.project_id == project["id"])).scalars())
    free = [prompt for prompt in read_prompts(connection, split=split) if prompt.id not in taken]
    random.Random(seed).shuffle(free)
    return [NewTask((prompt, ())) for prompt in free[:limit]]
