"""Opening the feedback database: SQLite or PostgreSQL by URL, migrated under a lock, errors in words."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, OperationalError
from sqlalchemy.pool import StaticPool

from wuya.database.labeling_tables import HEAD
from wuya.errors import ConfigError, DataError, RunError, RunLocked
from wuya.files import make_folder

BUSY_SECONDS = 30.0
"""How long a writer waits for another process's transaction before it gives up."""
_MIGRATION_LOCK = 0x77757961  # any number all wuya processes share ("wuya")


def open_engine(url: str | Path) -> Engine:
    """An engine for a database URL, or for the path of an SQLite file; the schema is brought up to date."""
    parsed = _parse(url)
    memory = parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")
    if parsed.get_backend_name() == "sqlite":
        if not memory:
            _make_private_file(Path(parsed.database or ""))
        engine = create_engine(
            parsed, poolclass=StaticPool if memory else None, connect_args={"check_same_thread": False}
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(parsed, pool_pre_ping=True)
    try:
        upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads; writers do not wait for it."""
    with _database_errors(engine.url), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes. On SQLite it takes the write lock at once, so that it never fails half-way for it."""
    with (
        _database_errors(engine.url),
        engine.connect().execution_options(immediate=True) as connection,
        connection.begin(),
    ):
        yield connection


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the missing migrations, one process at a time; a database that is up to date is only looked at."""
    if revision == "head":
        with reading(engine) as connection:
            if _version(connection) == HEAD:
                return
    from alembic import command  # takes a third of a second, and is rarely needed
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        version, known = (
            _version(connection),
            {s.revision for s in ScriptDirectory.from_config(config).walk_revisions()},
        )
        if version is not None and version not in known:
            raise DataError(
                f"`{_shown(engine.url)}` was written by a newer wuya",
                found=f"schema {version}, this wuya knows {HEAD}",
                hint="upgrade wuya: `pip install --upgrade wuya`",
            )
        strangers = set(inspect(connection).get_table_names()) - {"alembic_version"}
        if version is None and strangers:
            raise DataError(
                f"`{_shown(engine.url)}` is not a wuya database",
                found=", ".join(sorted(strangers)[:5]),
                hint="name another file; wuya makes a new one",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _make_private_file(path: Path) -> None:
    """An empty SQLite file for its owner only; the files SQLite puts beside it get the same rights."""
    make_folder(path.parent)
    with suppress(OSError):  # SQLite says better what is wrong
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _version(connection: Connection) -> str | None:
    """The schema's revision, None for a database without ours."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _parse(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("can't read the database URL", found=str(url), hint="sqlite:///workspace/wuya.db") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(
            "wuya keeps its feedback in SQLite or PostgreSQL",
            found=parsed.get_backend_name(),
            hint="sqlite:///workspace/wuya.db or postgresql+psycopg://user@host/wuya",
        )
    return parsed


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Per connection: readers beside a writer, wait for locks, enforce foreign keys, begin when we say."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _shown(url: URL) -> str:
    """The URL without its password, or the plain path of an SQLite file."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


@contextmanager
def _database_errors(url: URL) -> Iterator[None]:
    """What a person can do something about, in words."""
    try:
        yield
    except DatabaseError as error:
        reason = str(error.orig)
        if "locked" in reason:
            raise RunLocked(
                f"`{_shown(url)}` stays locked by another process", found=reason, hint="wait for it, or stop it"
            ) from error
        if "not a database" in reason:
            raise DataError(
                f"`{_shown(url)}` is not an SQLite database", found=reason, hint="name another file"
            ) from error
        if "malformed" in reason:
            raise damaged(url, reason) from error
        if "readonly" in reason or "unable to open" in reason:
            raise RunError(
                f"can't write `{_shown(url)}`",
                found=reason,
                hint="choose a place you may write to (WUYA_WORKSPACE=...)",
            ) from error
        if "full" in reason or "disk I/O error" in reason:  # the latter where a file may not grow any more
            raise RunError(
                f"can't write `{_shown(url)}`", found=reason, hint="free some space and try again"
            ) from error
        if "NUL" in reason:
            raise DataError(
                "PostgreSQL can't keep a text with a NUL character", found=reason.splitlines()[0]
            ) from error
        if isinstance(error, IntegrityError) and ("UNIQUE" in reason or "duplicate key" in reason):
            raise DataError("this name or id is taken already", found=reason.splitlines()[0]) from error
        if isinstance(error, OperationalError) and url.get_backend_name() == "postgresql":
            raise RunError(f"can't reach the database {_shown(url)}", found=reason.splitlines()[0]) from error
        raise
    except (UnicodeDecodeError, json.JSONDecodeError) as error:  # text that this database never wrote
        raise damaged(url, str(error)) from error


def damaged(url: URL, found: str) -> DataError:
    """The refusal of a database whose file was changed by something that is not a database."""
    name = _shown(url)
    return DataError(
        f"the database `{name}` is damaged",
        found=found[:200],
        hint=f"put a backup back (`ls {Path(name).parent / 'backups'}`), or save what can be read: "
        f"`sqlite3 {name} .recover | sqlite3 recovered.db`",
    )


def check_pages(engine: Engine) -> None:
    """Read an SQLite file once and refuse a damaged one; PostgreSQL looks after its own. Raises: DataError."""
    if engine.dialect.name == "sqlite":
        with reading(engine) as connection:
            found = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
        if found != "ok":
            raise damaged(engine.url, found)
