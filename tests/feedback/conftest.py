"""A store of its own for every test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from wuya.feedback.database import open_engine, writing
from wuya.feedback.store import FeedbackStore


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated database to copy: migrating one for each test would take longer than the tests."""
    path = tmp_path_factory.mktemp("blank") / "wuya.db"
    FeedbackStore(path).close()
    return path


@pytest.fixture
def store(tmp_path: Path, blank: Path) -> Iterator[FeedbackStore]:
    shutil.copy(blank, tmp_path / "wuya.db")
    with FeedbackStore(tmp_path / "wuya.db") as store:
        yield store


@pytest.fixture
def engine(tmp_path: Path, blank: Path) -> Iterator[Engine]:
    shutil.copy(blank, tmp_path / "wuya.db")
    engine = open_engine(tmp_path / "wuya.db")
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with writing(engine) as connection:
        yield connection
