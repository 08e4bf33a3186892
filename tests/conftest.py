"""What every test gets: one thread per process, no colour, the external data folder or a skip with the reason."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run in parallel, and one thread is deterministic
os.environ["NO_COLOR"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # tests never touch the network
os.environ.pop("WUYA_WORKSPACE", None)
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # subprocesses of tests run this wuya

import pytest

if TYPE_CHECKING:
    from tests.databases import Databases


def pytest_configure(config: pytest.Config) -> None:
    """On PostgreSQL a thread may still hold a connection when its engine is disposed of; sqlite3 never minds."""
    if os.environ.get("WUYA_TEST_DATABASE"):
        config.addinivalue_line("filterwarnings", "ignore:<psycopg:ResourceWarning")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Say what pytest-xdist does not: how a worker died (-9: killed, -15: told to end, -11: a fault in native code)."""
    if error:
        status = node.gateway._io.popen.wait(timeout=30)
        node.config.get_terminal_writer().line(f"\nworker {node.gateway.id} ended with exit status {status}")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with real data sets for the tests that need them: `WUYA_TEST_DATA=/path make test`."""
    folder = os.environ.get("WUYA_TEST_DATA", "")
    if not folder:
        pytest.skip("needs real data: set WUYA_TEST_DATA to the folder that holds hh-rlhf, wikitext-2, ...")
    if not Path(folder).is_dir():
        pytest.fail(f"WUYA_TEST_DATA={folder} is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Databases]":
    """Empty databases, SQLite or PostgreSQL."""
    from tests import databases

    with databases.databases(tmp_path_factory.mktemp("blank")) as found:
        yield found


@pytest.fixture
def database(tmp_path: Path, databases: "Databases") -> "Iterator[str | Path]":
    """An empty one for a test."""
    with databases.new(tmp_path / "wuya.db") as found:
        yield found


@pytest.fixture(autouse=True)
def _own_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of a test (./workspace) lie in its own folder, never in the clone."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_file_beyond() -> Callable[[int], AbstractContextManager[None]]:
    """No file may grow beyond so many bytes: the system then reports what it reports on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
