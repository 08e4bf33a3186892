"""A labeling project in an open transaction: what tests of labeling queue, claim and rank."""

from typing import Any

from sqlalchemy import Connection, select

from wuya.database.labeling_tables import LabelTask, now
from wuya.feedback import gold, projects, submission
from wuya.feedback.bulk import Project, ensure_users
from wuya.feedback.projects import NewTask
from wuya.feedback.queue import LabelingTask
from wuya.feedback.submission import Submission
from wuya.records import Candidate, Message, Prompt


def prompt(name: str = "p1", author: str = "") -> Prompt:
    return Prompt(name, (Message("user", f"question {name}"),), "test", author)


def answers(k: int = 3) -> tuple[Candidate, ...]:
    return tuple(Candidate(f"answer {i}", model=f"model {i}") for i in range(k))


class Desk:
    """A project in an open transaction, with labelers by name."""

    def __init__(self, connection: Connection, type: str = "ranking", **values: Any) -> None:
        self.connection = connection
        values = {"double_rate": 0.0, "gold_rate": 0.0, **values}
        self.id = projects.create(connection, "rm", type, **values)
        self.row = projects.project_row(connection, self.id)
        self.project: Project = projects.as_project(self.row)

    def queue(self, *names: str, k: int = 3, gold: dict[str, Any] | None = None) -> None:
        tasks = [NewTask((prompt(name), answers(k) if k else ()), gold) for name in names]
        projects.add_tasks(self.connection, self.row, tasks)

    def user(self, name: str) -> str:
        return ensure_users(self.connection, [name])[name]

    def claim(self, name: str, **options: Any) -> LabelingTask:
        found = self.find(name, **options)
        assert found is not None
        return found

    def find(self, name: str, **options: Any) -> LabelingTask | None:
        """The labeler's next task, if one is left."""
        user = self.user(name)
        gold.begin(self.connection, self.project, user, profile={}, at=now())
        return gold.next_task(self.connection, self.project, user, **({"at": now()} | options))

    def nothing_for(self, name: str) -> bool:
        return self.find(name) is None

    def rank(self, name: str, ranks: dict[str, int], **fields: Any) -> LabelingTask:
        """Claim and rank by the text of the answers."""
        task = self.claim(name)
        by_id = {id: ranks[c.text[-1]] for id, c in zip(task.candidate_ids, task.candidates, strict=True)}
        submission.submit(self.connection, task.assignment_id, Submission(ranks=by_id, **fields), at=now())
        return task

    def task(self) -> Any:
        return self.connection.execute(select(LabelTask.__table__)).mappings().first()

    def standing(self, name: str) -> str:
        row = gold.standing(self.connection, self.project, self.user(name))
        return "none" if row is None else str(row["state"])


GOOD = {"0": 1, "1": 2, "2": 3}
BAD = {"0": 3, "1": 2, "2": 1}
