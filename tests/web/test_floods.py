"""Floods against `wuya serve` while eight people stream answers: nobody loses an event, /healthz answers, memory stays.

Each in a short form here and in the long one that `make test-slow` runs. The figures are those that
docs/guides/serve.md promises.
"""

import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.inference.naive import sharp_model
from tests.web.chat.conftest import ok
from tests.web.chat.test_transfer import node, said
from tests.web.live_site import Health, Site, Streams, allow_descriptors, serving
from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.tokenizer.bpe import train_tokenizer

LOG = logging.getLogger(__name__)
"""The figures: `-o log_cli=true --log-cli-level=info`."""
MIB = 2**20
LONG = pytest.mark.slow

FLOOD = """
import json, sys, threading, time, urllib.error, urllib.request
url, connections, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
end, counts, lock = time.monotonic() + seconds, {}, threading.Lock()
asked = {
    "/api/auth/join": {"email": "eve@example.org", "password": "a password of eve's", "name": "Eve", "token": ""},
    "/api/auth/password/reset": {"token": "x" * 43, "password": "a password of eve's"},
    "/api/auth/login": {"email": "ann@example.org", "password": "a password of eve's"},
}
def flood(number):
    path = list(asked)[number % len(asked)]
    while time.monotonic() < end:
        body, headers = json.dumps(asked[path]).encode(), {"content-type": "application/json"}
        request = urllib.request.Request(url + path, body, headers)
        try:
            status = urllib.request.urlopen(request, timeout=60).status
        except urllib.error.HTTPError as error:
            status = error.code
        with lock:
            counts[status] = counts.get(status, 0) + 1
        time.sleep(0.05)
threads = [threading.Thread(target=flood, args=(n,)) for n in range(connections)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(counts))
"""
"""In a process of its own: what it costs to send must not slow what is measured."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny model with wuya's chat template."""
    tokenizer = train_tokenizer(["the river runs to the sea, and bread is baked " * 4], vocab_size=300)
    save_checkpoint(tmp_path / "good", sharp_model(vocab_size=tokenizer.vocab_size), tokenizer)
    return tmp_path / "good"


def check(site: Site, streams: Streams, health: Health, *, memory: int) -> None:
    """What holds after every flood."""
    LOG.info(
        "%d answers, longest gap %.2f s; /healthz %d times, p95 %.3f s, worst %.3f s; memory +%.0f MiB",
        streams.answers, streams.longest_gap, len(health.seconds), health.p95(), max(health.seconds),
        health.grown() / MIB,
    )  # fmt: skip
    assert streams.answers >= 8
    assert health.p95() < 1
    assert health.grown() < memory
    assert "Traceback" not in site.log(), site.log()
    assert site.stop() == -signal.SIGTERM


@pytest.mark.parametrize(("connections", "seconds"), [(16, 4), pytest.param(48, 30, marks=LONG)])
def test_strangers_at_the_door(tmp_path: Path, database: str | Path, connections: int, seconds: int) -> None:
    """Each hash of a password takes 64 MiB: whoever has no business here costs none, and guesses are braked."""
    with serving(tmp_path / "workspace", database, "--engine", "fake") as site:
        with Streams(site) as streams, Health(site) as health:
            command = [sys.executable, "-c", FLOOD, site.url, str(connections), str(seconds)]
            statuses = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        LOG.info("%s", statuses)
        assert set(statuses) <= {"401", "403", "429"} and statuses["429"] > connections
        check(site, streams, health, memory=160 * MIB)  # two hashes at a time


@pytest.mark.parametrize(("sockets", "descriptors"), [(400, 256), pytest.param(1100, 1024, marks=LONG)])
def test_half_open_connections(tmp_path: Path, database: str | Path, sockets: int, descriptors: int) -> None:
    """More than the server may open files: the silent make room, and the log has a line, not a book."""
    assert allow_descriptors(sockets + 256) > sockets, "raise the hard limit of open files: ulimit -Hn"
    with serving(tmp_path / "workspace", database, "--engine", "fake", descriptors=descriptors) as site:
        with Streams(site) as streams, Health(site) as health, ExitStack() as stack:
            time.sleep(1)
            for _ in range(sockets):
                half = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=30))
                with suppress(OSError):
                    half.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow:")
            time.sleep(5)
        lines = [line for line in site.log().splitlines() if "connections" in line or "descriptor" in line]
        assert len(lines) <= 2, lines
        check(site, streams, health, memory=64 * MIB)


def chat_of(messages: int) -> bytes:
    """A chat of ChatGPT's export with so many messages, each below the one before."""
    places = [f"n{number}" for number in range(messages)]
    roles = ["user", "assistant"] * (messages // 2)
    rows = zip([None, *places], places, roles, strict=False)
    mapping = dict(node(id, before, role, said("some words " * 6)) for before, id, role in rows)
    return json.dumps([{"id": "c", "title": "long", "current_node": places[-1], "mapping": mapping}]).encode()


@pytest.mark.parametrize("messages", [2_000, pytest.param(20_000, marks=LONG)])
def test_a_long_chat_is_imported(tmp_path: Path, database: str | Path, messages: int) -> None:
    """Others go on writing: the streams' questions are written while the chat is."""
    with serving(tmp_path / "workspace", database, "--engine", "fake") as site:
        with Streams(site) as streams, Health(site) as health, site.client(timeout=600) as http:
            began = time.monotonic()
            answer = http.post("/api/import", content=chat_of(messages), headers={"content-type": "application/json"})
            LOG.info("imported in %.1f s", time.monotonic() - began)
            assert answer.status_code == 201 and answer.json()["imported"] == 1, answer.text
            chat = answer.json()["conversations"][0]["id"]
            kept = http.get(f"/api/conversations/{chat}/export", params={"format": "json"})
            assert kept.status_code == 200 and kept.text.count("some words") >= messages
        check(site, streams, health, memory=256 * MIB)


LOOPS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "{{ 'x' * 9999999 | wordwrap(1) }}",
    "{{ ('%0999999999d' % 1) }}",
)
ENDS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=LONG)])
def test_a_model_whose_template_never_ends(
    tmp_path: Path, database: str | Path, checkpoint: Path, seconds: float
) -> None:
    """A model is refused by its own chats alone, in words and soon; the others' answers are written meanwhile."""
    models = [f"good={checkpoint}"]
    for number, template in enumerate(LOOPS):
        folder = tmp_path / f"bad{number}"
        shutil.copytree(checkpoint, folder)
        (folder / "chat_template.jinja").write_text(template + ENDS)
        models.append(f"bad{number}={folder}")
    with serving(tmp_path / "workspace", database, *models) as site:
        waits: list[float] = []
        with Streams(site, model="good", params={"max_tokens": 200}) as streams, Health(site) as health:
            end = time.monotonic() + seconds
            with site.client() as http:
                while time.monotonic() < end or streams.answers < 8:
                    began = time.monotonic()
                    chat = ok(http.post("/api/conversations", json={"model": f"bad{len(waits) % len(LOOPS)}"}), 201)
                    body = {"content": "hello", "generate": {}}
                    answer = http.post(f"/api/conversations/{chat['id']}/messages", json=body)
                    assert 400 <= answer.status_code < 500 and "template" in answer.json()["detail"], answer.text
                    waits.append(time.monotonic() - began)
        LOG.info("%d refusals, the slowest in %.1f s", len(waits), max(waits))
        check(site, streams, health, memory=256 * MIB)
