"""An empty, migrated database for every test: a copy of an SQLite file, or of a template database on PostgreSQL.

`WUYA_TEST_DATABASE=postgresql` starts a throw-away server (each worker of pytest-xdist its own). A URL instead names a
database on a server that runs; tests make theirs beside it. Nothing set: SQLite.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url

from wuya.database.connection import open_engine


@contextmanager
def databases(folder: Path) -> Iterator["Databases"]:
    """Where tests get databases, of the kind that WUYA_TEST_DATABASE says; `folder` is for the file to copy."""
    chosen = os.environ.get("WUYA_TEST_DATABASE", "")
    if not chosen:
        blank = folder / "blank.db"
        open_engine(blank).dispose()
        yield Databases(blank)
    elif "://" in chosen:
        with _template(chosen) as found:
            yield found
    else:
        with postgres_server() as url, _template(url.format(name="postgres")) as found:
            yield found


class Databases:
    """Makes databases for tests."""

    def __init__(self, blank: Path | None = None, *, server: Engine | None = None, template: str = "") -> None:
        self._blank, self._server, self._template = blank, server, template

    @contextmanager
    def new(self, path: Path) -> Iterator[str | Path]:
        """One with nothing in it: the SQLite file `path`, or on PostgreSQL any."""
        if self._server is None:
            assert self._blank is not None
            shutil.copy(self._blank, path)
            yield path
            return
        name = f"wuya_test_{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        try:
            yield _named(self._server, name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        assert self._server is not None
        with self._server.connect() as connection:
            connection.exec_driver_sql(statement)


@contextmanager
def postgres_server() -> Iterator[str]:
    """A server on a socket in a folder of its own: a URL with `{name}` where the database's name goes."""
    folder = _programs()
    if folder is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    if user and user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("running as root, and there is no user `postgres` to run the server")
    place = Path(tempfile.mkdtemp(prefix="wuya-pg-"))
    if user:
        shutil.chown(place, user)

    def call(program: str, *arguments: str) -> None:
        command = [str(folder / program), "-D", str(place / "data"), *arguments]
        subprocess.run(command, user=user, cwd=place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    try:
        call("initdb", "-U", "wuya", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-k {place} -c listen_addresses='' -c fsync=off -c synchronous_commit=off -c max_connections=300"
        call("pg_ctl", "-w", "-t", "300", "-o", options, "-l", str(place / "log"), "start")
        try:
            yield f"postgresql+psycopg://wuya@/{{name}}?host={place}"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _programs() -> Path | None:
    """The folder with initdb and pg_ctl."""
    folders = [Path(found).resolve().parent for found in (shutil.which("pg_ctl"),) if found]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


@contextmanager
def _template(url: str) -> Iterator[Databases]:
    """Migrated once; making a copy of it takes a tenth of that."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'wuya[postgres]')")
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with Databases(server=server, template="template0").new(Path()) as template:
        open_engine(template).dispose()
        yield Databases(server=server, template=str(make_url(str(template)).database))
    server.dispose()


def _named(server: Engine, database: str) -> str:
    return server.url.set(database=database).render_as_string(hide_password=False)
