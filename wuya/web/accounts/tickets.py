"""What a browser carries through a sign-in at another place: signed with the service's key, short-lived, spent once.

    ticket = seal(key, "oidc", {"id": new_id(), "next": "/chat"})   # into an HttpOnly cookie
    body = opened(key, "oidc", ticket)                              # None: forged, for something else, or too old
    spend(connection, body["id"])                                   # False: it was spent before

Beginning writes nothing to the database, so nobody can fill it from outside; spending leaves a row until the time is
over. `derived` gives secrets that belong to a ticket (state, nonce, PKCE verifier) without being in it.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, delete
from sqlalchemy.dialects import postgresql, sqlite

from wuya.database.labeling_tables import now, uuid7
from wuya.database.service_tables import OneTimeToken
from wuya.web.accounts.store import sha256

LIFE_SECONDS = 600
KIND = "oidc"
"""Of the rows of spent tickets."""


def new_id() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def derived(key: bytes, purpose: str, id: str) -> str:
    """A secret of a ticket: 43 URL-safe characters that only the service can know."""
    digest = hmac.new(key, f"ticket {purpose}\0{id}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def seal(key: bytes, purpose: str, body: Mapping[str, str], *, seconds: int = LIFE_SECONDS) -> str:
    """The body with its end, signed; readable, so it holds no secrets of ours."""
    text = json.dumps({**body, "until": int(time.time()) + seconds})
    packed = base64.urlsafe_b64encode(text.encode()).decode()
    return f"{packed}.{derived(key, purpose + ' seal', packed)}"


def opened(key: bytes, purpose: str, ticket: str) -> dict[str, str] | None:
    """Inverse of `seal`."""
    packed, _, mark = ticket.partition(".")
    if not hmac.compare_digest(derived(key, purpose + " seal", packed).encode(), mark.encode("utf-8", "replace")):
        return None
    body: dict[str, str] = json.loads(base64.urlsafe_b64decode(packed))
    return body if float(body["until"]) > time.time() else None


def spend(connection: Connection, body: Mapping[str, str]) -> bool:
    """Take a ticket; it never works again. Rows of tickets whose time is over go."""
    gone = delete(OneTimeToken).where(OneTimeToken.kind == KIND, OneTimeToken.expires_at < now())
    connection.execute(gone)
    until = datetime.fromtimestamp(float(body["until"]), UTC)
    row = {"id": uuid7(), "kind": KIND, "token_sha256": sha256(body["id"]), "expires_at": until, "used_at": now()}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    added = connection.execute(
        dialect.insert(OneTimeToken).values(**row).on_conflict_do_nothing().returning(OneTimeToken.id)
    )
    return added.first() is not None
