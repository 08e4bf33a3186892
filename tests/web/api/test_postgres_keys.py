"""Keys and the ledger on PostgreSQL."""

import pytest
from sqlalchemy import insert

pytest.importorskip("psycopg", reason="psycopg is not installed")

from tests.database.test_postgres import server, url  # noqa: F401  # fixtures
from wuya.database.connection import open_engine, writing
from wuya.database.labeling_tables import User, now, uuid7
from wuya.web import usage
from wuya.web.api import store
from wuya.web.api.key_text import sha256_of

pytestmark = pytest.mark.slow


def test_a_key_and_its_usage(url: str) -> None:  # noqa: F811
    engine = open_engine(url)
    user = uuid7()
    with writing(engine) as connection:
        connection.execute(insert(User).values(id=user, display_name="ada", role="user"))
    key, secret = store.create_key(engine, user, store.KeySettings(name="k", scopes=("chat",), monthly_tokens=100))
    assert store.find_key(engine, sha256_of(secret)) is not None
    for _ in range(3):
        usage.add_usage(
            engine, day=now().date(), user_id=user, key_id=key.id, model="m", prompt_tokens=5, completion_tokens=2
        )
    [listed] = store.list_keys(engine, user)
    assert (listed.used_tokens, listed.name) == (21, "k")
    [row] = usage.list_usage(engine, user, since=now().date())
    assert (row.requests, row.prompt_tokens, row.key_name) == (3, 15, "k")
    engine.dispose()
