"""A copy of the database while the service runs: `VACUUM INTO` for SQLite; PostgreSQL has pg_dump."""

import os
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine

from wuya.errors import ConfigError
from wuya.files import fsync_folder, make_folder, write_errors


def backup(database: Engine, target: Path) -> Path:
    """Write a whole, consistent copy to a file that does not exist yet; readable by its owner only."""
    if database.dialect.name != "sqlite":
        url = database.url.set(drivername="postgresql", password=None).render_as_string()
        raise ConfigError("PostgreSQL has its own backup", hint=f"`pg_dump --format custom --file {target} {url}`")
    if target.exists():
        raise ConfigError(f"`{target}` exists already", hint="name a new file")
    make_folder(target.parent)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    with write_errors(target):
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            connection = database.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute("VACUUM INTO ?", (str(partial),))
                cursor.close()
            finally:
                connection.close()
            os.replace(partial, target)
            fsync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    return target


def default_name(workspace: Path) -> Path:
    """<workspace>/backups/wuya-20261122-143000.db"""
    return workspace / "backups" / f"wuya-{datetime.now(UTC):%Y%m%d-%H%M%S}.db"
