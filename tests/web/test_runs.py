"""Runs: folders and reports become curves and samples; the registry promotes and rolls back without a gap."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.web.conftest import shoot
from wuya.database.connection import writing
from wuya.database.service_tables import ApiKey
from wuya.inference.backends.fake import FakeEngine
from wuya.web.runs.folders import RunFolders
from wuya.web.runs.registry import answering
from wuya.web.runs.thin import thin
from wuya.web.runs.watching import last_turn, series
from wuya.web.service import Service
from wuya.web.settings import Settings


def make_run(root: Path, name: str, *, steps: int = 30, parents: dict[str, Any] | None = None) -> Path:
    """A finished PPO run."""
    folder = root / name
    (folder / "model").mkdir(parents=True)
    rows = [{"step": n, "time": 1000.0 + n, "objective/kl": n / 10, "loss": 1 / n, "alarms": []}
            for n in range(1, steps + 1)]  # fmt: skip
    folder.joinpath("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = [{"step": n, "prompt": f"question {i}", "completion": "x" * (i + 1), "score": i * 1.0, "kl": 0.1}
               for n in (1, steps) for i in range(3)]  # fmt: skip
    folder.joinpath("samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    folder.joinpath("config.yaml").write_text(f"num_updates: {steps}\nppo_epochs: 1\n")
    folder.joinpath("model", "config.json").write_text('{"max_position_embeddings": 64}')
    made = {"recipe": "ppo", "git_sha": "a" * 40, "parents": parents or {}}
    folder.joinpath("model", "wuya.json").write_text(json.dumps(made))
    return folder


@pytest.fixture
def root(settings: Settings) -> Path:
    return settings.workspace / "runs"


@pytest.mark.parametrize("total", [0, 1, 2, 3, 4, 50, 1000])
def test_thinning_keeps_ends_order_and_peaks(total: int) -> None:
    ys = [0.0] * total
    if total > 20:
        ys[total // 3] = 100.0
    kept = thin(list(range(total)), ys, 12)
    assert len(kept) == min(total, 12) and kept == sorted(set(kept))
    if total > 20:
        assert {0, total // 3, total - 1} <= set(kept)


def test_a_folder_is_a_run(client: TestClient, root: Path) -> None:
    make_run(root, "demo/ppo")
    [run] = client.get("/api/runs").json()["items"]
    assert (run["id"], run["stage"], run["status"], run["step"]) == ("demo~ppo", "ppo", "finished", 30)
    detail = client.get("/api/runs/demo~ppo").json()
    assert detail["config"]["ppo_epochs"] == 1 and detail["keys"] == ["objective/kl", "loss"]
    found = client.get("/api/runs/demo~ppo/series?keys=loss&max_points=10").json()["series"]["loss"]
    assert found["step"][0] == 1 and found["step"][-1] == 30 and len(found["value"]) == 10 and found["total"] == 30
    assert client.get("/api/runs/demo~ppo/metrics.csv").text.splitlines()[0] == '"step","time","objective/kl","loss"'


@pytest.mark.parametrize("id", ["..", "~", "demo~..~..", "a~b", "%2e%2e", "..~..~etc"])
def test_no_path_leads_out_of_the_workspace(client: TestClient, root: Path, id: str) -> None:
    make_run(root.parent, "outside")
    assert client.get(f"/api/runs/{id}").status_code == 404


def test_a_line_that_is_being_written_waits(root: Path) -> None:
    folder = make_run(root, "r", steps=2)
    folders = RunFolders(root)
    assert len(folders.rows("r")) == 2
    with folder.joinpath("metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss"')
        file.flush()
        assert len(folders.rows("r")) == 2
        file.write(': 0.1}\nbroken\n{"step": 4, "loss": NaN}\n')
    rows = folders.rows("r")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert series(rows, ["loss"], max_points=10)["loss"]["step"] == [1, 2, 3], "NaN can't be drawn"


def test_samples_by_step_and_score(client: TestClient, root: Path) -> None:
    make_run(root, "r")
    page = client.get("/api/runs/r/samples?sort=-score").json()
    assert (page["steps"], page["step"], [item["score"] for item in page["items"]]) == ([1, 30], 30, [2.0, 1.0, 0.0])
    bins = [{"low": 0.0, "high": 2 / 3, "count": 1}, {"low": 2 / 3, "high": 4 / 3, "count": 1}]
    assert page["histogram"] == {"key": "score", "bins": [*bins, {"low": 4 / 3, "high": 2.0, "count": 1}]}
    lengths = client.get("/api/runs/r/samples?sort=length&bin=1").json()
    assert [len(item["completion"]) for item in lengths["items"]] == [2] and lengths["histogram"]["key"] == "length"
    alike = client.get("/api/runs/r/samples?sort=kl&bin=0").json()
    assert alike["total"] == 3 and alike["histogram"]["bins"] == [{"low": 0.1, "high": 0.1, "count": 3}]
    assert client.get("/api/runs/r/samples?sort=nonsense").status_code == 422
    make_run(root, "s")
    across = client.get("/api/runs/same-prompt", params={"prompt": "question 1"}).json()["items"]
    assert {(item["run"], item["step"]) for item in across} == {("r", 1), ("r", 30), ("s", 1), ("s", 30)}


def test_the_same_question_in_any_template() -> None:
    chat = "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"
    assert last_turn(chat) == last_turn("Hello  there") == "Hello there"


def a_key(client: TestClient, service: Service, scopes: list[str]) -> str:
    from wuya.web.accounts.store import sha256

    me = client.get("/api/me").json()["id"]
    secret = "sk-test" + "x" * 43
    with writing(service.database) as connection:
        row = {"id": "k", "user_id": me, "prefix": "test", "secret_sha256": sha256(secret), "scopes": scopes}
        connection.execute(ApiKey.__table__.insert().values(**row, name="", model_allow=[]))
    return secret


def test_other_machines_report_with_a_key(client: TestClient, service: Service) -> None:
    headers = {"authorization": f"Bearer {a_key(client, service, ['runs:write'])}"}
    id = client.post("/api/runs", json={"name": "far away", "stage": "ppo"}, headers=headers).json()["id"]
    rows = {"rows": [{"step": n, "time": 1.0 * n, "values": {"loss": 1 / (n + 1)}} for n in range(5)]}
    for _ in range(2):
        assert client.post(f"/api/runs/{id}/metrics", json=rows, headers=headers).json() == {"accepted": 5}
    sample = {"rows": [{"step": 1, "idx": 0, "prompt": "p", "output": "o", "reward": 0.5}]}
    assert client.post(f"/api/runs/{id}/samples", json=sample, headers=headers).status_code == 202
    assert client.post(f"/api/runs/{id}/heartbeat", json={"status": "finished"}, headers=headers).status_code == 204
    assert client.get(f"/api/runs/{id}/series").json()["series"]["loss"]["total"] == 5
    assert client.get(f"/api/runs/{id}").json()["status"] == "finished"
    assert client.get(f"/api/runs/{id}/samples").json()["items"][0]["completion"] == "o"
    assert client.get("/api/runs", headers=headers).status_code == 403, "the key may write, not read"
    bad = {"rows": [{"step": 1, "values": {"loss": "NaN"}}]}
    assert client.post(f"/api/runs/{id}/metrics", json=bad, headers=headers).status_code == 422


def test_a_key_of_another_scope_may_not_report(client: TestClient, service: Service) -> None:
    headers = {"authorization": f"Bearer {a_key(client, service, ['chat'])}"}
    assert client.post("/api/runs", json={"name": "x"}, headers=headers).status_code == 403


def test_promote_and_roll_back(client: TestClient, root: Path, engine: FakeEngine) -> None:
    sft = make_run(root, "demo/sft")
    parents = {"policy": {"path": str(sft / "model")}, "reward": {"path": str(make_run(root, "demo/rm") / "model")}}
    make_run(root, "demo/ppo", parents=parents)
    version = client.post("/api/model-versions", json={"run": "demo~ppo"}).json()
    assert (version["name"], version["parent"], version["reward_model"]) == ("demo/ppo", "demo/sft", "demo/rm")
    assert client.post("/api/model-versions", json={"run": "demo~ppo"}).json()["id"] == version["id"]
    ids = {row["name"]: row["id"] for row in client.get("/api/registry").json()["versions"]}
    chain = client.get(f"/api/model-versions/{version['id']}/lineage").json()["items"]
    assert [row["name"] for row in chain] == ["demo/ppo", "demo/sft"]
    for name in ("demo/sft", "demo/ppo"):
        answer = client.post("/api/models/chat-default/promote", json={"version_id": ids[name]})
        assert answer.status_code == 200, answer.text
    assert "chat-default" in [model["alias"] for model in client.get("/api/models").json()["items"]]
    back = client.post("/api/models/chat-default/rollback").json()
    assert (back["version"], back["history"]) == ("demo/sft", [])
    assert client.post("/api/models/chat-default/rollback").json()["code"] == "no_history"
    registry = client.get("/api/registry").json()
    states = {row["name"]: row["state"] for row in registry["versions"]}
    assert (states["demo/sft"], states["demo/ppo"]) == ("live", "retired")
    assert registry["answering"]["chat-default"] == {
        "name": "demo/sft", "version_id": ids["demo/sft"], "path": str(sft / "model"),
    }  # fmt: skip
    actions = [row["action"] for row in client.get("/api/admin/audit").json()["items"]]
    assert actions[:3] == ["model.rollback", "model.promote", "model.promote"]


def test_what_answers_is_live_also_if_nobody_promoted_it(tmp_path: Path) -> None:
    place = make_run(tmp_path, "demo/ppo") / "model"
    known = answering({"ppo": str(place.parent)}, [{"path": str(place), "name": "my ppo", "id": "v"}])
    assert known["ppo"] == {"name": "my ppo", "version_id": "v", "path": str(place.parent)}
    short = answering({"ppo": str(place), "gpt": "http://host/v1"}, [])
    assert (short["ppo"]["name"], short["gpt"]["name"]) == ("demo/ppo", "http://host/v1")


def test_only_runs_of_the_workspace_become_versions(client: TestClient, root: Path) -> None:
    assert client.post("/api/model-versions", json={"run": "..~..~etc"}).status_code == 404
    make_run(root, "r").joinpath("model", "config.json").unlink()
    assert client.post("/api/model-versions", json={"run": "r"}).status_code == 404


def test_alarms_are_events_and_rollouts_are_read_token_by_token(client: TestClient, root: Path) -> None:
    folder = with_alarm_and_rollouts(root)
    assert client.get("/api/runs/r").json()["events"][0] == {
        "at": 1031.0, "level": "alert", "step": 31, "text": "KL has been negative for 5 updates",
    }  # fmt: skip
    page = client.get("/api/runs/r/rollouts").json()
    assert (page["updates"], page["update"], page["total"]) == ([1, 20], 20, 2)
    assert [episode["kl"] for episode in page["items"]] == [0.5, -0.25], "most KL first"
    assert [token["text"] for token in page["items"][0]["tokens"]] == ["Hel", "lo"]
    assert page["items"][0]["tokens"][1] == {"text": "lo", "kl": 0.4, "advantage": 1.0}
    assert client.get("/api/runs/r/rollouts?update=1&sort=order").json()["items"][0]["prompt_id"] == "p0"
    assert client.get("/api/runs/r/rollouts?update=7").status_code == 404
    assert client.get("/api/runs/nobody/rollouts").status_code == 404
    folder.joinpath("rollouts", "update_000001_rank_0.parquet").unlink()
    assert client.get("/api/runs/r/rollouts").json()["updates"] == [20]


def with_alarm_and_rollouts(root: Path) -> Path:
    """A run that said something was wrong and kept two updates' episodes."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    folder = make_run(root, "r")
    with folder.joinpath("metrics.jsonl").open("a") as file:
        row = {"step": 31, "time": 1031.0, "objective/kl": -0.1, "alarms": ["KL has been negative for 5 updates"]}
        file.write(json.dumps(row) + "\n")
    folder.joinpath("config.yaml").write_text("num_updates: 31\nppo_epochs: 1\nmax_kl: 4.0\n")
    columns = {
        "update": [0] * 3, "prompt_id": ["p0", "p1", "p1"], "episode": [0, 1, 1], "token": ["Oh", "Hel", "lo"],
        "kl": [-0.25, 0.1, 0.4], "advantage": [-1.0, 0.5, 1.0], "score": [0.1, 0.2, 0.2],
    }  # fmt: skip
    folder.joinpath("rollouts").mkdir()
    for update in (1, 20):
        parquet.write_table(pyarrow.table(columns), folder / "rollouts" / f"update_{update:06d}_rank_0.parquet")
    return folder


def test_target_alarm_and_tokens_on_the_page(live_server: Any, page: Any, root: Path) -> None:
    with_alarm_and_rollouts(root)
    page.goto(live_server.url + "/runs/r")
    chart = page.locator("figure", has_text="objective/kl")
    chart.locator(".chart-notes", has_text="KL has been negative").wait_for()
    assert chart.locator(".chart-level").count() == 1 and chart.locator(".chart-marker").count() == 1
    assert page.locator("figure", has_text="loss").first.locator(".chart-notes").count() == 0
    token = page.locator(".heat-token", has_text="lo")
    token.wait_for()
    assert "up" in token.get_attribute("class") and "kl 0.4" in token.get_attribute("title")
    shoot(page, "run-alarm-rollouts")


def test_curves_grow_while_somebody_watches(live_server: Any, page: Any, root: Path) -> None:
    folder = make_run(root, "demo/ppo", steps=200)
    page.goto(live_server.url + "/runs")
    page.get_by_role("link", name="demo/ppo").click()
    chart = page.locator("figure", has_text="objective/kl")
    chart.wait_for()
    assert chart.locator("path.chart-line").get_attribute("d").count("L") == 199
    chart.locator("svg").hover()
    assert "step" in chart.locator(".chart-readout").inner_text()
    page.get_by_text("Log scale").click()
    page.get_by_role("button", name="The same prompt elsewhere").first.click()
    page.get_by_role("dialog").get_by_text("demo/ppo").first.wait_for()
    page.keyboard.press("Escape")
    with folder.joinpath("metrics.jsonl").open("a") as file:
        file.write('{"step": 201, "time": 1201.0, "objective/kl": 99.0, "loss": 0.001}\n')
    chart.locator(".chart-readout").get_by_text("99").wait_for()


def test_a_spreadsheet_runs_nothing_of_a_runs_figures(client: TestClient, root: Path) -> None:
    folder = make_run(root, "demo/ppo")
    row = {"step": 31, "time": 1.0, '=HYPERLINK("x")': 1.0, "@a": 2.0, 'q"uote': 3.0, "loss": 1.0}
    with folder.joinpath("metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    head = client.get("/api/runs/demo~ppo/metrics.csv").text.splitlines()[0]
    assert {'\'=HYPERLINK("x")', "'@a", 'q"uote', "loss"} <= set(next(csv.reader([head])))
