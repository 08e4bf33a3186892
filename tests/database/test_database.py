"""Opening the database: migrated under a lock, from nothing and from old files; clear errors for what is not ours."""

import multiprocessing
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, insert, inspect, text

from wuya.database import connection as database
from wuya.database.connection import open_engine, reading, upgrade, writing
from wuya.database.labeling_tables import HEAD, Base, User, uuid7
from wuya.errors import ConfigError, DataError, RunError
from wuya.feedback.store import FeedbackStore

pytest.importorskip("wuya.database.service_tables")  # the service's tables live in the same database

MIGRATIONS = Path(database.__file__).parent / "migrations"


def difference(connection: Connection) -> list[Any]:
    """What the tables of the code and of the database do not share. The search index is no table of SQLAlchemy's."""
    options = {"include_name": lambda name, kind, _: not (kind == "table" and name.startswith("search_index"))}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))


def table_names(connection: Connection) -> set[str]:
    return {name for name in inspect(connection).get_table_names() if not name.startswith("search_index")}


def test_a_blank_file_is_migrated_to_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "new" / "wuya.db")
    with reading(engine) as connection:
        assert difference(connection) == []
        assert table_names(connection) == {*Base.metadata.tables, "alembic_version"}
    engine.dispose()


def test_head_names_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_an_old_file_is_migrated_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((Path(__file__).parent / "old_0001.sql").read_text(encoding="utf-8"))
    connection.close()
    with FeedbackStore(path) as store:
        [found] = store.rankings()
        assert (found.prompt.id, found.ranks, found.labeler) == ("p1", (2, 1), "ann")
        assert found.candidates[0].model == "runs/sft"
        assert store.counts()["message_feedback"] == 0, "tables of later migrations are there"
        assert store.add_rankings([found]) == 0, "and it knows what it knew"


def test_every_migration_can_be_undone(tmp_path: Path) -> None:
    from alembic import command

    engine = open_engine(tmp_path / "wuya.db")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with reading(engine) as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    upgrade(engine)
    with reading(engine) as connection:
        assert difference(connection) == []
    engine.dispose()


def _open_and_count(path: str, results: "multiprocessing.Queue[int]") -> None:
    with FeedbackStore(path) as store:
        results.put(len(store.counts()))


def test_processes_that_open_a_new_file_together_migrate_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_open_and_count, args=(str(tmp_path / "wuya.db"), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [results.get(timeout=5) for _ in workers] == [len(Base.metadata.tables)] * 2


def test_sqlite_is_set_up_for_many_readers_and_one_patient_writer(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "wuya.db")
    with reading(engine) as connection:
        found = {
            p: connection.execute(text(f"PRAGMA {p}")).scalar()
            for p in ("journal_mode", "busy_timeout", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "busy_timeout": 30_000, "foreign_keys": 1}
    engine.dispose()


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "wuya.db")
    with writing(engine) as writer:
        writer.execute(insert(User).values(id="u", display_name="ann"))
        with reading(engine) as reader:
            assert reader.execute(text("SELECT count(*) FROM users")).scalar() == 0
    with reading(engine) as reader:
        assert reader.execute(text("SELECT count(*) FROM users")).scalar() == 1
    engine.dispose()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "wuya.db")
    with pytest.raises(ZeroDivisionError), writing(engine) as writer:
        writer.execute(insert(User).values(id="u", display_name="ann"))
        raise ZeroDivisionError
    with reading(engine) as reader:
        assert reader.execute(text("SELECT count(*) FROM users")).scalar() == 0
    engine.dispose()


def test_a_database_of_a_newer_wuya_is_refused(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "wuya.db")
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DataError, match="newer wuya"):
        FeedbackStore(tmp_path / "wuya.db")


def test_a_foreign_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "foreign.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (id)")
    connection.close()
    with pytest.raises(DataError, match="not a wuya database"):
        FeedbackStore(path)
    engine = create_engine(f"sqlite:///{path}")
    assert inspect(engine).get_table_names() == ["recipes"]
    engine.dispose()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("dear diary\n" * 100)
    with pytest.raises(DataError, match="not an SQLite database"):
        FeedbackStore(path)
    assert path.read_text().startswith("dear diary")


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite+nonsense://:::", "nonsense://"])
def test_other_databases_are_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///workspace"):
        FeedbackStore(url)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_said_in_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match=r"can't write|cannot"):
            FeedbackStore(tmp_path / "wuya.db")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_in_the_way_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't write"):
        FeedbackStore(tmp_path)


def test_a_store_in_memory_works(tmp_path: Path) -> None:
    with FeedbackStore("sqlite://") as store:
        assert store.counts()["users"] == 0


def test_ids_ascend_and_carry_the_version() -> None:
    ids = [uuid7() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert {id[14] for id in ids} == {"7"} and {id[19] for id in ids} <= set("89ab")
