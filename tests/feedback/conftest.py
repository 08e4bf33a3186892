"""A store of its own for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from wuya.database.connection import open_engine, writing
from wuya.feedback.store import FeedbackStore


@pytest.fixture
def store(database: str | Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(database) as store:
        yield store


@pytest.fixture
def engine(database: str | Path) -> Iterator[Engine]:
    engine = open_engine(database)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with writing(engine) as connection:
        yield connection
