"""What labelers read and write, one transaction each, as the JSON of the API. Rules live in `wuya.feedback`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, select

from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import Assignment, LabelProject, LabelTask, now
from wuya.feedback import gold, progress, projects, queue, review, submission
from wuya.feedback.queue import LabelingTask, NotThere
from wuya.feedback.rows import messages_to_json
from wuya.feedback.submission import Submission
from wuya.records import Message
from wuya.web.markdown.nodes import render

Json = dict[str, Any]


class LabelerStore:
    """Everything one labeler can see and do."""

    def __init__(self, database: Engine, *, on_expired: Callable[[int], None] = lambda count: None) -> None:
        """Args: on_expired: told how many leases were found to be over."""
        self._database = database
        self._on_expired = on_expired

    def home(self, user: str) -> list[Json]:
        """The labeler's projects with what waits in each (also where a lease is over) and the own figures."""
        with reading(self._database) as connection:
            is_late = queue.late(connection, at=now())
        if is_late:
            with writing(self._database) as connection:
                for row in projects.every_project(connection):
                    self._on_expired(queue.expire(connection, projects.named(connection, row["id"]), at=now()))
        with reading(self._database) as connection:
            rows = connection.execute(
                select(LabelProject.__table__).where(LabelProject.state == "open").order_by(LabelProject.created_at)
            )
            return [self._project(connection, row, user) for row in rows.mappings().all()]

    def _project(self, connection: Connection, row: RowMapping, user: str) -> Json:
        project = projects.as_project(row)
        figures = progress.my_figures(connection, project, user, at=now())
        size = gold.quiz_size(connection, project)
        return {
            "id": row["id"],
            "name": row["name"],
            "type": row["type"],
            "guide": render(row["guide_md"]),
            "guide_version": row["guide_version"],
            "lang": row["lang"],
            "waiting": projects.num_waiting(connection, row["id"], user),
            "quiz_size": size,
            "figures": figures,
            "sent_back": _sent_back(connection, row["id"], user),
        }

    def begin(self, user: str, project: str, profile: Mapping[str, Any]) -> str:
        """Guide read and agreed to: on to the quiz, or to work. The labeler's new state."""
        with writing(self._database) as connection:
            row = _open_project(connection, project)
            return gold.begin(connection, projects.as_project(row), user, profile=profile, at=now())

    def next(self, user: str, project: str, *, author: str = "", at: datetime | None = None) -> Json | None:
        """The labeler's task in hand, or the next one; None when nothing is left."""
        with writing(self._database) as connection:
            row = _open_project(connection, project)
            small = projects.as_project(row)
            self._on_expired(queue.expire(connection, small, at=at or now()))
            standing = gold.standing(connection, small, user)
            languages = tuple((standing["details"] or {}).get("languages", ())) if standing else ()
            task = gold.next_task(connection, small, user, at=at or now(), languages=languages, author=author)
            return self._shown(connection, row, task, user) if task else None

    def assignment(self, user: str, id: str) -> Json:
        """One of the labeler's own tasks, with its draft."""
        with reading(self._database) as connection:
            row = _own(connection, user, id)
            return self._shown(connection, _project_of(connection, row), queue.view(connection, id), user)

    def save_draft(self, user: str, id: str, draft: Mapping[str, Any], draft_rev: int) -> Json:
        """Keep a draft; its revision and the lease. Raises: DraftConflict."""
        with writing(self._database) as connection:
            project = _project_of(connection, _own(connection, user, id))
            at, minutes = now(), project["lease_minutes"]
            revision = queue.save_draft(connection, id, draft, draft_rev=draft_rev, at=at, minutes=minutes)
            return {"draft_rev": revision, "saved_at": at.isoformat()} | _lease(connection, id)

    def heartbeat(self, user: str, id: str) -> Json:
        """Renew the lease. Raises: LeaseLost, Closed."""
        with writing(self._database) as connection:
            project = _project_of(connection, _own(connection, user, id))
            until = queue.renew(connection, id, at=now(), minutes=project["lease_minutes"])
            return {"lease_until": until.isoformat()}

    def skip(self, user: str, id: str, reason: str) -> None:
        """Give a task back for good."""
        with writing(self._database) as connection:
            _own(connection, user, id)
            queue.skip(connection, id, reason)

    def give_back(self, user: str, id: str) -> None:
        """Give a task back for now; the draft is kept."""
        with writing(self._database) as connection:
            _own(connection, user, id)
            queue.give_back(connection, id)

    def submit(self, user: str, id: str, what: Submission, *, schema_version: int | None = None) -> Json:
        """Hand in; `standing` says whether the labeler may go on."""
        with writing(self._database) as connection:
            row = _own(connection, user, id)
            project = _project_of(connection, row)
            if schema_version is not None and schema_version != project["schema_version"]:
                raise queue.Closed("the questions of this project have changed", hint="reload the page")
            written = submission.submit(connection, id, what, at=now())
            standing = gold.standing(connection, projects.as_project(project), user)
            state = standing["state"] if standing else "none"
            score = standing["score"] if standing else None
            return {"id": written, "project": project["name"], "standing": state, "quiz_score": score}

    def personal_export(self, user: str) -> list[Json]:
        """Everything the labeler submitted, in their own words."""
        with reading(self._database) as connection:
            query = (
                select(Assignment.__table__, LabelTask.type.label("task_type"))
                .join(LabelTask, LabelTask.id == Assignment.task_id)
                .where(Assignment.user_id == user, Assignment.state.in_(("submitted", "accepted")))
                .order_by(Assignment.submitted_at)
            )
            rows = connection.execute(query).mappings().all()
            return [self._said(connection, row) for row in rows]

    def _said(self, connection: Connection, row: RowMapping) -> Json:
        task = queue.view(connection, row["id"])
        said = review.submission_of(connection, row)
        places = {id: index for index, id in enumerate(task.candidate_ids)}
        return {
            "type": row["task_type"],
            "prompt": messages_to_json(task.prompt.messages),
            "answers": [c.text for c in task.candidates],
            "ranks": [said["ranks"].get(id) for id in task.candidate_ids],
            "labels": {(str(places[id] + 1) if id else "prompt"): values for id, values in said["labels"].items()},
            "completion": said.get("completion"),
            "comment": said["comment"],
            "submitted_at": row["submitted_at"].isoformat() if row["submitted_at"] else None,
            "active_ms": row["active_ms"],
        }

    def _shown(self, connection: Connection, project: RowMapping, task: LabelingTask, user: str) -> Json:
        """A task as the page gets it: no model, no other labeler, no sign of a test."""
        small = projects.as_project(project)
        standing = gold.standing(connection, small, user)
        in_quiz = standing is not None and standing["state"] == "in_quiz"
        note = review.last_note(connection, task.assignment_id) if task.state == "revise" else ""
        size = gold.quiz_size(connection, small)
        quiz = {"number": len(standing["gold_window"]) + 1, "of": size} if standing and in_quiz else None
        return {
            "id": task.assignment_id,
            "short": task.task_id[-4:],
            "type": task.type,
            "state": task.state,
            "project": {
                "id": project["id"],
                "name": project["name"],
                "guide": render(project["guide_md"]),
                "schema": project["label_schema"],
                "schema_version": project["schema_version"],
                "require": project["require_fields"] or [],
                "settings": {k: v for k, v in (project["settings"] or {}).items() if k in SHOWN_SETTINGS},
            },
            "messages": shown_messages(task.prompt.messages),
            "candidates": [
                {"id": id, "text": c.text, "nodes": render(c.text), "finished": c.finished}
                for id, c in zip(task.candidate_ids, task.candidates, strict=True)
            ],
            "draft": task.draft,
            "draft_rev": task.draft_rev,
            "lease_until": task.lease_until.isoformat(),
            "lease_minutes": project["lease_minutes"],
            "note": note,
            "quiz": quiz,
        }


SHOWN_SETTINGS = ("target_tokens", "single_keys", "min_seconds")
"""Settings of a project that its labelers' pages need."""


def shown_messages(messages: Sequence[Message]) -> list[Json]:
    """A prompt's turns with their Markdown as nodes."""
    return [{"role": m.role, "content": m.content, "nodes": render(m.content)} for m in messages]


def _own(connection: Connection, user: str, id: str) -> RowMapping:
    """The labeler's own assignment; anybody else's is not there."""
    mine = Assignment.id == id, Assignment.user_id == user
    row = connection.execute(select(Assignment.__table__).where(*mine)).mappings().first()
    if row is None:
        raise NotThere("there is no such task of yours", found=id)
    return row


def _project_of(connection: Connection, assignment: RowMapping) -> RowMapping:
    query = (
        select(LabelProject.__table__)
        .join(LabelTask, LabelTask.project_id == LabelProject.id)
        .where(LabelTask.id == assignment["task_id"])
    )
    return connection.execute(query).mappings().one()


def _open_project(connection: Connection, id: str) -> RowMapping:
    row = projects.project_row(connection, id)
    if row["state"] != "open":
        raise NotThere("this project takes no work now", found=row["state"])
    return row


def _lease(connection: Connection, id: str) -> Json:
    until = connection.execute(select(Assignment.lease_until).where(Assignment.id == id)).scalar()
    return {"lease_until": until.isoformat() if until else None}


def _sent_back(connection: Connection, project: str, user: str) -> list[Json]:
    """Tasks a reviewer wants to see again, with the note."""
    query = (
        select(Assignment.id)
        .join(LabelTask, LabelTask.id == Assignment.task_id)
        .where(LabelTask.project_id == project, Assignment.user_id == user, Assignment.state == "revise")
        .order_by(Assignment.id)
    )
    ids = connection.execute(query).scalars().all()
    return [{"id": id, "note": review.last_note(connection, id)} for id in ids]
