"""Other sites, other hosts, oversized bodies, missing headers; who may use which route is in `test_matrix`."""

import json
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tests.web.conftest import LiveServer
from wuya.errors import ConfigError
from wuya.web.accounts.auth import PERMISSIONS, permissions_of
from wuya.web.connections import Door
from wuya.web.security import cross_site
from wuya.web.serve import ServeConfig, _uvicorn_config
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


PROXIES_SAY = [
    "X-Forwarded-For", "forwarded", "x-real-ip", "cf-connecting-ip", "X-Forwarded-Proto", "x-forwarded-prefix", "Via",
    "X-Original-Host", "x-original-url", "x-original-forwarded-for", "true-client-ip", "x-envoy-external-address",
]  # fmt: skip


@pytest.mark.parametrize("header", PROXIES_SAY)
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


class TestPublic:
    """Behind a proxy: nobody but the proxy says whose request it is."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        place, url = tmp_path / "workspace", "https://chat.example.org"
        return Settings(workspace=place, accounts=True, https=True, public_url=url, allowed_hosts=("chat.example.org",))

    @pytest.mark.parametrize("header", ["", *PROXIES_SAY])
    def test_metrics_are_not_for_those_behind_it(self, client: TestClient, header: str) -> None:
        """Also where the proxy adds no header of its own."""
        headers = {"host": "chat.example.org"} | ({header: "127.0.0.1"} if header else {})
        assert client.get("/metrics", headers=headers).status_code == 404
        assert client.get("/metrics", headers={"host": "127.0.0.1"}).status_code == 200

    @pytest.mark.parametrize("header", PROXIES_SAY)
    def test_headers_name_neither_host_nor_person(self, client: TestClient, header: str) -> None:
        """What the address is was decided before: by uvicorn, for the proxies that were named."""
        for told in ("evil.org", "127.0.0.1", "for=127.0.0.1;host=evil.org;proto=http"):
            headers = {"host": "chat.example.org", header: told}
            assert client.get("/api/me", headers=headers).status_code == 401
            home = client.get("/", headers=headers)
            assert home.status_code == 303 and "evil" not in str(home.headers)
            assert client.get("/api/me", headers={"host": "evil.org", header: "chat.example.org"}).status_code == 400


@pytest.mark.parametrize("proxies", ["*", "0.0.0.0/0", "::/0", "127.0.0.1,*", "", "proxy.example.org", "10.0.0.1/8"])
def test_the_proxy_is_named_by_its_addresses(proxies: str) -> None:
    with pytest.raises(ConfigError, match="--proxies"):
        ServeConfig(accounts=True, public_url="https://chat.example.org", proxies=proxies)


@pytest.mark.parametrize(("proxies", "believed"), [("10.0.0.1", False), ("127.0.0.1, 10.0.0.0/8", True)])
def test_only_the_named_proxy_says_where_a_request_is_from(
    tmp_path: Path, app: FastAPI, proxies: str, believed: bool
) -> None:
    """The very middleware that `wuya serve` puts in front."""
    url = "https://chat.example.org"
    config = ServeConfig(workspace=tmp_path, accounts=True, public_url=url, proxies=proxies)
    seen: list[Any] = []

    async def here(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"][0], scope["scheme"]))
        await JSONResponse({})(scope, receive, send)

    found = _uvicorn_config(config, app, Door(256))
    front = ProxyHeadersMiddleware(here, trusted_hosts=found.forwarded_allow_ips)
    assert found.proxy_headers
    said = {"x-forwarded-for": "192.0.2.1, 203.0.113.7", "x-forwarded-proto": "https", "forwarded": "for=192.0.2.9"}
    TestClient(front, "http://127.0.0.1:8000", client=("127.0.0.1", 50_000)).get("/", headers=said)
    assert seen == [("203.0.113.7", "https") if believed else ("127.0.0.1", "http")]


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
