"""A copy made while people chat, a database that is damaged, and the copy put back as docs/guides/serve.md says."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.web import live_site
from tests.web.chat.conftest import ok
from tests.web.live_site import Site, Streams, serving

WUYA = (sys.executable, "-m", "wuya", "serve", "--engine", "fake", "--workspace")


def chats(site: Site, person: int) -> list[tuple[str, list[str]]]:
    """(title, the messages' texts) of each chat."""
    with site.client(person) as http:
        rows = ok(http.get("/api/conversations"))["items"]
        whole = [ok(http.get(f"/api/conversations/{row['id']}")) for row in rows]
        return [(chat["title"], [message["content"] for message in chat["messages"]]) for chat in whole]


def test_a_copy_put_back_has_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, copy = tmp_path / "workspace", tmp_path / "copy.db"
    database = place / "wuya.db"
    with serving(place, database, "--engine", "fake") as site:
        with site.client() as http:
            id = ok(http.post("/api/conversations", json={}), 201)["id"]
            ok(http.post(f"/api/conversations/{id}/messages", json={"content": "hello, crow"}), 201)
        with Streams(site, count=2):
            time.sleep(1)
            subprocess.run([*WUYA, str(place), "--backup", str(copy)], check=True, capture_output=True)
        before = chats(site, 0)
        site.stop()
    monkeypatch.setattr(live_site, "members", lambda _: site.cookies)  # people come back with the cookies they have
    with database.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(20_000))
    refused = subprocess.run([*WUYA, str(place)], capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0 and "is damaged" in refused.stderr and "Traceback" not in refused.stderr
    for file_of_it in place.glob("wuya.db*"):
        file_of_it.unlink()
    shutil.copy(copy, database)
    with serving(place, database, "--engine", "fake") as site:
        assert chats(site, 0) == before and before[0][1] == ["hello, crow"]
        [(_, [asked, answered])] = chats(site, 1)
        words = answered.split()
        assert asked == "go on" and words == [f"word{n}" for n in range(len(words))]
