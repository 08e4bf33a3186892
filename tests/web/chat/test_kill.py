"""The web process is killed in mid-answer and started again: no text that a page has shown is lost, all goes on."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.web.chat.conftest import ok, server_events

SERVER = """
import sys
from pathlib import Path
import uvicorn
from wuya.inference.backends.fake import FakeEngine
from wuya.web.app import create_app
from wuya.web.settings import Settings

place, port, database = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
engine = FakeEngine(script=" ".join(f"word{i}" for i in range(400)), tokens_per_second=60)
app = create_app(Settings(workspace=place, port=port), engine=engine, database=database)
uvicorn.run(app, port=port, log_level="warning")
"""


@contextmanager
def server(place: Path, port: int, database: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", SERVER, str(place), str(port), str(database)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            try:
                if httpx.get(f"http://127.0.0.1:{port}/api/chat/config").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: Path, database: str | Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place, url = tmp_path / "workspace", f"http://127.0.0.1:{port}"
    shown: dict[str, str] = {}
    with server(place, port, database) as process, httpx.Client(base_url=url, timeout=30) as http:
        chats = [ok(http.post("/api/conversations", json={}), 201)["id"] for _ in range(2)]
        answers = [
            ok(http.post(f"/api/conversations/{id}/messages", json={"content": "hello", "generate": {}}), 201)
            for id in chats
        ]
        generation, message = answers[0]["generations"][0]["id"], answers[0]["messages"][0]["id"]
        lines: list[str] = []
        with pytest.raises(httpx.TransportError), http.stream("GET", f"/api/generations/{generation}/events") as stream:
            for line in stream.iter_lines():
                lines.append(line)
                if lines.count("") == 40:
                    os.kill(process.pid, signal.SIGKILL)
        text = ""
        for _, name, data in server_events(lines):
            text = data["text"] if name == "snapshot" else text + data["t"] if name == "delta" else text
        shown[message] = text
        assert len(text.split()) > 10
    with server(place, port, database), httpx.Client(base_url=url, timeout=30) as http:
        for answer in answers:
            found = ok(http.get(f"/api/messages/{answer['messages'][0]['id']}"))
            assert (found["status"], found["error_code"]) == ("error", "engine_lost")
            assert found["content"].startswith(shown.get(found["id"], "word0")), "nothing that was shown is lost"
            assert ok(http.get(f"/api/generations/{answer['generations'][0]['id']}"))["state"] == "failed"
            assert ok(http.get(f"/api/conversations/{found['conversation_id']}"))["generations"] == []
        more = ok(http.post(f"/api/messages/{message}/continue"), 202)
        final = server_events(list(_lines(http, more["generations"][0]["id"])))[-1]
        assert final[1] == "final" and final[2]["message"]["content"].startswith(shown[message])


KILLS = 20


@pytest.mark.slow
def test_killed_again_and_again_while_people_write(tmp_path: Path, database: str | Path) -> None:
    """20 SIGKILLs at random moments: what was answered with 201 is there, what was shown is there, no job hangs."""
    rng = random.Random(0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place, url = tmp_path / "workspace", f"http://127.0.0.1:{port}"
    asked: dict[str, str] = {}
    answers: dict[str, str] = {}
    shown: dict[str, str] = {}
    for round in range(KILLS + 1):
        with server(place, port, database) as process, httpx.Client(base_url=url, timeout=30) as http:
            for id, text in asked.items():
                assert ok(http.get(f"/api/messages/{id}"))["content"] == text
            for id, generation in answers.items():
                found = ok(http.get(f"/api/messages/{id}"))
                assert found["status"] in ("error", "complete") and found["content"].startswith(shown.get(id, ""))
                assert ok(http.get(f"/api/generations/{generation}"))["state"] in ("failed", "done")
            if round == KILLS:
                break
            killer = threading.Timer(rng.uniform(0.02, 1.5), os.kill, (process.pid, signal.SIGKILL))
            killer.start()
            with suppress(httpx.TransportError):
                while True:
                    chat = ok(http.post("/api/conversations", json={}), 201)["id"]
                    first: list[str] = []  # it is written while the others wait for their turn
                    for number in range(3):
                        body = {"content": f"round {round}, {number}: " + "word " * 200, "generate": {}}
                        sent = ok(http.post(f"/api/conversations/{chat}/messages", json=body), 201)
                        asked[sent["message"]["id"]] = body["content"]
                        answers[sent["messages"][0]["id"]] = sent["generations"][0]["id"]
                        first = first or [sent["messages"][0]["id"], sent["generations"][0]["id"]]
                    _watch(http, *first, shown)
            killer.join()
            process.wait(10)
    assert len(asked) > KILLS and any(shown.values())


def _watch(http: httpx.Client, message: str, generation: str, shown: dict[str, str]) -> None:
    """Follow an answer until the server is gone, and keep what a page has of it at every moment."""
    lines: list[str] = []
    with http.stream("GET", f"/api/generations/{generation}/events") as stream:
        for line in stream.iter_lines():
            lines.append(line)
            if not line and "data" in "".join(lines[-3:]):
                text = shown.get(message, "")
                for _, name, data in server_events(lines):
                    text = data["text"] if name == "snapshot" else text + data["t"] if name == "delta" else text
                shown[message] = text
                lines.clear()


def _lines(http: httpx.Client, generation: str) -> Iterator[str]:
    with http.stream("GET", f"/api/generations/{generation}/events") as stream:
        yield from stream.iter_lines()
