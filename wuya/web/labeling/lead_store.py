"""What the lead of a labeling project reads and decides, one transaction each, as the JSON of the API."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, select

from wuya.data.values import BadRowError
from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import Export, LabelProject, Qualification, User, now
from wuya.feedback import funnel, gold, progress, projects, queue, review, screening
from wuya.feedback.agreement_report import agreement_report
from wuya.feedback.bulk import Label
from wuya.feedback.progress import TaskOverview
from wuya.feedback.projects import NewTask
from wuya.feedback.prompt_filter import PersonalData
from wuya.feedback.queue import NotThere
from wuya.feedback.reading import Selection, prompts_by_id, raw_rankings
from wuya.feedback.review import Decision
from wuya.feedback.screening import PromptState
from wuya.feedback.snapshot import Kind, Snapshot
from wuya.feedback.store import FeedbackStore
from wuya.records import Prompt
from wuya.web.labeling.store import Json, shown_messages
from wuya.web.markdown.nodes import render

PAGE = 50


class LeadStore:
    """Everything a lead can see and do."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    # Projects, prompts, tasks

    def projects(self) -> list[Json]:
        """All projects with their settings and counts."""
        with reading(self._database) as connection:
            found = projects.every_project(connection)
        return [row | {"created_at": row["created_at"].isoformat()} for row in found]

    def add_project(self, name: str, type: str, values: Mapping[str, Any]) -> str:
        """A new project; its id."""
        with writing(self._database) as connection:
            return projects.create(connection, name, type, **values)

    def change_project(self, id: str, values: Mapping[str, Any]) -> None:
        """Change a project's settings."""
        with writing(self._database) as connection:
            projects.change(connection, id, **values)

    def import_prompts(self, prompts: Iterable[Prompt], *, personal: PersonalData, lang: str, screen: bool) -> Json:
        """What became of an import."""
        with writing(self._database) as connection:
            return asdict(projects.import_prompts(connection, prompts, personal=personal, lang=lang, screen=screen))

    def prompts(self, state: PromptState, *, after: str) -> Json:
        """A page of prompts in a state."""
        with reading(self._database) as connection:
            rows = screening.prompts_in_state(connection, state, after=after, limit=PAGE)
            waiting = screening.count_waiting(connection)
        return {"items": rows, "next": rows[-1]["id"] if len(rows) == PAGE else None, "waiting": waiting}

    def decide_prompts(self, ids: Sequence[str], state: PromptState) -> int:
        """Approve, reject, or put back; how many changed."""
        with writing(self._database) as connection:
            return screening.decide(connection, ids, state)

    def add_tasks(self, project: str, tasks: Sequence[NewTask], *, round: int, priority: int) -> Json:
        """Queue tasks; what became of them."""
        with writing(self._database) as connection:
            row = projects.project_row(connection, project)
            return asdict(projects.add_tasks(connection, row, tasks, round=round, priority=priority))

    def tasks_from_prompts(self, project: str, *, count: int, split: str) -> Json:
        """Queue approved prompts for demonstrations or metadata."""
        with writing(self._database) as connection:
            row = projects.project_row(connection, project)
            tasks = projects.tasks_from_prompts(connection, row, split=split, limit=count)
            return asdict(projects.add_tasks(connection, row, tasks))

    # Review

    def tasks(self, project: str, *, show: progress.Filter, after: str) -> Json:
        """A page of the project's tasks."""
        with reading(self._database) as connection:
            row = projects.project_row(connection, project)
            small = projects.as_project(row)
            found = progress.tasks(connection, small, show=show, after=after, limit=PAGE)
        return {"items": [task_json(task) for task in found], "next": found[-1].id if len(found) == PAGE else None}

    def task(self, id: str) -> Json:
        """One task: prompt, answers and everybody's work, but not the models."""
        with reading(self._database) as connection:
            task = progress.overview(connection, id)
            if task is None:
                raise NotThere("there is no such task", found=id)
            row = review.task_row(connection, id)
            schema = connection.execute(
                select(LabelProject.label_schema).where(LabelProject.id == row["project_id"])
            ).scalar_one()
            found = task_json(task) | {"schema": schema, "gold": row["gold"], "project": row["project_id"]}
            prompt = prompts_by_id(connection, [row["prompt_id"]])[row["prompt_id"]]
            found["messages"] = shown_messages(prompt.messages)
            found["candidates"] = [
                {"id": c["id"], "text": c["text"], "nodes": render(c["text"]), "finished": c["finished"]}
                for c in queue.candidates_of(connection, id)
            ]
            for work in found["work"]:
                assignment = queue.assignment_row(connection, work["assignment"])
                work |= {"said": review.submission_of(connection, assignment), "signals": assignment["signals"]}
            found["reviews"] = [
                {k: r[k] for k in ("assignment_id", "decision", "note")} | {"at": r["created_at"].isoformat()}
                for r in review.history(connection, id)
            ]
        return found

    def review(self, assignment: str, reviewer: str, decision: Decision, note: str) -> str:
        """The assignment's new state."""
        with writing(self._database) as connection:
            return review.review(connection, assignment, reviewer, decision, note, at=now())

    def adjudicate(
        self,
        task: str,
        reviewer: str,
        ranks: Mapping[str, int],
        labels: Mapping[str, Mapping[str, Label]],
        comment: str,
    ) -> str:
        """The id of the final ranking."""
        with writing(self._database) as connection:
            return review.adjudicate(connection, task, reviewer, ranks, labels=labels, comment=comment, at=now())

    def set_task_state(self, task: str, action: str) -> str:
        """pause, resume or cancel."""
        assert action in ("pause", "resume", "cancel")
        with writing(self._database) as connection:
            return review.set_task_state(connection, task, action)  # type: ignore[arg-type]

    def make_gold(self, task: str, ranks: list[int], labels: list[Any], prompt: Mapping[str, Label]) -> None:
        """Make a test task of it."""
        with writing(self._database) as connection:
            review.make_gold(connection, task, ranks, labels=labels, prompt=prompt)

    # Labelers

    def agreement(self, project: str) -> Json:
        """How far labelers agree, on their own rankings; test tasks and verdicts left out."""
        with reading(self._database) as connection:
            row = projects.project_row(connection, project)
            raw = list(raw_rankings(connection, Selection(project=row["name"], own=True)))
            report = agreement_report(raw, num_samples=300).to_dict() if raw else None
            return {"report": report, "standing": self._standings(connection, row)}

    def _standings(self, connection: Connection, project: RowMapping) -> list[Json]:
        query = (
            select(Qualification.__table__, User.display_name)
            .join(User, User.id == Qualification.user_id)
            .where(Qualification.project_id == project["id"])
            .order_by(User.display_name)
        )
        passing = float((project["settings"] or {}).get("pass_score", gold.PASS_SCORE))
        found = []
        for row in connection.execute(query).mappings():
            window = row["gold_window"] or []
            passed = sum(entry["score"] >= passing for entry in window)
            columns = {"user": row["user_id"], "labeler": row["display_name"], "state": row["state"]}
            columns["topics"] = sorted((row["details"] or {}).get("topics", {}))
            found.append(columns | {"score": row["score"], "gold_passed": passed, "gold_seen": len(window)})
        return found

    def set_standing(self, project: str, user: str, state: str) -> None:
        """Let a labeler go on, stop one, or send one to the quiz again."""
        with writing(self._database) as connection:
            row = projects.project_row(connection, project)
            if connection.execute(select(User.id).where(User.id == user)).scalar() is None:
                raise NotThere("there is no such person", found=user)
            gold.set_standing(connection, projects.as_project(row), user, state)

    # Exports

    def funnel(self) -> Json:
        """From prompts to exports."""
        with reading(self._database) as connection:
            found = funnel.funnel(connection, at=now())
            return found | {"exports": [export_json(row) for row in funnel.exports(connection)]}

    def exports(self) -> list[Json]:
        """Frozen files, newest first."""
        with reading(self._database) as connection:
            return [export_json(row) for row in funnel.exports(connection)]

    def export(self, kind: Kind, folder: Path, selection: Selection) -> Snapshot:
        """Freeze what the store holds now."""
        return FeedbackStore.on(self._database).export_snapshot(kind, folder, selection=selection)

    def export_path(self, id: str) -> tuple[Path, Json]:
        """Where a frozen file lies."""
        with reading(self._database) as connection:
            row = connection.execute(select(Export.__table__).where(Export.id == id)).mappings().first()
            if row is None or not Path(row["path"]).is_file():
                raise NotThere("there is no such export, or its file is gone", found=id)
            return Path(row["path"]), dict(row)

    def diff(self, id: str, other: str) -> Json:
        """How many rows one export has that the other lacks."""
        new, old = (set(self.export_path(one)[0].read_bytes().splitlines()) for one in (id, other))
        return {
            "added": len(new - old),
            "removed": len(old - new),
            "kept": len(new & old),
        }


def task_json(task: TaskOverview) -> Json:
    """A task of the lead's list. Letters are by the order in which answers were sampled."""
    row = {k: getattr(task, k) for k in ("id", "type", "state", "prompt", "target", "n_submitted", "n_skipped")}
    row |= {"k": task.num_candidates, "is_gold": task.is_gold, "agreement": task.agreement, "flags": task.flags}
    row["fast"] = task.fast
    row["work"] = [
        {
            "assignment": work.assignment_id,
            "labeler": work.labeler,
            "state": work.state,
            "ranks": list(work.ranks),
            "active_ms": work.active_ms,
            "submitted_at": work.submitted_at.isoformat() if work.submitted_at else None,
            "gold_score": work.gold_score,
        }
        for work in task.work
    ]
    return row


def export_json(row: Mapping[str, Any]) -> Json:
    """An export as the list shows it."""
    columns = {k: row[k] for k in ("id", "kind", "version", "n_rows", "sha256", "filter")}
    return columns | {"frozen_at": row["frozen_at"].isoformat(), "name": Path(row["path"]).name}


def parse_lines(body: bytes, kind: str) -> list[dict[str, Any] | BadRowError]:
    """Rows of a JSONL, JSON or CSV body; a line that is no JSON is an error in its place, unless no line is."""
    text = body.decode("utf-8-sig")
    if "csv" in kind:
        return [dict(row) for row in csv.DictReader(io.StringIO(text))]
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        lines = [line for line in text.split("\n") if line.strip()]  # U+2028 may stand inside a JSON text
        rows = [_parsed(line) for line in lines]
        if rows and all(isinstance(row, BadRowError) for row in rows):
            raise ValueError(str(rows[0]))
    return [row if isinstance(row, dict | BadRowError) else {"prompt": row} for row in rows]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRowError(f"not JSON: {error}")
