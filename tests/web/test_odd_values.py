"""Values that no client could read back are refused on the way in, and repaired where they are stored already."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from wuya.database.connection import writing
from wuya.database.labeling_tables import User
from wuya.web import sane_json
from wuya.web.moderation.moderator import moderator_of
from wuya.web.service import Service

HEADERS = {"content-type": "application/json"}
DEEP = "[" * 300 + "]" * 300


@pytest.mark.parametrize(
    "value", ['"\\ud800"', '"\\uDFFF x"', "NaN", "-Infinity", "1e999", "1" + "0" * 400 + ".5", DEEP, '{"\\ud800": 1}']
)
def test_unreadable_json_is_refused_everywhere(client: TestClient, value: str) -> None:
    body = f'{{"prefs": {{"x": {value}}}}}'
    answer = client.patch("/api/me", content=body, headers=HEADERS)
    assert answer.status_code == 422, answer.text
    assert client.get("/api/me").status_code == 200
    answer = client.post("/api/conversations", content=f'{{"title": {value}}}', headers=HEADERS)
    assert answer.status_code == 422, answer.text


def test_ordinary_json_passes(client: TestClient) -> None:
    body = '{"prefs": {"a": "\\ud83d\\ude00 \\\\ud800 NaN", "b": 1.5e10, "c": [[[[1]]]], "d": "\\u00e9"}}'
    assert client.patch("/api/me", content=body, headers=HEADERS).status_code == 200
    assert client.get("/api/me").json()["prefs"]["a"] == "\U0001f600 \\ud800 NaN"


def test_the_quick_look_finds_what_the_thorough_one_finds() -> None:
    odd: list[Any] = ["\ud800", float("nan"), float("inf"), {"a": [float("-inf")]}, {"\udc00": 1}]
    for value in odd:
        assert sane_json.problem(json.dumps(value).encode()), value
        text = json.dumps(sane_json.repaired(value), allow_nan=False, ensure_ascii=False)
        assert text.encode()
    assert sane_json.problem(b"no json at all [[[") == ""


def test_an_odd_stored_value_is_repaired(client: TestClient, service: Service) -> None:
    if service.database.dialect.name == "postgresql":
        pytest.skip("PostgreSQL stores no such JSON")
    with writing(service.database) as connection:
        connection.execute(update(User).values(prefs={"x": float("inf"), "y": "a\ud800b"}))
    answer = client.get("/api/me")
    assert answer.status_code == 200 and answer.json()["prefs"] == {"x": None, "y": "a\ufffdb"}


class TestRuns:
    @pytest.fixture
    def run(self, service: Service) -> Path:
        folder = service.settings.workspace / "runs" / "odd"
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"step": 1, "time": 5, "loss": 2.0}\n')
        return folder

    @pytest.mark.parametrize(
        "line",
        [
            '{"step": true}',
            '{"step": 1' + "0" * 400 + "}",
            '{"step": 2, "time": NaN, "loss": Infinity}',
            '{"step": 2, "time": "x", "loss": 1' + "0" * 400 + "}",
            '{"step": 2, "loss": ' + "[" * 5000 + "]" * 5000 + "}",
            '{"step": 2, "name": "\\ud800"}',
        ],
    )
    def test_a_damaged_line_spoils_itself_only(self, client: TestClient, run: Path, line: str) -> None:
        with (run / "metrics.jsonl").open("a") as file:
            file.write(line + "\n")
        items = client.get("/api/runs").json()["items"]
        assert [item["id"] for item in items] == ["odd"] and items[0]["latest"]["loss"] == 2.0
        for path in ("/api/runs/odd", "/api/runs/odd/metrics", "/api/runs/odd/samples"):
            assert client.get(path).status_code < 500, path

    @pytest.mark.parametrize(
        "text",
        [
            "a: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: &d [*c, *c, *c, *c]\n"
            "e: &e [*d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e]\ng: [*f, *f, *f, *f, *f]\n",
            "a: &a\n  b: *a\n",
            "a: 2026-99-99\n",
            "a: " + "[" * 2000 + "]" * 2000 + "\n",
        ],
    )
    def test_a_config_that_blows_up_is_not_shown(self, client: TestClient, run: Path, text: str) -> None:
        (run / "config.yaml").write_text(text)
        answer = client.get("/api/runs/odd")
        assert answer.status_code == 200 and len(answer.content) < 50_000

    def test_links_out_of_the_runs_lead_nowhere(self, client: TestClient, run: Path, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "config.json").write_text("{}")
        (secret / "wuya.json").write_text('{"recipe": "a secret"}')
        (secret / "evaluation.json").write_text('{"win_rate": {"odd_vs_x": "a secret"}}')
        (secret / "config.yaml").write_text("password: a secret")
        (run / "config.yaml").unlink(missing_ok=True)
        (run / "config.yaml").symlink_to(secret / "config.yaml")
        (run.parent / "evaluation").symlink_to(secret)
        (run / "checkpoints").mkdir(exist_ok=True)
        (run / "checkpoints" / "step_000001").symlink_to(secret)
        (secret / "samples.jsonl").write_text('{"step": 1, "completion": "a secret"}\n')
        (run / "samples.jsonl").symlink_to(secret / "samples.jsonl")
        (run / "model").symlink_to(secret)
        assert "a secret" not in client.get("/api/runs/odd/samples").text
        shown = client.get("/api/runs/odd").json()
        assert shown["checkpoints"] == [] and shown["has_model"] is False and "a secret" not in str(shown)
        assert "a secret" not in client.get("/api/runs").text
        assert client.get("/api/registry").json()["found"] == []
        assert client.post("/api/model-versions", json={"run": "odd"}).status_code == 404

    @pytest.mark.parametrize("name", ["config.yaml", "wuya.json", "samples.jsonl", "metrics.jsonl", ".lock"])
    @pytest.mark.parametrize("kind", ["pipe", "folder", "link to a file", "link to nothing", "link to itself"])
    def test_what_is_no_file_is_not_read(
        self, client: TestClient, run: Path, tmp_path: Path, name: str, kind: str
    ) -> None:
        """Reading a pipe would hold one of the server's threads for ever, with each request one more."""
        good = run.with_name("good")
        shutil.copytree(run, good)
        (run / name).unlink(missing_ok=True)
        (tmp_path / "other").write_text('{"step": 1, "text": "a secret"}')
        if kind == "pipe":
            os.mkfifo(run / name)
        elif kind == "folder":
            (run / name).mkdir()
        else:
            target = {"link to a file": tmp_path / "other", "link to nothing": "gone", "link to itself": run / name}
            (run / name).symlink_to(target[kind])
        seen: list[int] = []

        def ask() -> None:
            for path in ("/api/runs", "/api/registry", "/api/runs/same-prompt?prompt=x"):
                seen.append(client.get(path).status_code)
            for path in ("", "/series", "/samples", "/rollouts", "/metrics.csv"):
                answer = client.get(f"/api/runs/odd{path}")
                seen.append(200 if name == "metrics.jsonl" and answer.status_code == 404 else answer.status_code)
                assert "a secret" not in answer.text

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(20)
        assert seen == [200] * 8
        assert "good" in [item["id"] for item in client.get("/api/runs").json()["items"]]

    def test_links_to_other_peoples_rollouts_lead_nowhere(self, client: TestClient, run: Path, tmp_path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        columns = {"episode": [0], "prompt_id": ["p"], "score": [1.0], "token": ["a secret"], "kl": [0.0]}
        parquet.write_table(pyarrow.table(columns), tmp_path / "secret.parquet")
        (run / "rollouts").mkdir()
        (run / "rollouts" / "update_000001_rank_0.parquet").symlink_to(tmp_path / "secret.parquet")
        answer = client.get("/api/runs/odd/rollouts")
        assert answer.json()["updates"] == [] and "a secret" not in answer.text
        own = parquet.read_table(tmp_path / "secret.parquet")
        parquet.write_table(own, run / "rollouts" / "update_000002_rank_0.parquet")
        assert client.get("/api/runs/odd/rollouts").json()["updates"] == [2]


class TestScorers:
    def rule(self, place: str) -> dict[str, Any]:
        return {"name": "r", "action": "flag", "stages": ["input"], "scorer": place, "threshold": 0.0, "enabled": True}

    def test_only_reward_models_become_scorers(self, client: TestClient, service: Service) -> None:
        folder = service.settings.workspace / "runs" / "lm" / "model"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}')
        for place in ("runs/lm", "runs/none", "x" * 400, "runs/lm/model/config.json"):
            answer = client.put("/api/admin/moderation/rules", json={"items": [self.rule(place)]})
            assert answer.status_code == 422, place

    def test_a_scorer_that_is_gone_stops_nobody(
        self, client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wuya.web.moderation.routes.check_scorer", lambda *_: None)
        assert client.put("/api/admin/moderation/rules", json={"items": [self.rule("runs/gone")]}).status_code == 200
        moderator_of(service).check_input("hello")
        chat = client.post("/api/conversations", json={}).json()["id"]
        assert client.post(f"/api/conversations/{chat}/messages", json={"content": "hello"}).status_code == 201


def test_a_project_is_not_renamed_to_a_taken_name(client: TestClient) -> None:
    ids = [client.post("/api/admin/projects", json={"name": name}).json()["id"] for name in ("one", "two")]
    answer = client.patch(f"/api/admin/projects/{ids[1]}", json={"name": "one"})
    assert answer.status_code in (400, 409, 422), answer.text
