"""The workspace is its owner's alone, a damaged database and a lost key are refused, long imports let others write."""

import random
import stat
import time
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select
from starlette.testclient import TestClient

from wuya.database.connection import check_pages, open_engine, reading, writing
from wuya.database.service_tables import AuditRow
from wuya.errors import ConfigError, DataError
from wuya.files import make_folder, open_to_others
from wuya.web import audit, serve
from wuya.web.chat import search_store
from wuya.web.service import Service


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_reads_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = tmp_path / "workspace"
    monkeypatch.setenv("WUYA_WORKSPACE", str(workspace))
    make_folder(workspace / "runs" / "sft")
    assert mode(workspace) == 0o700
    engine = open_engine(workspace / "wuya.db")
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE x (y)")
    assert {path.name: mode(path) for path in workspace.glob("wuya.db*")}.items() >= {("wuya.db", 0o600)}
    assert all(mode(path) == 0o600 for path in workspace.glob("wuya.db*"))
    engine.dispose()
    assert open_to_others(workspace, workspace / "wuya.db") == []
    (workspace / "wuya.db").chmod(0o644)
    assert open_to_others(workspace, workspace / "wuya.db") == [workspace / "wuya.db"]


def test_a_damaged_database_is_refused_in_words(tmp_path: Path) -> None:
    open_engine(tmp_path / "wuya.db").dispose()
    whole = (tmp_path / "wuya.db").read_bytes()
    refused = 0
    for seed in range(12):
        draw, bytes_ = random.Random(seed), bytearray(whole)
        for _ in range(200):
            bytes_[draw.randrange(len(bytes_))] ^= 1 << draw.randrange(8)
        for path in tmp_path.glob("wuya.db*"):
            path.unlink()
        (tmp_path / "wuya.db").write_bytes(bytes_)
        try:
            engine = open_engine(tmp_path / "wuya.db")
            try:
                check_pages(engine)
            finally:
                engine.dispose()
        except DataError as error:
            refused += 1
            assert "damaged" in error.what or "not an SQLite database" in error.what
    assert refused >= 10


def test_a_lost_key_is_not_replaced_in_silence(tmp_path: Path, service: Service) -> None:
    with writing(service.database) as connection:
        audit.record(connection, service, "login")
    url = service.database.url.render_as_string(hide_password=False)
    with pytest.raises(ConfigError, match="is missing, and this database"):
        serve.check_database(serve.ServeConfig(workspace=tmp_path / "empty", database=url))
    serve.check_database(serve.ServeConfig(workspace=tmp_path / "empty", database=url, new_key=True))


def test_a_new_key_goes_on_with_the_chain_and_gone_rows_are_noticed(service: Service) -> None:
    old, new = b"the first key of thirty-two bytes", service.settings.secret
    with writing(service.database) as connection:
        audit.record(connection, service, "login")
        audit.record(connection, service, "logout")
        assert audit.verify(connection, new) == (2, None) and audit.verify(connection, old)[1] == 1
        audit.record(connection, service, audit.NEW_KEY)
        audit.record(connection, service, "login")
        assert audit.verify(connection, new) == (4, None)
        connection.execute(delete(AuditRow).where(AuditRow.seq == 4))
        assert audit.verify(connection, new) == (3, 4), "the newest row is gone"


def test_twenty_thousand_messages_come_in_seconds(client: TestClient, service: Service) -> None:
    """Each message's row of the search index was found by reading the whole index: 90 s with the write lock held."""
    messages = [
        {"id": f"m{i}", "parent_id": f"m{i - 1}" if i else None, "role": "assistant" if i % 2 else "user",
         "content": f"raven number {i}"}
        for i in range(20_000)
    ]  # fmt: skip
    chat = {"id": "c", "title": "long", "messages": messages}
    body = {"format": "wuya.conversations", "version": 1, "conversations": [chat]}
    began = time.monotonic()
    answer = client.post("/api/import", json=body)
    assert answer.status_code == 201 and answer.json()["imported"] == 1, answer.text
    assert time.monotonic() - began < 30
    found = client.get("/api/search", params={"q": "raven 19998"}).json()["items"]
    assert len(found) == 1 and found[0]["snippet"]
    id = answer.json()["conversations"][0]["id"]
    assert client.delete(f"/api/conversations/{id}", params={"permanent": True}).status_code == 204
    with reading(service.database) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM search_index").scalar() == 0


def test_an_index_row_is_replaced(service: Service) -> None:
    with writing(service.database) as connection:
        search_store.index_message(connection, "c", "m", "ravens")
        search_store.index_message(connection, "c", "m", "crows")
        search_store.index_messages(connection, "c", {"n": "magpies", "m": "jays"})
        assert connection.exec_driver_sql("SELECT count(*) FROM search_index").scalar() == 2
    with reading(service.database) as connection:
        assert connection.execute(select(func.count()).select_from(AuditRow)).scalar() == 0
