"""Requests that nobody would write, made from the application's own table of routes, so that no route is missed.

One application per process, without accounts, so that every request is the admin's and reaches the handlers. Bodies and
parameters follow the route's schema and are then damaged; ids are those that earlier replies named, or odd ones. A
reply of 5xx is a fault.
"""

import json
import os
import random
import tempfile
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi.openapi.utils import get_openapi
from starlette.testclient import TestClient

from tests.fuzz import mutate
from wuya.inference.backends.fake import FakeEngine
from wuya.web.app import create_app
from wuya.web.chat.chat_files import look_through, read_chats
from wuya.web.settings import Settings

ORIGIN = "http://127.0.0.1:8000"
JSON = "application/json"
ENDLESS = ("events", "stream", "follow")
"""Replies that go on until the client leaves: tests/web has them."""
MODELS: list[str] = []
KINDS: dict[str, list[str]] = {}
"""Last part of a route -> ids of such things."""
IDS: list[str] = ["01a22fa1-9bc9-720a-a3f4-b7b66e782bd0", "0", "", "../a", "a" * 300, "\ud800", "%00", "None"]


def api(folder: Path, rng: random.Random) -> None:
    """A request to the pages' API."""
    _request("/api/", rng)


def v1(folder: Path, rng: random.Random) -> None:
    """A request to the OpenAI-compatible API."""
    _request("/v1/", rng)


def imports(folder: Path, rng: random.Random) -> None:
    """A file of somebody else's chats."""
    text = mutate.json_text(rng.choice(EXPORTS), rng) if rng.random() < 0.8 else MARKDOWN.encode()
    content = mutate.some_bytes(text, rng) if rng.random() < 0.3 else text
    file = BytesIO(content)
    found = look_through(file, is_markdown=rng.random() < 0.2)
    assert len(list(read_chats(file, found))) == found.chats


# -- requests ----------------------------------------------------------------------------------------------------------


@cache
def _client(process: int) -> TestClient:
    workspace = Path(tempfile.mkdtemp(prefix="wuya-fuzz-service-"))
    engine = FakeEngine(tokens_per_second=10_000)
    app = create_app(Settings(workspace=workspace), engine=engine, database=workspace / "wuya.db")
    client = TestClient(app, base_url=ORIGIN, raise_server_exceptions=False, follow_redirects=False)
    client.headers["origin"] = ORIGIN
    client.__enter__()  # the process ends without leaving it
    _furnish(client)
    return client


def _furnish(client: TestClient) -> None:
    """Something of every kind, so that ids lead somewhere."""
    MODELS[:] = [row["id"] for row in client.get("/v1/models").json()["data"]]
    for _ in range(2):
        chat = _made(client.post("/api/conversations", json={}))
        said = {"content": "hello", "generate": {}}
        _remember(client.post(f"/api/conversations/{chat}/messages", json=said).json(), "messages")
        project = {"name": f"fuzz {chat}", "type": "ranking", "double_rate": 0.0, "gold_rate": 0.0}
        place = _made(client.post("/api/admin/projects", json=project))
        answers = [{"text": f"answer {n}"} for n in range(3)]
        tasks = [{"prompt": f"question {n}", "id": f"p{n}", "candidates": answers} for n in range(4)]
        assert client.post("/api/tasks/bulk", json={"project": place, "tasks": tasks}).status_code == 200
        client.post(f"/api/label/projects/{place}/quiz", json={"consent": True})
        _remember(client.post("/api/label/next", json={"project": place}).json(), "tasks")
        _made(client.post("/api/runs", json={"name": f"run {chat}", "config": {}}))
        _remember(client.post("/api/keys", json={"name": f"key {chat}"}).json(), "keys")


def _made(reply: Any) -> str:
    assert reply.status_code in (200, 201), reply.text
    _remember(reply.json(), str(reply.url.path).rpartition("/")[2])
    return str(reply.json()["id"])


@cache
def _operations(process: int, prefix: str) -> tuple[tuple[str, str, dict[str, Any]], ...]:
    """(method, path, operation) of every route under a prefix."""
    document = _document(process)
    return tuple(
        (method.upper(), path, operation)
        for path, methods in sorted(document["paths"].items())
        for method, operation in sorted(methods.items())
        if path.startswith(prefix) and not path.rstrip("/").endswith(ENDLESS)
    )


@cache
def _document(process: int) -> dict[str, Any]:
    app: Any = _client(process).app
    return get_openapi(title="wuya", version="0", routes=app.routes)


def _request(prefix: str, rng: random.Random) -> None:
    process = os.getpid()
    client, (method, path, operation) = _client(process), rng.choice(_operations(process, prefix))
    query: dict[str, str] = {}
    for parameter in operation.get("parameters", ()):
        kind = path.partition(f"/{{{parameter['name']}}}")[0].rpartition("/")[2]
        value = _parameter(parameter, rng, process, kind)
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(value.encode("utf-8", "replace"), safe="~"))
        elif parameter["in"] == "query" and (parameter.get("required") or rng.random() < 0.5):
            query[parameter["name"]] = value.encode("utf-8", "replace").decode()
    content, headers = _body(operation, rng, process)
    reply = client.request(method, path, params=query, content=content, headers=headers)
    assert reply.status_code < 500, f"{reply.status_code} {method} {path} {query} {content!r:.300} -> {reply.text:.200}"
    if reply.content and reply.headers.get("content-type", "").split(";")[0] == JSON:
        _remember(reply.json(), path.split("/")[-1])


def _parameter(parameter: dict[str, Any], rng: random.Random, process: int, kind: str) -> str:
    if parameter["in"] == "path" and rng.random() < 0.9:
        return rng.choice(KINDS.get(kind) if rng.random() < 0.8 and KINDS.get(kind) else IDS)
    value = _sample(parameter.get("schema", {}), rng, process)
    value = rng.choice(mutate.VALUES) if rng.random() < 0.4 else value
    return value[:200] if isinstance(value, str) else json.dumps(value)[:200]


def _body(operation: dict[str, Any], rng: random.Random, process: int) -> tuple[bytes | None, dict[str, str]]:
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return (b"{}", {"content-type": JSON}) if rng.random() < 0.1 else (None, {})
    kind = JSON if JSON in content else next(iter(content))
    value = _sample(content[kind].get("schema", {}), rng, process)
    if kind != JSON:
        data = "&".join(f"{key}={quote(str(item).encode('utf-8', 'replace'))}" for key, item in value.items()) \
            if isinstance(value, dict) else str(value)  # fmt: skip
        return data.encode("utf-8", "replace"), {"content-type": kind}
    text = mutate.json_text(value, rng) if rng.random() < 0.7 else json.dumps(value).encode("utf-8", "replace")
    return text, {"content-type": JSON if rng.random() < 0.98 else "text/plain"}


def _sample(schema: dict[str, Any], rng: random.Random, process: int, depth: int = 0) -> Any:
    """A value that follows a JSON schema closely enough to pass most checks."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = _document(process)["components"]["schemas"][name]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _sample(rng.choice(schema[choice]), rng, process, depth + 1)
    if "const" in schema or "enum" in schema:
        return schema.get("const", rng.choice(schema.get("enum") or [None]))
    kind = schema.get("type")
    if kind == "object" and depth < 6:
        wanted = set(schema.get("required", ()))
        made = {name: _sample(item, rng, process, depth + 1) for name, item in schema.get("properties", {}).items()
                if name in wanted or rng.random() < 0.4}  # fmt: skip
        return made | ({"model": rng.choice(MODELS)} if "model" in made and MODELS and rng.random() < 0.9 else {})
    if kind == "array" and depth < 6:
        return [_sample(schema.get("items", {}), rng, process, depth + 1) for _ in range(rng.randint(0, 3))]
    low, high = schema.get("minimum", 0), schema.get("maximum", 5)
    if kind == "integer":
        return rng.randint(int(low), max(int(low), int(high)))
    if kind == "number":
        return rng.uniform(low, max(low, high))
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "string":
        if rng.random() < 0.5:
            return rng.choice(IDS)
        return rng.choice(("user", "hello", "2026-01-01", "ranking", "x" * schema.get("minLength", 1)))
    return rng.choice(({}, "a", 1, None, {"a": {"b": [1]}}))


def _remember(value: Any, kind: str) -> None:
    """Keep ids that replies name, the latest of each kind: `conversations`, `tasks` ..."""
    for item in (value if isinstance(value, list) else [value])[:5]:
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("id"), str) and item["id"] not in IDS:
            IDS.append(item["id"])
            KINDS.setdefault(kind, []).append(item["id"])
            del IDS[8:-200], KINDS[kind][:-20]
        for name, inner in item.items():
            if isinstance(inner, dict | list):
                _remember(inner, kind if name in ("items", "data") else name)


# -- exports of other chat apps ----------------------------------------------------------------------------------------

_TURN = {"id": "m", "role": "user", "content": "hi", "parentId": None, "childrenIds": ["n"], "timestamp": 1}
EXPORTS: tuple[Any, ...] = (
    [{"title": "a", "create_time": 1.5, "current_node": "n", "mapping": {
        "m": {"id": "m", "parent": None, "children": ["n"], "message": {
            "author": {"role": "user"}, "content": {"content_type": "text", "parts": ["hi"]}, "create_time": 1.0}},
        "n": {"id": "n", "parent": "m", "children": [], "message": {
            "author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["yo"]},
            "metadata": {"citations": []}}}}}],
    [{"id": "c", "title": "b", "chat": {"history": {"currentId": "n", "messages": {
        "m": _TURN, "n": {**_TURN, "id": "n", "role": "assistant", "parentId": "m", "childrenIds": []}}}}}],
    {"format": "wuya-chats-1", "conversations": [{"title": "c", "messages": [
        {"id": "m", "parent_id": None, "role": "user", "content": "hi", "created_at": "2026-01-01T00:00:00Z"}]}]},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]},
)  # fmt: skip
MARKDOWN = "# A chat\n\n## User\n\nhi\n\n## Assistant\n\nyo **bold**\n"
