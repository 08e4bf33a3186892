"""A store of its own for every test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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
