"""Eight labelers at once: no task given twice, no submission lost, not even when the server is killed (SIGKILL).

A real server in a process of its own, eight threads that claim and hand in over HTTP and try again when the connection
breaks. The small version runs always; 5,000 tasks on SQLite and on PostgreSQL with `-m slow`.
"""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, select, text

import wuya
from tests.database.test_postgres import server  # noqa: F401  a fixture
from wuya.database.connection import open_engine, writing
from wuya.database.labeling_tables import Assignment, LabelTask, RankingRow, now
from wuya.feedback import gold, projects
from wuya.feedback.bulk import ensure_users
from wuya.feedback.projects import NewTask
from wuya.records import Candidate, Message, Prompt
from wuya.web.accounts import store as accounts_store

ROOT = Path(wuya.__file__).parents[1]
LABELERS = [f"labeler {number}" for number in range(8)]
SERVE = """
import sys, uvicorn
from pathlib import Path
from wuya.inference.backends.fake import FakeEngine
from wuya.web.app import create_app
from wuya.web.settings import Settings
app = create_app(Settings(workspace=Path(sys.argv[1]), accounts=True), engine=FakeEngine(), database=sys.argv[2])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), log_level="error")
"""


class Server:
    """The service in a process of its own, on one port for all its lives."""

    def __init__(self, folder: Path, url: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [sys.executable, "-c", SERVE, str(folder), url, str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=os.environ | {"PYTHONPATH": str(ROOT)})
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "the server ended"
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill(self, sign: int = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(sign)
        self._process.wait(30)


class Labeler(threading.Thread):
    """Claims and ranks until nothing is left; sends again what was not answered, with the same key."""

    def __init__(self, port: int, project: str, token: str) -> None:
        super().__init__(daemon=True)
        self._port, self._project, self._token = port, project, token
        self._connection: http.client.HTTPConnection | None = None
        self.acknowledged: list[str] = []
        self.failures: list[str] = []
        self.retries = 0
        self.seconds: list[float] = []

    def run(self) -> None:
        try:
            self._label()
        finally:
            if self._connection is not None:
                self._connection.close()

    def _label(self) -> None:
        rng = random.Random(self._token)
        while True:
            status, task = self._ask("/api/label/next", {"project": self._project})
            if status == 204:
                return
            if status != 200:
                self.failures.append(f"next {status} {task}")
                return
            order = rng.sample([1, 2, 3], 3)
            body = {"ranks": {c["id"]: rank for c, rank in zip(task["candidates"], order, strict=True)}}
            begun = time.monotonic()
            status, answer = self._ask(f"/api/assignments/{task['id']}/submit", body, key=task["id"])
            self.seconds.append(time.monotonic() - begun)
            if status == 200:
                self.acknowledged.append(task["id"])
            else:
                self.failures.append(f"submit {status} {answer}")
                return

    def _ask(self, path: str, body: dict[str, Any], key: str = "") -> tuple[int, Any]:
        headers = {"content-type": "application/json", "cookie": f"wuya_session={self._token}"}
        if key:
            headers["idempotency-key"] = key
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
                self._connection.request("POST", path, json.dumps(body), headers)
                answer = self._connection.getresponse()
                content = answer.read()
                if answer.status == 503:  # busy: the client waits as it is told
                    time.sleep(0.2)
                    continue
                return answer.status, json.loads(content) if content else None
            except (OSError, http.client.HTTPException):
                self.retries += 1
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                time.sleep(0.1)
        return 0, "the server never came back"


def prepare(engine: Engine, num_tasks: int) -> tuple[str, list[str]]:
    """A project with tasks, and the cookies of eight labelers."""
    with writing(engine) as connection:
        id = projects.create(connection, "many", "ranking", double_rate=0.1, gold_rate=0.0, label_schema={})
        projects.change(connection, id, settings={"raise_target": 0})
        row = projects.project_row(connection, id)
        answers = tuple(Candidate(f"answer {letter}") for letter in "abc")
        tasks = (
            NewTask((Prompt(f"p{n}", (Message("user", f"question {n}"),), "test"), answers)) for n in range(num_tasks)
        )
        projects.add_tasks(connection, row, tasks)
        tokens = []
        for name, user in sorted(ensure_users(connection, LABELERS).items()):
            if name in LABELERS:
                gold.begin(connection, projects.as_project(row), user, profile={}, at=now())
                tokens.append(accounts_store.start_session(connection, user, ip_prefix="", ua="test"))
        return id, tokens


def check(engine: Engine, num_tasks: int, labelers: list[Labeler]) -> None:
    """Everything acknowledged is there, once; counters are rows; nobody did a task twice."""
    assert [failure for labeler in labelers for failure in labeler.failures] == []
    acknowledged = [id for labeler in labelers for id in labeler.acknowledged]
    with engine.connect() as connection:
        rankings = Counter(connection.execute(select(RankingRow.assignment_id)).scalars())
        assert set(rankings.values()) == {1} and set(acknowledged) == set(rankings)
        targets = {id: target for id, target in connection.execute(select(LabelTask.id, LabelTask.target))}
        done = select(Assignment.task_id, func.count()).where(Assignment.state == "submitted")
        submitted = {id: count for id, count in connection.execute(done.group_by(Assignment.task_id))}
        assert submitted == targets, "each task by exactly as many people as it wants"
        rows = connection.execute(
            select(LabelTask.n_active, LabelTask.n_submitted, LabelTask.state, LabelTask.id)
        ).all()
        assert all((r.n_active, r.n_submitted, r.state) == (0, targets[r.id], "complete") for r in rows)
        people = select(Assignment.task_id, Assignment.user_id, func.count()).group_by(
            Assignment.task_id, Assignment.user_id
        )
        assert all(count == 1 for *_, count in connection.execute(people))
    assert len(targets) == num_tasks


def label_everything(folder: Path, url: str, num_tasks: int, *, kills: int) -> list[Labeler]:
    engine = open_engine(url)
    try:
        project, tokens = prepare(engine, num_tasks)
        service = Server(folder, url)
        service.start()
        begun = time.monotonic()
        labelers = [Labeler(service.port, project, token) for token in tokens]
        for labeler in labelers:
            labeler.start()
        for number in range(kills):
            while sum(len(labeler.acknowledged) for labeler in labelers) < (number + 1) * num_tasks / (kills + 1):
                assert any(labeler.is_alive() for labeler in labelers), [labeler.failures for labeler in labelers]
                time.sleep(0.05)
            service.kill()
            service.start()
        for labeler in labelers:
            labeler.join()
        seconds = time.monotonic() - begun
        service.kill(signal.SIGTERM)
        check(engine, num_tasks, labelers)
        times = sorted(second for labeler in labelers for second in labeler.seconds)
        retries, p50, p95 = sum(one.retries for one in labelers), times[len(times) // 2], times[len(times) * 95 // 100]
        figures = f"{len(times)} submissions by 8 labelers in {seconds:.0f} s, {kills} kills, {retries} retries"
        print(f"{engine.dialect.name}: {figures}, submit p50 {p50 * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms")  # noqa: T201
        return labelers
    finally:
        engine.dispose()


def test_eight_labelers_share_sixty_tasks_and_survive_a_kill(tmp_path: Path) -> None:
    label_everything(tmp_path, f"sqlite:///{tmp_path}/wuya.db", 60, kills=1)


@pytest.mark.slow
def test_five_thousand_tasks_on_sqlite(tmp_path: Path) -> None:
    label_everything(tmp_path, f"sqlite:///{tmp_path}/wuya.db", NUM_TASKS, kills=3)


NUM_TASKS = int(os.environ.get("WUYA_LABEL_TASKS", "5000"))


@pytest.fixture
def postgres(server: str) -> Iterator[str]:  # noqa: F811
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'wuya[web]')")
    admin = create_engine(server.format(name="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE many"))
    admin.dispose()
    yield server.format(name="many")


@pytest.mark.slow
def test_five_thousand_tasks_on_postgresql(postgres: str, tmp_path: Path) -> None:
    label_everything(tmp_path, postgres, NUM_TASKS, kills=3)
