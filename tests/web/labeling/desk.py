"""What tests of labeling do over HTTP: sign in, make a project, claim, rank."""

from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

from wuya.database.connection import writing
from wuya.feedback.bulk import ensure_users
from wuya.web.accounts import store as accounts_store
from wuya.web.accounts.auth import cookie_name
from wuya.web.service import Service

ORIGIN = "http://127.0.0.1:8000"
Enter = Callable[..., TestClient]


def sign_in(service: Service, name: str, role: str) -> tuple[str, str]:
    """Name and value of the cookie of a new member."""
    with writing(service.database) as connection:
        user = ensure_users(connection, [name])[name]
        accounts_store.change_user(connection, user, role=role)
        return cookie_name(service), accounts_store.start_session(connection, user, ip_prefix="", ua="test")


def task(number: int, k: int = 3, **more: Any) -> dict[str, Any]:
    answers = [{"text": f"answer {i} to question {number}", "model": f"secret-model-{i}"} for i in range(k)]
    return {"prompt": f"question {number}", "id": f"p{number}", "candidates": answers, **more}


def make_project(lead: TestClient, *, tasks: int = 3, k: int = 3, type: str = "ranking", **settings: Any) -> str:
    """A project with tasks; its id."""
    settings = {"double_rate": 0.0, "gold_rate": 0.0, **settings}
    answer = lead.post("/api/admin/projects", json={"name": "rm", "type": type, **settings})
    assert answer.status_code == 201, answer.text
    id = answer.json()["id"]
    if tasks:
        body = {"project": id, "tasks": [task(n, k) for n in range(tasks)]}
        answer = lead.post("/api/tasks/bulk", json=body)
        assert answer.status_code == 200 and answer.json()["added"] == tasks, answer.text
    return str(id)


def begin(labeler: TestClient, project: str) -> None:
    assert labeler.post(f"/api/label/projects/{project}/quiz", json={"consent": True}).status_code == 200


def claim(labeler: TestClient, project: str) -> dict[str, Any]:
    answer = labeler.post("/api/label/next", json={"project": project})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def ranks_for(task: dict[str, Any], order: list[int]) -> dict[str, int]:
    """Ranks by the number in the answer's text, so that the shuffled order does not matter."""
    return {c["id"]: order[int(c["text"].split()[1])] for c in task["candidates"]}
