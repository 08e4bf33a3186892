"""Every route of the application x everyone who may ask x whose thing it is x the credential they bring.

The routes come from the application, what is right comes from `tests/web/access.py`: a new route fails here until
somebody says who may use it. One application and one database serve the whole matrix.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, update
from starlette.testclient import TestClient

from tests.web import access
from tests.web.chat.conftest import Chat, ok
from tests.web.labeling.desk import begin, claim, make_project, sign_in
from wuya.database.connection import writing
from wuya.database.labeling_tables import User, now
from wuya.database.service_tables import ApiKey, Session, Share
from wuya.web.accounts import store
from wuya.web.accounts.auth import PERMISSIONS, cookie_name
from wuya.web.api.key_text import new_key
from wuya.web.api.manage import SCOPES
from wuya.web.routing import routes_of
from wuya.web.service import Service

BODIES: dict[str, dict[str, Any]] = {
    "PATCH /api/conversations/{id}": {"title": "x"},
    "POST /api/conversations/{id}/messages": {"content": "x"},
    "POST /api/messages/{id}/edit": {"content": "x"},
    "PUT /api/messages/{id}/feedback": {"value": 1},
    "PATCH /api/keys/{key_id}": {"name": "x", "scopes": ["chat"]},
    "PATCH /api/assignments/{id}": {"draft": {}, "draft_rev": 0},
    "POST /api/assignments/{id}/skip": {"reason": "unclear"},
    "POST /api/runs/{id}/metrics": {"rows": []},
    "POST /api/runs/{id}/samples": {"rows": []},
    "POST /api/runs/{id}/events": {"text": "x"},
}
WITHOUT_BODY = ("/continue", "/select", "/stop", "/rotate", "/release", "/begin", "/backup", "/rollback", "/open")
LAST = ("POST /api/auth/logout", "DELETE /api/me")
"""They end whoever asks, so they are asked last."""


@pytest.fixture
def accounts() -> bool:
    return True


@dataclass
class Person:
    """Somebody signed in; all share one client, for an answer is written on its event loop."""

    client: TestClient
    headers: dict[str, str]
    role: str = ""
    """Empty: nobody whom the service knows (any more)."""
    scopes: tuple[str, ...] = ()
    """Of the API key, if that is what they bring."""
    name: str = ""
    things: dict[str, str] = field(default_factory=dict)
    """What they own: the beginning of a path -> id."""

    def request(self, method: str, path: str, json: Any = None, **headers: str) -> Any:
        return self.client.request(method, path, json=json, headers=self.headers | headers)

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, json: Any = None) -> Any:
        return self.request("POST", path, json)


class World:
    """The application with people of every kind."""

    def __init__(self, client: TestClient, service: Service) -> None:
        self.client, self.service = client, service
        self.numbers: dict[str, int] = {}

    def person(self, name: str, role: str) -> Person:
        return Person(self.client, {"cookie": "=".join(sign_in(self.service, name, role))}, role, name=name)

    def key(self, owner: Person, *scopes: str, **columns: Any) -> dict[str, str]:
        """The header of a new API key."""
        secret, prefix = new_key()
        me = ok(owner.get("/api/me"))["id"]
        row = {"user_id": me, "prefix": prefix, "scopes": list(scopes), "secret_sha256": store.sha256(secret)}
        with writing(self.service.database) as connection:
            connection.execute(insert(ApiKey).values(id=f"key {len(self.numbers)}-{secret[3:11]}", **row | columns))
        return {"authorization": f"Bearer {secret}"}

    def owner(self, name: str, lead: Person) -> Person:
        """Somebody with one thing of every kind."""
        found = self.person(name, "lead")
        project = make_project(lead, tasks=1, name=f"for {name}")
        begin(found, project)
        chat = Chat(found, ok(found.post("/api/conversations", {}), 201)["id"])
        answer = chat.say(f"hello of {name}", None, {})
        found.things = {
            "/api/conversations/": chat.id,
            "/api/messages/": answer["messages"][0]["id"],
            "/api/generations/": answer["generations"][0]["id"],
            "/api/shares/": ok(found.post(f"/api/conversations/{chat.id}/share", {"visibility": "link"}), 201)["id"],
            "/api/me/sessions/": ok(found.get("/api/me/sessions"))["items"][0]["id"],
            "/api/keys/": ok(found.post("/api/keys", {"name": "k", "scopes": ["chat"]}), 201)["key"]["id"],
            "/api/assignments/": claim(found, project)["id"],
            "/api/runs/": ok(found.post("/api/runs", {"name": f"run of {name}"}), 201)["id"],
        }
        return found

    def statuses(self, asked: Sequence[tuple[str, Person]]) -> list[int]:
        """Of thousands of requests about things that nobody has: without the test client's thread, thrice as fast."""

        async def send() -> list[int]:
            transport = httpx.ASGITransport(self.client.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=str(self.client.base_url)) as client:
                found = []
                for route, who in asked:
                    method, path, body = request_of(route, {})
                    client.cookies.clear()
                    answer = await client.request(method, path, json=body, headers=who.headers)
                    found.append(answer.status_code)
                return found

        assert self.client.portal is not None
        return self.client.portal.call(send)

    def change(self, person: Person, **columns: Any) -> None:
        with writing(self.service.database) as connection:
            connection.execute(update(User).where(User.display_name == person.name).values(**columns))


@pytest.fixture
def world(client: TestClient, service: Service) -> World:
    return World(client, service)


def strangers(world: World) -> Iterator[Person]:
    """Nobody at all, every dead credential, and every way to carry a good key that is no way."""
    ann, name = world.person("a lively admin", "admin"), cookie_name(world.service)
    every, at = tuple(SCOPES), now()
    yield Person(world.client, {}, name="nobody")
    sessions = {
        "a session that was ended": {"revoked_at": at},
        "a session of ninety days ago": {"expires_at": at - timedelta(seconds=1)},
        "a session idle for two weeks": {"last_used_at": at - store.IDLE - timedelta(seconds=1)},
    }
    for what, columns in sessions.items():
        dead = world.person(what, "admin")
        id = ok(dead.get("/api/me/sessions"))["items"][0]["id"]
        with writing(world.service.database) as connection:
            connection.execute(update(Session).where(Session.id == id).values(**columns))
        yield Person(world.client, dead.headers, name=what)
    for status in ("suspended", "deleted", "invited"):
        gone = world.person(f"somebody {status}", "admin")
        key = world.key(gone, *every)
        world.change(gone, status=status)
        yield Person(world.client, gone.headers, name=f"session of {gone.name}")
        yield Person(world.client, key, name=f"key of {gone.name}")
    yield Person(world.client, world.key(ann, *every, expires_at=at - timedelta(seconds=1)), name="an expired key")
    yield Person(world.client, world.key(ann, *every, revoked_at=at), name="a revoked key")
    good = world.key(ann, *every)["authorization"].removeprefix("Bearer ")
    for what, headers in {
        "a made-up key": {"authorization": f"Bearer {new_key()[0]}"},
        "a key cut short": {"authorization": f"Bearer {good[:-1]}"},
        "a key as a cookie": {"cookie": f"{name}={good}"},
        "a key in another header": {"x-api-key": good, "api-key": good},
        "a key as a password": {"authorization": f"Basic {good}"},
        "a cookie as a key": {"authorization": f"Bearer {ann.headers['cookie'].partition('=')[2]}"},
        "the name of a user in a header": {"x-forwarded-user": ann.name, "remote-user": ann.name},
    }.items():
        yield Person(world.client, headers, name=what)


def members(world: World) -> Iterator[Person]:
    """Every role with a session; an admin's key of each scope, and of all."""
    for role in access.EVERYONE:
        yield world.person(f"another {role}", role)
    ann = world.person("the admin of the keys", "admin")
    for scopes in [*((scope,) for scope in SCOPES), tuple(SCOPES)]:
        yield Person(world.client, world.key(ann, *scopes), "admin", scopes, name=f"key for {', '.join(scopes)}")


def permission_for(route: str, table: dict[str, frozenset[str]]) -> str | None:
    return next((name for name, routes in table.items() if route in routes), None)


def expected(route: str, who: Person) -> set[int] | str:
    """The statuses that are right, "in" where anything but a refusal is, "404" where the thing is somebody else's."""
    if route in access.OPEN or route in access.SHARED:
        return "in"
    scope = permission_for(route, access.OF_A_SCOPE)
    if scope is not None:
        if not who.scopes:
            return {401}
        return "in" if (scope in who.scopes if scope else set(who.scopes) - {access.BY_KEY}) else {403}
    shared = permission_for(route, access.OF_A_ROLE)
    permission = shared or permission_for(route, access.OF_ITS_OWNER)
    assert permission is not None, f"{route}: say in tests/web/access.py who may use it"
    if not who.role:
        return {401}
    if who.role not in access.WHO[permission]:
        return {403}
    if who.scopes and not (permission == access.BY_KEY and access.BY_KEY in who.scopes):
        return {403}
    return "in" if shared else "404"


def all_routes(app: FastAPI) -> list[str]:
    found = [f"{method} {one.path}" for one in routes_of(app) for method in sorted(one.methods - {"OPTIONS"})]
    return sorted(found, key=lambda route: (route in LAST, route.startswith("DELETE"), route))


def ask(route: str, who: Person, things: dict[str, str]) -> Any:
    """Send a route's request, about one of `things` where it names one."""
    return who.request(*request_of(route, things))


def request_of(route: str, things: dict[str, str]) -> tuple[str, str, Any]:
    """Method, path and body."""
    method, _, pattern = route.partition(" ")
    start = pattern.partition("{")[0]
    path = re.sub(r"\{[^}]*\}", things.get(start, "x"), pattern, count=1)
    path = re.sub(r"\{[^}]*\}", "x", path)
    body = None if method in ("GET", "HEAD", "DELETE") or path.endswith(WITHOUT_BODY) else BODIES.get(route, {})
    return method, path, body


def test_each_route_has_an_expectation_and_each_expectation_a_route(app: FastAPI) -> None:
    tables = (access.OF_A_ROLE, access.OF_ITS_OWNER, access.OF_A_SCOPE)
    named = [access.OPEN, access.SHARED, *(routes for table in tables for routes in table.values())]
    declared = [route for routes in named for route in routes]
    assert sorted(declared) == sorted(set(all_routes(app))), "say in tests/web/access.py who may use a new route"
    assert {name: set(roles) for name, roles in access.WHO.items()} == {n: set(r) for n, r in PERMISSIONS.items()}


def test_everyone_on_every_route(app: FastAPI, world: World) -> None:
    """About things that nobody has: only the role, the key's scopes and the life of the credential decide."""
    people = [*strangers(world), *members(world)]
    cases = [(route, who, expected(route, who)) for route in all_routes(app) for who in people]
    cases = [(*case, right) for *case, right in cases if not (right == "in" and case[1].role and case[0] in LAST)]
    statuses = world.statuses([(route, who) for route, who, _ in cases])
    wrong = []
    for (route, who, right), status in zip(cases, statuses, strict=True):
        refused = status in (401, 403) and route not in access.OPEN | access.SHARED
        if not (not refused and status < 500 if isinstance(right, str) else status in right):
            wrong.append((route, who.name, status, right))
    assert wrong == []
    assert len(cases) > 3500


def test_other_peoples_things_are_not_there(app: FastAPI, world: World) -> None:
    """404 for every role, in the words for what never was; whether the owner is active, suspended or deleted."""
    lead = world.person("lea", "lead")
    owners = {status: world.owner(f"{status} owner", lead) for status in ("active", "suspended", "deleted")}
    world.change(owners["suspended"], status="suspended")
    assert owners["deleted"].request("DELETE", "/api/me").status_code == 200
    everyone = [who for who in members(world) if not who.scopes or access.BY_KEY in who.scopes]
    theirs = [route for route in all_routes(app) if permission_for(route, access.OF_ITS_OWNER)]
    wrong = []
    for route in theirs:
        for who in everyone:
            if expected(route, who) != "404" or (who.role == "admin" and route in access.ADMINS_TOO):
                continue
            nothing = ask(route, who, {})
            for status, owner in owners.items():
                answer = ask(route, who, owner.things)
                if answer.status_code != 404 or words(answer) != words(nothing):
                    wrong.append((route, who.name, status, answer.status_code, answer.text[:80]))
    assert wrong == []
    ann = owners["active"]
    assert {route.partition(" ")[2].partition("{")[0] for route in theirs} == set(ann.things), "things for new paths"
    for route in theirs:
        if not route.startswith("DELETE"):
            assert ask(route, ann, ann.things).status_code not in (401, 403, 404), f"{route}: its owner is let in"


def words(answer: Any) -> Any:
    """A refusal without what is different in every one."""
    return {name: value for name, value in answer.json().items() if name != "request_id"}


NAMES = re.compile(
    r"(.*_)?ids?|(.*_)?(conversation|message|parent|leaf|run|project|user|labelers?|share|assignment|session)|before"
)


def named_in_bodies(app: FastAPI) -> dict[str, set[str]]:
    """Fields that are ids, in the bodies and queries of the OpenAPI document."""
    document = app.openapi()

    def fields(schema: Any, seen: frozenset[str] = frozenset()) -> set[str]:
        if isinstance(schema, list):
            return set().union(*(fields(one, seen) for one in schema)) if schema else set()
        if not isinstance(schema, dict):
            return set()
        name = schema.get("$ref", "").rpartition("/")[2]
        if name:
            return set() if name in seen else fields(document["components"]["schemas"][name], seen | {name})
        own = {key for key in schema.get("properties", {}) if NAMES.fullmatch(key)}
        return (
            own
            | fields([v for k, v in schema.items() if k != "properties"], seen)
            | fields(list(schema.get("properties", {}).values()), seen)
        )

    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            names = fields(operation.get("requestBody", {}).get("content"))
            queries = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            names |= {name for name in queries if NAMES.fullmatch(name)}
            if names:
                found[f"{method.upper()} {path}"] = names
    return found


def test_ids_in_bodies_are_all_tried(app: FastAPI) -> None:
    known = access.NAMED_IN_BODIES | access.NAMES_NOBODYS
    assert {route.replace("{model}", "{model:path}"): names for route, names in named_in_bodies(app).items()} == known


def test_other_peoples_things_in_bodies_are_not_there(world: World) -> None:
    ann, bob = (world.owner(name, world.person(f"lead of {name}", "lead")) for name in ("ann", "bob"))
    chat, message = ann.things["/api/conversations/"], ann.things["/api/messages/"]
    mine = f"/api/conversations/{bob.things['/api/conversations/']}"
    before = ok(ann.get(f"/api/conversations/{chat}"))
    compared = ok(ann.post(f"/api/messages/{message}/generate", {"compare": True}), 202)["comparison"]["id"]
    tried = {
        ("POST", mine + "/messages"): [{"content": "x", "parent_id": message}],
        ("PATCH", mine): [{"active_leaf_id": message}],
        ("POST", mine + "/fork"): [{"leaf_id": message}],
        ("POST", mine + "/share"): [{"leaf_id": message}],
        ("POST", "/api/tokenize"): [{"conversation_id": chat, "text": "x"}],
        ("POST", "/api/comparisons"): [{"comparison_id": compared, "outcome": "left"}],
        ("GET", f"{mine}/messages?before={message}"): [None],
    }
    for (method, path), bodies in tried.items():
        for body in bodies:
            answer = bob.request(method, path, body)
            assert answer.status_code in (404, 422) and "hello of ann" not in answer.text, (path, answer.text)
    # The leaf of somebody else's chat says nothing: what is counted is one's own.
    own = {"conversation_id": bob.things["/api/conversations/"], "text": "x"}
    assert ok(bob.post("/api/tokenize", own | {"leaf_id": message})) == ok(bob.post("/api/tokenize", own))
    for action in ("archive", "trash", "restore", "delete"):
        assert ok(bob.post("/api/conversations/bulk", {"ids": [chat], "action": action})) == {"changed": 0}
    taken = bob.post(mine + "/messages", {"content": "x", "id": message})
    assert taken.status_code == 409 and "hello of ann" not in taken.text
    after = ok(ann.get(f"/api/conversations/{chat}"))
    assert [m["id"] for m in before["messages"]][:1] == [m["id"] for m in after["messages"]][:1]
    assert not after["trashed"] and not after["archived"]


def test_shares_are_for_whom_their_owner_chose(world: World) -> None:
    lead = world.person("lea", "lead")
    owners = {name: world.owner(name, lead) for name in ("ann", "sue", "del", "bin", "out")}
    ids = {name: owner.things["/api/shares/"] for name, owner in owners.items()}
    ann = owners["ann"]
    chat, link = ann.things["/api/conversations/"], {"visibility": "link"}
    ids["for users"] = ok(ann.post(f"/api/conversations/{chat}/share", {"visibility": "signed_in"}), 201)["id"]
    ids["short"] = ok(ann.post(f"/api/conversations/{chat}/share", link | {"expires_in_days": 1}), 201)["id"]
    world.change(owners["sue"], status="suspended")
    assert owners["del"].request("DELETE", "/api/me").status_code == 200
    trash = f"/api/conversations/{owners['bin'].things['/api/conversations/']}"
    assert owners["bin"].request("DELETE", trash).status_code == 204
    assert owners["out"].request("DELETE", f"/api/shares/{ids['out']}").status_code == 204
    with writing(world.service.database) as connection:
        connection.execute(update(Share).where(Share.id == ids["short"]).values(expires_at=now() - timedelta(1)))
    outside = [*strangers(world), *(who for who in members(world) if who.scopes)]
    inside = [who for who in members(world) if not who.scopes]
    for path in ("/api/shares/{}", "/s/{}"):
        for who in [*outside, *inside]:
            for dead in ("sue", "del", "bin", "out", "short"):
                assert who.get(path.format(ids[dead])).status_code == 404, (path, who.name, dead)
            assert who.get(path.format("made-up")).status_code == 404
            public = who.get(path.format(ids["ann"]))
            assert public.status_code == 200 and public.headers["cache-control"] == "no-store", (path, who.name)
            wanted = 200 if who in inside else 401
            assert who.get(path.format(ids["for users"])).status_code == wanted, (path, who.name)


def test_pages_send_strangers_to_sign_in(app: FastAPI, world: World) -> None:
    nobody = Person(world.client, {"accept": "text/html"})
    for route in all_routes(app):
        method, _, path = route.partition(" ")
        if method != "GET" or path.startswith(("/api", "/v1", "/s/")) or route in access.OPEN:
            continue
        answer = ask(route, nobody, {})
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login?next=/"), route
