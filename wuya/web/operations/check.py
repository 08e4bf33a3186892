"""`wuya serve --check`: is everything there and sound? Starts nothing; says all findings, not only the first."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from wuya.checkpoints.checkpoint import resolve_checkpoint
from wuya.console import say
from wuya.database.connection import check_pages, open_engine, reading
from wuya.errors import RunError, WuyaError
from wuya.files import open_to_others
from wuya.web import audit
from wuya.web.accounts import store
from wuya.web.secret import service_secret

MIN_FREE = 1 << 30


def check(workspace: Path, database: str | Path, models: Mapping[str, str] | None, *, accounts: bool) -> None:
    """Print a line a finding; RunError (exit code 3) if something is wrong. `models` None: another server has them."""
    problems: list[str] = []

    def good(line: str) -> None:
        say(f"ok       {line}")

    def bad(line: str) -> None:
        problems.append(line)
        say(f"problem  {line}")

    secret = b""
    try:
        secret = service_secret(workspace, os.environ)
        good(f"key file in {workspace}")
    except WuyaError as error:
        bad(error.what)
    for alias, place in (models or {}).items():
        try:
            good(f"model {alias}: {resolve_checkpoint(place)}")
        except WuyaError as error:
            bad(f"model {alias}: {error.what}")
    if models is not None and not models:
        bad("no model to serve: name a checkpoint, or make one with `wuya demo`")
    if exposed := open_to_others(workspace, workspace / "wuya.db"):
        bad(f"other accounts of this machine may read {' and '.join(map(str, exposed))}: `chmod -R go= {exposed[0]}`")
    _check_database(database, secret, accounts=accounts, good=good, bad=bad)
    free = shutil.disk_usage(workspace).free
    (good if free > MIN_FREE else bad)(f"{free / 2**30:.1f} GiB free on the disk of {workspace}")
    if problems:
        raise RunError(f"{len(problems)} of the checks failed", hint="see the lines above")


def _check_database(database: str | Path, secret: bytes, *, accounts: bool, good, bad) -> None:  # type: ignore[no-untyped-def]
    try:
        engine = open_engine(database)
    except WuyaError as error:
        bad(error.what)
        return
    try:
        good(f"database {engine.url.render_as_string()}: schema is current")
        check_pages(engine)
        with reading(engine) as connection:
            count, broken = audit.verify(connection, secret)
            if broken is None:
                good(f"audit log: {count} rows, the chain holds")
            else:
                bad(f"audit log: row {broken} was changed after it was written")
            if accounts and not store.has_admin(connection):
                good("no admin yet: the first start prints a setup link")
    except WuyaError as error:
        bad(error.what)
    finally:
        engine.dispose()
