"""The same store on PostgreSQL: migrated from nothing and from an old revision, same queue, same rows out.

Starts a throw-away server on a socket in the test's own folder; skips where PostgreSQL or psycopg is not installed.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from tests.databases import postgres_server
from wuya.database.connection import open_engine, reading, upgrade
from wuya.database.labeling_tables import Base
from wuya.errors import DataError, RunError
from wuya.feedback.store import FeedbackStore
from wuya.records import Candidate, Comparison, Demonstration, Feedback, Message, Prompt, Ranking

pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'wuya[postgres]')")
pytest.importorskip("wuya.database.service_tables")  # the service's tables live in the same database
pytestmark = pytest.mark.slow  # starting a server takes as long as a hundred other tests


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL prefix of a running server; add a database name."""
    with postgres_server() as found:
        yield found


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """An empty database of the test's own."""
    name = f"db{abs(hash(request.node.name)) % 10**9}"
    engine = create_engine(server.format(name="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.format(name=name)


def prompt(name: str) -> Prompt:
    return Prompt(name, (Message("user", f"question {name} \U0001f426"),), "test", "author")


CANDIDATES = (Candidate("a", (1, 2), "runs/sft", False, 0.7), Candidate("b", model="human"), Candidate("c"))


def test_blank_and_old_databases_are_migrated(url: str) -> None:
    engine = create_engine(url)
    upgrade(engine, "0001")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO users VALUES ('u', 'ann', NULL, 'labeler', 'active', false, now())"))
    engine.dispose()
    engine = open_engine(url)
    with reading(engine) as connection:
        options = {"include_name": lambda name, kind, _: not (kind == "table" and name.startswith("search_index"))}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
        assert connection.execute(text("SELECT display_name FROM users")).scalar() == "ann"
    engine.dispose()


def test_everything_said_comes_out_again(url: str, tmp_path: Path) -> None:
    with FeedbackStore(url) as store:
        given = [
            Ranking(
                prompt("p1"),
                CANDIDATES,
                (2, 1, 2),
                "ann",
                1,
                created_at="2026-01-02T03:04:05+00:00",
                flags={"odd": None},
            ),
            Ranking(prompt("p1"), CANDIDATES, (1, 2, 3), "bob", 1, "simulated", "2026-01-02T03:04:06+00:00"),
        ]
        assert (store.add_rankings(given), store.add_rankings(given)) == (2, 0)
        assert list(store.rankings()) == given
        assert store.add_demonstrations([Demonstration(prompt("p1"), Message("assistant", "answer"), "ann")]) == 1
        assert store.add_comparisons([Comparison(prompt("p2"), "good", "bad", "bob", "g")]) == 1
        thumb = Feedback(prompt("p2"), "bad", -1, ("rude",))
        store.add_feedback(thumb, user="eve")
        assert list(store.feedback()) == [thumb]
        frozen = store.export_snapshot("rm_rankings", tmp_path / "postgres")
        store.register_model("runs/rm", kind="rm", snapshot=frozen, run="rm")
        assert store.lineage("runs/rm")[0]["data_sha256"] == frozen.sha256
    with FeedbackStore("sqlite://") as store:
        store.add_rankings(given)
        assert store.export_snapshot("rm_rankings", tmp_path / "sqlite").sha256 == frozen.sha256


def test_threads_share_a_queue_without_doing_work_twice(url: str) -> None:
    failures: list[BaseException] = []
    with FeedbackStore(url) as store:
        store.queue_tasks([(prompt(f"p{i}"), CANDIDATES) for i in range(30)])
        names = [f"labeler {i}" for i in range(4)]
        for name in names:
            store.add_feedback(Feedback(prompt("hello"), "x", 1), user=name)

        def work(name: str) -> None:
            try:
                while task := store.claim(name):
                    store.submit_ranking(task.assignment_id, task.ranks_by_id([1, 2, 3]))
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test must see it
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        found = [r.prompt.id for r in store.rankings()]
        assert len(found) == len(set(found)) == 30


def test_a_server_that_is_not_there_is_said_in_words(server: str) -> None:
    with pytest.raises(RunError, match="can't reach the database"):
        FeedbackStore(server.format(name="nowhere"))
    with pytest.raises(RunError, match="can't reach") as caught:
        FeedbackStore("postgresql+psycopg://me:secret@127.0.0.1:9/wuya")
    assert "secret" not in str(caught.value)


def test_a_text_that_postgresql_cannot_keep_is_refused_in_words(url: str) -> None:
    with FeedbackStore(url) as store, pytest.raises(DataError, match="NUL character"):
        store.add_rankings([Ranking(prompt("p"), (Candidate("a\0b"), Candidate("c")), (1, 2), "ann")])


def test_records_are_equal_to_what_sqlite_gives(url: str) -> None:
    ranking = Ranking(prompt("p"), CANDIDATES, (1, 1, 1), "ann")
    found = []
    for place in (url, "sqlite://"):
        with FeedbackStore(place) as store:
            store.add_rankings([ranking])
            found.append([replace(r, created_at="") for r in store.rankings()])
    assert found[0] == found[1] == [ranking]
