"""What belongs to one person answers 404 to every other one, in every role: all routes with an id of somebody's thing.

A new route whose path names a thing of a person's must be tried here, or be listed as open to a whole role.
"""

from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.web.chat.conftest import Chat, ok
from tests.web.labeling.desk import begin, claim, make_project, sign_in
from wuya.web.accounts.auth import ROLES, permissions_of
from wuya.web.routing import permission_of, routes_of
from wuya.web.service import Service

PERSONAL = {"account", "chat", "keys", "label"}
"""Permissions whose routes are about a person's own things; the others are about everybody's."""
OPEN = {
    "/chat/{id}", "/label/tasks/{id}",  # the same empty page for everybody; its script asks the routes below
    "/api/label/projects/{id}/quiz", "/api/shares/{id}/fork",  # a project is its labelers', a share its readers'
}  # fmt: skip
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("PATCH", "/api/conversations/{id}"): {"title": "x"},
    ("POST", "/api/conversations/{id}/messages"): {"content": "x"},
    ("POST", "/api/messages/{id}/edit"): {"content": "x"},
    ("PUT", "/api/messages/{id}/feedback"): {"value": 1},
    ("PATCH", "/api/keys/{key_id}"): {"name": "x", "scopes": ["chat"]},
    ("PATCH", "/api/assignments/{id}"): {"draft": {}, "draft_rev": 0},
    ("POST", "/api/assignments/{id}/skip"): {"reason": "unclear"},
}
WITHOUT = ("/continue", "/select", "/stop", "/rotate", "/heartbeat", "/release")
"""Ends of paths that take no body."""


class Person:
    """Somebody signed in; all share one client, for an answer is written on its event loop."""

    def __init__(self, client: TestClient, service: Service, name: str, role: str) -> None:
        self.client, self.cookie = client, "=".join(sign_in(service, name, role))

    def request(self, method: str, path: str, json: Any = None) -> Any:
        return self.client.request(method, path, json=json, headers={"cookie": self.cookie})

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, json: Any = None) -> Any:
        return self.request("POST", path, json)


@dataclass(frozen=True)
class Request:
    method: str
    route: str
    permission: str
    path: str

    def send(self, person: Person) -> int:
        body = BODIES.get((self.method, self.route), {})
        sent = None if self.method in ("GET", "DELETE") or self.route.endswith(WITHOUT) else body
        return int(person.request(self.method, self.path, sent).status_code)


@pytest.fixture
def accounts() -> bool:
    return True


def ids_of(ann: Any, lead: Any) -> dict[str, str]:
    """A thing of Ann's for the beginning of each path."""
    project = make_project(lead, tasks=1)
    begin(ann, project)
    chat = Chat(ann, ok(ann.post("/api/conversations", json={}), 201)["id"])
    answer = chat.say("hello", None, {})
    return {
        "/api/conversations/": chat.id,
        "/api/messages/": answer["messages"][0]["id"],
        "/api/generations/": answer["generations"][0]["id"],
        "/api/shares/": ok(ann.post(f"/api/conversations/{chat.id}/share", json={}), 201)["id"],
        "/api/me/sessions/": ok(ann.get("/api/me/sessions"))["items"][0]["id"],
        "/api/keys/": ok(ann.post("/api/keys", json={"name": "k", "scopes": ["chat"]}), 201)["key"]["id"],
        "/api/assignments/": claim(ann, project)["id"],
    }


def requests_of(app: FastAPI, ids: dict[str, str]) -> list[Request]:
    """Every route of a personal permission with an id in its path, asked with Ann's."""
    found = []
    for route in routes_of(app):
        permission = permission_of(route.route)
        if permission not in PERSONAL or "{" not in route.path or route.path in OPEN:
            continue
        start = route.path.partition("{")[0]
        assert start in ids, f"{route.path}: say here whose thing this is"
        path = route.path.replace(route.path[len(start) :].split("/")[0], ids[start])
        found += [Request(m, route.path, permission, path) for m in sorted(route.methods - {"HEAD", "OPTIONS"})]
    return sorted(found, key=lambda one: (one.method == "DELETE", one.path))


def test_every_route_role_and_owner(app: FastAPI, client: TestClient, service: Service) -> None:
    ann = Person(client, service, "ann", "labeler")
    requests = requests_of(app, ids_of(ann, Person(client, service, "lea", "lead")))
    assert len(requests) > 25
    wrong = []
    for role in ROLES:
        other = Person(client, service, f"another {role}", role)
        for one in requests:
            if one.permission not in permissions_of(role) or (role == "admin" and one.route.startswith("/api/keys/")):
                continue  # test_security.py has the roles; admins may stop everybody's keys
            status = one.send(other)
            if status != 404:
                wrong.append((role, one.method, one.route, status))
    assert wrong == []
    refused = [(one.method, one.route) for one in requests if one.method != "DELETE" and one.send(ann) in (403, 404)]
    assert refused == [], "their owner is let in, so it was not the path that was wrong"
