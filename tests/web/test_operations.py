"""Health, metrics, logs without text, backups that open, and the settings that `wuya serve` refuses."""

import json
import logging
import stat
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from wuya.errors import ConfigError, RunError
from wuya.feedback.store import FeedbackStore
from wuya.web import engines, serve
from wuya.web.operations.check import check
from wuya.web.operations.logs import JsonFormatter, redact
from wuya.web.secret import service_secret
from wuya.web.service import Service
from wuya.web.settings import Settings


def test_health_and_readiness(client: TestClient, service: Service) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    service.closing = True
    assert client.get("/readyz").status_code == 503


def test_metrics_count_routes_not_paths(client: TestClient) -> None:
    client.get("/api/admin/users?q=somebody")
    client.get("/secret-path-of-a-person")
    text = client.get("/metrics").text
    assert 'wuya_http_requests_total{method="GET",route="/api/admin/users",status="200"} 1.0' in text
    assert "somebody" not in text and "secret-path" not in text
    assert "wuya_engine_slots" in text


def test_logs_hold_no_query_no_key_and_no_exception_text(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "wuya"):
        client.get("/api/admin/users?q=hidden-words")
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("wuya")]
    assert lines and not any("hidden-words" in line for line in lines)
    assert json.loads(lines[-1])["route"] == "/api/admin/users"
    assert redact("key sk-a91f" + "x" * 43 + " Bearer abc.def") == "key sk-a91fxxxx[hidden] Bearer [hidden]"
    try:
        raise ValueError("what a person wrote")
    except ValueError as error:
        record = logging.LogRecord("wuya", 40, "f", 1, "a bug", None, (type(error), error, error.__traceback__))
    assert "what a person wrote" not in JsonFormatter().format(record)


def test_a_backup_is_a_database(client: TestClient, service: Service) -> None:
    if service.database.dialect.name != "sqlite":
        pytest.skip("PostgreSQL has pg_dump")
    name = client.post("/api/admin/system/backup").json()["file"]
    path = service.settings.workspace / "backups" / name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with FeedbackStore(path) as store:
        assert store.counts()["users"] == 1


def test_the_key_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    first = service_secret(tmp_path, {})
    assert service_secret(tmp_path, {}) == first and len(first) >= 32
    path = tmp_path / "service.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        service_secret(tmp_path, {})
    with pytest.raises(ConfigError, match="too short"):
        service_secret(tmp_path, {"WUYA_SECRET": "short"})


def test_other_machines_need_accounts_and_https() -> None:
    with pytest.raises(ConfigError, match="nobody signs in"):
        serve.ServeConfig(host="0.0.0.0")
    with pytest.raises(ConfigError, match="in the open"):
        serve.ServeConfig(host="0.0.0.0", accounts=True)
    with pytest.raises(ConfigError, match="in the open"):
        serve.ServeConfig(host="0.0.0.0", accounts=True, public_url="http://chat.example.org")
    serve.ServeConfig(host="0.0.0.0", accounts=True, public_url="https://chat.example.org")


@pytest.mark.parametrize(
    "public_url", ["https://chat.example.org", "http://10.0.0.7:8000", "https://[2001:db8::1]/wuya"]
)
def test_a_public_address_without_accounts_is_refused(public_url: str) -> None:
    """Behind a reverse proxy the service listens on loopback, and every stranger would be the one user, the admin."""
    with pytest.raises(ConfigError, match="admin: nobody signs in"):
        serve.ServeConfig(public_url=public_url)
    serve.ServeConfig(public_url="http://localhost:9000/wuya")
    serve.ServeConfig(public_url=public_url, open_to_everyone=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        serve.ServeConfig(public_url=public_url, open_to_everyone=True, accounts=True)


def test_only_loopback_and_the_public_host_are_answered(tmp_path: Path) -> None:
    config = serve.ServeConfig(workspace=tmp_path, accounts=True, public_url="https://chat.example.org")
    assert set(config.settings({}).host_names) == {"127.0.0.1", "localhost", "[::1]", "chat.example.org"}


def test_the_public_address_sets_host_prefix_and_secure_cookies(tmp_path: Path) -> None:
    config = serve.ServeConfig(workspace=tmp_path, accounts=True, public_url="https://chat.example.org/wuya/")
    settings = config.settings({})
    assert (settings.https, settings.root_path, settings.allowed_hosts) == (True, "/wuya", ("chat.example.org",))
    assert config.own_url == "https://chat.example.org/wuya"


def test_models_are_named_by_their_run(tmp_path: Path) -> None:
    named = engines.named_models(["runs/ppo", "a=runs/sft", "runs/x/checkpoints/step_000200"], tmp_path, tmp_path / "x")
    assert named == {"ppo": "runs/ppo", "a": "runs/sft", "x": "runs/x/checkpoints/step_000200"}
    with pytest.raises(ConfigError, match="two models"):
        engines.named_models(["a/ppo", "b/ppo"], tmp_path, tmp_path / "x")


def test_the_newest_demo_is_the_default(tmp_path: Path) -> None:
    for name in ("ppo", "sft"):
        place = tmp_path / "runs" / "demo" / name / "model"
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
    found = engines.named_models([], tmp_path, tmp_path / "wuya.db")
    assert list(found) == ["ppo", "sft"]
    with pytest.raises(ConfigError, match="no model to serve"):
        engines.open_model_engine({}, kind="thread", workspace=tmp_path)


def test_check_names_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="1 of the checks failed"):
        check(tmp_path, tmp_path / "wuya.db", {"ppo": str(tmp_path / "missing")}, accounts=True)
    said = capsys.readouterr()
    assert "problem  model ppo" in said.out + said.err and "the chain holds" in said.out + said.err


class TestBehindAProxy:
    """The service under https://chat.example.org/wuya, whether the proxy cuts the prefix off or not."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        config = serve.ServeConfig(
            workspace=tmp_path, public_url="https://chat.example.org/wuya", open_to_everyone=True
        )
        return config.settings({})

    @pytest.mark.parametrize("prefix", ["", "/wuya"])
    def test_links_files_and_redirects_keep_the_prefix(self, client: TestClient, prefix: str) -> None:
        headers = {"host": "chat.example.org", "accept": "text/html"}
        assert client.get(f"{prefix}/", headers=headers).headers["location"].startswith("/wuya/")
        assert client.get(f"{prefix}/static/css/base.css", headers=headers).status_code == 200
        assert client.get(f"{prefix}/api/me", headers=headers).json()["role"] == "admin"
        page = client.get(f"{prefix}/account", headers=headers)
        assert 'href="/wuya/static/css/base.css"' in page.text and 'href="/static' not in page.text
        assert page.headers["strict-transport-security"]
        problem = client.get(f"{prefix}/v1/nowhere", headers=headers)
        assert set(problem.json()) == {"error"}

    def test_a_path_that_only_begins_alike_is_not_the_prefix(self, client: TestClient) -> None:
        assert client.get("/wuyax", headers={"host": "chat.example.org"}).status_code == 404


def test_transactions_that_write_are_timed_and_those_that_read_are_not(client: TestClient, service: Service) -> None:
    def count() -> float:
        text = client.get("/metrics").text
        return float(
            next(line for line in text.splitlines() if line.startswith("wuya_db_write_seconds_count")).split()[1]
        )

    client.get("/api/conversations")
    before = count()
    client.get("/api/conversations")
    assert count() == before
    client.post("/api/conversations", json={})
    assert count() > before
