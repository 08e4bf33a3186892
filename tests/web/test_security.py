"""Other sites, other hosts, oversized bodies, missing headers; who may use which route is in `test_matrix`."""

import json
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from tests.web.conftest import LiveServer
from wuya.web.accounts.auth import PERMISSIONS, permissions_of
from wuya.web.security import cross_site
from wuya.web.settings import Settings

SAME = {"host": "chat.example.org"}


@pytest.mark.parametrize(
    ("method", "headers", "refused"),
    [
        ("POST", {"sec-fetch-site": "same-origin"}, False),
        ("POST", {"sec-fetch-site": "none"}, False),
        ("POST", {"sec-fetch-site": "same-site"}, True),
        ("POST", {"sec-fetch-site": "cross-site"}, True),
        ("POST", {"sec-fetch-site": "cross-site", "origin": "https://chat.example.org"}, True),
        ("POST", {"sec-fetch-site": "same-origin", "origin": "https://evil.org"}, False),  # the browser knows best
        ("POST", {"origin": "https://chat.example.org"}, False),
        ("POST", {"origin": "https://chat.example.org:444"}, True),
        ("POST", {"origin": "https://evil.org"}, True),
        ("POST", {"origin": "null"}, True),
        ("POST", {}, False),  # no browser: it carries no cookies of a victim
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("HEAD", {"origin": "https://evil.org"}, False),
        ("DELETE", {"sec-fetch-site": "cross-site"}, True),
        ("PUT", {"origin": "https://evil.org"}, True),
        ("PATCH", {"sec-fetch-site": "cross-site"}, True),
    ],
)
def test_requests_of_other_sites_are_refused(method: str, headers: dict[str, str], refused: bool) -> None:
    assert bool(cross_site(method, Headers(SAME | headers), scheme="https")) is refused


def test_a_forged_request_changes_nothing(client: TestClient) -> None:
    answer = client.patch("/api/me", json={"theme": "dark"}, headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert client.get("/api/me").json()["theme"] == ""


def test_only_json_changes_things(client: TestClient) -> None:
    answer = client.patch("/api/me", content=b'{"theme":"dark"}', headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("host", ["evil.org", "127.0.0.1.evil.org", "localhost.evil.org:8000", ""])
def test_other_host_names_are_refused(client: TestClient, host: str) -> None:
    """Against DNS rebinding: a page of evil.org whose name points to 127.0.0.1 gets nothing."""
    answer = client.get("/api/me", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_host")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:8000", "LOCALHOST"])
def test_this_machine_has_several_names(client: TestClient, host: str) -> None:
    assert client.get("/api/me", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "forwarded", "x-real-ip", "cf-connecting-ip"])
def test_a_reverse_proxy_before_a_single_user_is_refused(client: TestClient, header: str) -> None:
    """nginx asks for `Host: 127.0.0.1` unless told otherwise, so the host's name proves nothing."""
    for path in ("/api/me", "/chat", "/v1/models", "/metrics"):
        answer = client.get(path, headers={header: "203.0.113.7"})
        assert answer.status_code == 403 and "open_to_everyone" in answer.text, path


class TestProxied:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(workspace=tmp_path / "workspace", open_to_everyone=True)

    def test_who_says_so_lets_everyone_in_but_to_metrics(self, client: TestClient) -> None:
        through = {"x-forwarded-for": "203.0.113.7"}
        assert client.get("/api/me", headers=through).status_code == 200
        assert client.get("/metrics", headers=through).status_code == 404
        assert client.get("/metrics").status_code == 200


def test_every_answer_carries_the_headers(client: TestClient) -> None:
    for path in ("/", "/healthz", "/api/me", "/v1/nowhere", "/static/css/base.css", "/nowhere"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy and "require-trusted-types-for 'script'" in policy and "*" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["x-request-id"]
        assert "server" not in headers


def test_a_bug_is_an_answer_too(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("what a person wrote")

    monkeypatch.setattr("wuya.web.accounts.auth.store.user", broken)
    answer = client.get("/api/me")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] in answer.json()["detail"] and "wrote" not in answer.text
    assert "content-security-policy" in answer.headers


def test_large_bodies_are_refused_before_they_are_read(client: TestClient) -> None:
    large = json.dumps({"name": "x" * (10 << 20)})
    for path in ("/api/me", "/v1/chat/completions"):
        answer = client.request("PATCH" if "me" in path else "POST", path, content=large,
                                headers={"content-type": "application/json"})  # fmt: skip
        assert answer.status_code == 413


def test_large_bodies_without_a_length_are_refused_too(client: TestClient) -> None:
    def endless() -> Any:
        for _ in range(40):
            yield b"x" * 100_000

    answer = client.patch("/api/me", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


class TestSlow:
    """Bodies that dribble in: the handler does not wait for ever, and others are answered meanwhile."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(workspace=tmp_path / "workspace", body_seconds=0.5)

    def test_a_body_that_does_not_come_is_given_up(self, live_server: LiveServer) -> None:
        host, port = live_server.url.removeprefix("http://").split(":")
        heads = [
            "PATCH /api/me HTTP/1.1\r\n", "POST /v1/chat/completions HTTP/1.1\r\n", "POST /api/import HTTP/1.1\r\n",
        ]  # fmt: skip
        slow = [socket.create_connection((host, int(port)), timeout=30) for _ in heads]
        try:
            for connection, head in zip(slow, heads, strict=True):
                rest = f"host: {host}:{port}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
                connection.sendall((head + rest).encode())
            with urllib.request.urlopen(live_server.url + "/api/me", timeout=30) as answer:
                assert answer.status == 200
            for connection in slow:
                first = connection.recv(65536).decode()
                assert first.startswith("HTTP/1.1 408") and "request_timeout" in first + connection.recv(65536).decode()
        finally:
            for connection in slow:
                connection.close()


def test_deep_json_is_an_error_of_the_caller(client: TestClient) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    answer = client.patch("/api/me", content=deep, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


def test_each_permission_has_somebody_and_admins_have_all() -> None:
    assert all(PERMISSIONS.values())
    assert permissions_of("admin") == set(PERMISSIONS)
