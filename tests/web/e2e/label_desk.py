"""What browser tests of labeling share: a project in the database, labelers with cookies, what was stored."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select

from wuya.database.connection import reading as read_transaction
from wuya.database.connection import writing
from wuya.database.labeling_tables import Assignment, LabelTask, MetadataLabel, now
from wuya.feedback import gold, projects, reading
from wuya.feedback.bulk import ensure_users
from wuya.feedback.projects import NewTask
from wuya.feedback.reading import RawRanking, Selection
from wuya.records import Candidate, Message, Prompt
from wuya.web.accounts import store as accounts_store
from wuya.web.accounts.auth import cookie_name
from wuya.web.service import Service

WORDS = "one two three four five six seven eight nine".split()


class Desk:
    """One labeling project on a running service."""

    def __init__(self, service: Service, *, k: int = 4, tasks: int = 1, type: str = "ranking", **settings: Any) -> None:
        self.service = service
        with writing(service.database) as connection:
            values = {"double_rate": 0.0, "gold_rate": 0.0, **settings}
            self.id = projects.create(connection, "rm", type, **values)
        if tasks:
            self.add([f"p{n}" for n in range(tasks)], k=k)

    def add(self, names: list[str], *, k: int = 4, gold: dict[str, Any] | None = None) -> None:
        """Queue prompts whose answers are "Answer one ...", "Answer two ..." in sampled order."""
        with writing(self.service.database) as connection:
            row = projects.project_row(connection, self.id)
            answers = tuple(
                Candidate(f"Answer {word} to the question, in **words**.", model=f"model-{word}") for word in WORDS[:k]
            )
            prompts = [Prompt(name, (Message("user", f"What about {name}?"),), "test") for name in names]
            projects.add_tasks(connection, row, [NewTask((prompt, answers), gold) for prompt in prompts])

    def labeler(self, name: str, *, begin: bool = True, role: str = "labeler") -> dict[str, Any]:
        """The cookie of a labeler."""
        with writing(self.service.database) as connection:
            user = ensure_users(connection, [name])[name]
            accounts_store.change_user(connection, user, role=role)
            token = accounts_store.start_session(connection, user, ip_prefix="", ua="test")
        if begin:
            self.begin(user)
        return {"name": cookie_name(self.service), "value": token}

    def begin(self, user: str) -> None:
        with writing(self.service.database) as connection:
            project = projects.as_project(projects.project_row(connection, self.id))
            gold.begin(connection, project, user, profile={}, at=now())

    def begin_me(self) -> str:
        """For a service with one user; the id."""
        with writing(self.service.database) as connection:
            user = ensure_users(connection, ["me"])["me"]
        self.begin(user)
        return user

    @contextmanager
    def connection(self) -> Iterator[Any]:
        with read_transaction(self.service.database) as connection:
            yield connection

    def rankings(self) -> list[RawRanking]:
        with self.connection() as connection:
            return list(reading.raw_rankings(connection, Selection()))

    def ranks(self) -> dict[str, int]:
        """Rank by word of the only ranking."""
        (raw,) = self.rankings()
        return {c.text.split()[1]: rank for c, rank in zip(raw.ranking.candidates, raw.ranking.ranks, strict=True)}

    def labels(self) -> list[Any]:
        with self.connection() as connection:
            return list(connection.execute(select(MetadataLabel.__table__)).mappings())

    def assignments(self) -> list[Any]:
        with self.connection() as connection:
            return list(connection.execute(select(Assignment.__table__).order_by(Assignment.started_at)).mappings())

    def tasks(self) -> list[Any]:
        with self.connection() as connection:
            return list(connection.execute(select(LabelTask.__table__)).mappings())


def shown_words(page: Any) -> list[str]:
    """The words of the answers in the order shown: A, B, C, ..."""
    texts = page.locator(".answer-text").all_inner_texts()
    return [text.split()[1] for text in texts]


def open_task(page: Any, url: str) -> list[str]:
    """From the home page to the task; the words in the order shown."""
    page.goto(url + "/label")
    page.locator(".project-card .button").click()
    page.wait_for_selector(".answer.current")
    return shown_words(page)


def finished(page: Any) -> None:
    """Wait until the task was handed in: home says that nothing is left."""
    page.wait_for_url("**/label")
    page.wait_for_selector(".project-card")
