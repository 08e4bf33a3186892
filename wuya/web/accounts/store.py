"""People in the database: users, sessions, one-time links. Queries only; who may do what is in `auth`."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, insert, or_, select, update
from sqlalchemy.orm import aliased

from wuya.database.labeling_tables import DemonstrationRow, User, now, uuid7
from wuya.database.service_tables import ApiKey, Conversation, Identity, OneTimeToken, ServiceSetting, Session
from wuya.web import consent
from wuya.web.errors import ApiError

IDLE = timedelta(days=14)
ABSOLUTE = timedelta(days=90)
TOUCH = timedelta(minutes=5)
LINK_LIFE = {"setup": timedelta(minutes=30), "reset": timedelta(minutes=30), "invite": timedelta(days=7)}
EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,180}")


def sha256(secret: str) -> str:
    """What is kept of a secret with 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


# ---- users


def ensure_single_user(connection: Connection, name: str) -> str:
    """The id of the laptop's only user, made on the first start."""
    found = connection.execute(select(User.id).where(User.display_name == name)).scalar()
    if found is None:
        found = uuid7()
        connection.execute(insert(User).values(id=found, display_name=name, role="admin"))
    return str(found)


def user(connection: Connection, id: str, *, lock: bool = False) -> RowMapping | None:
    """A user by id; `lock` the row against other writers."""
    query = select(User.__table__).where(User.id == id)
    return connection.execute(query.with_for_update() if lock else query).mappings().first()


def user_by_email(connection: Connection, email: str) -> RowMapping | None:
    """A user by address, in any case."""
    wanted = select(User.__table__).where(User.email_ci == email.strip().lower())
    return connection.execute(wanted).mappings().first()


def has_admin(connection: Connection) -> bool:
    """Whether somebody can sign in and rule; if not, the setup link is open."""
    admins = select(func.count()).where(User.role == "admin", User.status == "active", User.password_hash.is_not(None))
    return bool(connection.execute(admins).scalar_one())


def lock_admins(connection: Connection) -> set[str]:
    """Ids of those who can sign in and rule; two of them can't go at the same moment."""
    admins = (User.role == "admin", User.status == "active", User.password_hash.is_not(None))
    return set(connection.execute(select(User.id).where(*admins).order_by(User.id).with_for_update()).scalars())


def add_user(connection: Connection, *, email: str, name: str, password_hash: str | None, role: str) -> str:
    """A new person; the id. A taken display name gets a number."""
    email = email.strip().lower()
    if not EMAIL.fullmatch(email):
        raise ApiError(422, "invalid_email", "that is not an e-mail address", param="email")
    if user_by_email(connection, email):
        raise ApiError(409, "email_taken", "there is an account with this address", param="email")
    name, id = clean_name(name) or email.partition("@")[0], uuid7()
    values = {
        "email_ci": email,
        "password_hash": password_hash,
        "role": role,
        "display_name": free_name(connection, name),
    }
    connection.execute(insert(User).values(id=id, **values))
    return id


def clean_name(name: str) -> str:
    """A display name without control characters, bidirectional marks and surplus spaces; at most 60 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:60]


def free_name(connection: Connection, name: str) -> str:
    """The name, with a number if somebody else has it."""
    taken = set(connection.execute(select(User.display_name).where(User.display_name.startswith(name))).scalars())
    return next(n for i in range(1, len(taken) + 2) if (n := name if i == 1 else f"{name} {i}") not in taken)


def users(connection: Connection, *, search: str = "", limit: int = 200) -> Sequence[RowMapping]:
    """People, newest first; simulated labelers are no people."""
    query = select(User.__table__).where(User.is_simulated.is_(False)).order_by(User.id.desc()).limit(limit)
    if search:
        pattern = "%" + search.lower().replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%"
        named = func.lower(User.display_name).like(pattern, escape="\\")
        query = query.where(or_(User.email_ci.like(pattern, escape="\\"), named))
    return connection.execute(query).mappings().all()


def change_user(connection: Connection, id: str, **values: Any) -> None:
    """Set columns of a user."""
    connection.execute(update(User).where(User.id == id).values(**values))


def anonymise(connection: Connection, id: str) -> None:
    """Delete a person: what names them is cleared, chats go to the trash, labels stay without a name."""
    row = user(connection, id)
    if row is None:
        return
    nobody = f"deleted-{sha256(id)[:8]}"
    authored = update(DemonstrationRow).where(DemonstrationRow.author == row["display_name"])
    connection.execute(authored.values(author=nobody))
    cleared: dict[str, Any] = {
        "email_ci": None,
        "password_hash": None,
        "totp_secret_enc": None,
        "locale": "",
        "theme": "",
        "prefs": {},
    }
    change_user(connection, id, status="deleted", display_name=nobody, data_use=False, **cleared)
    end_sessions(connection, id)
    connection.execute(delete(Identity).where(Identity.user_id == id))
    mine = update(ApiKey).where(ApiKey.user_id == id, ApiKey.revoked_at.is_(None))
    connection.execute(mine.values(revoked_at=now()))
    consent.withdraw_person(connection, id)
    chats = update(Conversation).where(Conversation.user_id == id, Conversation.deleted_at.is_(None))
    connection.execute(chats.values(deleted_at=now(), data_use=False))


# ---- sessions


def start_session(connection: Connection, user_id: str, *, ip_prefix: str, ua: str) -> str:
    """Sign a browser in; the cookie's value."""
    token, at = secrets.token_urlsafe(32), now()
    named = {"user_id": user_id, "ip_prefix": ip_prefix, "ua": clean_name(ua[:200])}
    times = {"created_at": at, "last_used_at": at, "expires_at": at + ABSOLUTE}
    connection.execute(insert(Session).values(id=uuid7(), token_sha256=sha256(token), **named, **times))
    change_user(connection, user_id, last_seen_at=at)
    return token


def session_user(connection: Connection, token: str) -> RowMapping | None:
    """The user of a cookie, with `session_id` and `touch`: whether the session's last use should be noted."""
    query = (
        select(User.__table__, Session.id.label("session_id"), Session.last_used_at)
        .join(Session, Session.user_id == User.id)
        .where(Session.token_sha256 == sha256(token), Session.revoked_at.is_(None), User.status == "active")
        .where(Session.expires_at > now(), Session.last_used_at > now() - IDLE)
    )
    return connection.execute(query).mappings().first()


def touch_session(connection: Connection, session_id: str, user_id: str) -> None:
    """Note that a session was used."""
    connection.execute(update(Session).where(Session.id == session_id).values(last_used_at=now()))
    change_user(connection, user_id, last_seen_at=now())


def sessions(connection: Connection, user_id: str) -> Sequence[RowMapping]:
    """Browsers that are signed in, the last used first."""
    query = select(Session.__table__).where(Session.user_id == user_id, Session.revoked_at.is_(None))
    query = query.where(Session.expires_at > now(), Session.last_used_at > now() - IDLE)
    return connection.execute(query.order_by(Session.last_used_at.desc()).limit(100)).mappings().all()


def session_began(connection: Connection, session_id: str) -> datetime | None:
    """When a browser signed in."""
    return connection.execute(select(Session.created_at).where(Session.id == session_id)).scalar()


def signed_in_from(connection: Connection, user_id: str, ip_prefix: str) -> bool:
    """Whether a session of the user was ever started from a network."""
    found = select(Session.id).where(Session.user_id == user_id, Session.ip_prefix == ip_prefix).limit(1)
    return connection.execute(found).first() is not None


def end_sessions(connection: Connection, user_id: str, *, session_id: str = "", but: str = "") -> int:
    """Sign out one browser, or all of a user but one; how many."""
    query = update(Session).where(Session.user_id == user_id, Session.revoked_at.is_(None))
    if session_id:
        query = query.where(Session.id == session_id)
    if but:
        query = query.where(Session.id != but)
    return connection.execute(query.values(revoked_at=now())).rowcount


def key_user(connection: Connection, secret: str) -> RowMapping | None:
    """The user of an API key, with the key's `scopes`."""
    query = (
        select(User.__table__, ApiKey.scopes, ApiKey.id.label("key_id"))
        .join(ApiKey, ApiKey.user_id == User.id)
        .where(ApiKey.secret_sha256 == sha256(secret), ApiKey.revoked_at.is_(None), User.status == "active")
        .where(or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now()))
    )
    return connection.execute(query).mappings().first()


# ---- links that work once


def make_link_token(
    connection: Connection,
    kind: str,
    *,
    user_id: str | None = None,
    role: str | None = None,
    email: str = "",
    created_by: str | None = None,
) -> tuple[str, datetime]:
    """A secret for a setup, invitation or reset link, and when it ends. A newer reset or setup ends the older."""
    token, expires = secrets.token_urlsafe(32), now() + LINK_LIFE[kind]
    if kind != "invite":
        older = update(OneTimeToken).where(OneTimeToken.kind == kind, OneTimeToken.used_at.is_(None))
        connection.execute(older.where(OneTimeToken.user_id == user_id).values(used_at=now()))
    named = {"user_id": user_id, "role": role, "email_ci": email.strip().lower() or None, "created_by": created_by}
    row = {"id": uuid7(), "kind": kind, "token_sha256": sha256(token), "expires_at": expires}
    connection.execute(insert(OneTimeToken).values(**row, **named))
    return token, expires


def _alive() -> tuple[ColumnElement[bool], ...]:
    """A link works while it is unused, its time is not over, and whoever made it is still an active admin."""
    giver = aliased(User)
    allowed = select(giver.id).where(giver.id == OneTimeToken.created_by, giver.role == "admin")
    by_an_admin = or_(OneTimeToken.kind == "setup", allowed.where(giver.status == "active").exists())
    return OneTimeToken.used_at.is_(None), OneTimeToken.expires_at > now(), by_an_admin


def link_token(connection: Connection, kind: str, token: str) -> RowMapping:
    """Look at a link without using it. Raises: ApiError 403 where it does not work (any more)."""
    wanted = (OneTimeToken.kind == kind, OneTimeToken.token_sha256 == sha256(token))
    row = connection.execute(select(OneTimeToken.__table__).where(*wanted, *_alive())).mappings().first()
    if row is None:
        raise ApiError(403, "link_over", "this link was used before, or it works no more; ask for a new one")
    return row


def use_link_token(connection: Connection, kind: str, token: str) -> RowMapping:
    """Take a link's secret; it never works again."""
    row = link_token(connection, kind, token)
    used = update(OneTimeToken).where(OneTimeToken.id == row["id"], OneTimeToken.used_at.is_(None))
    if connection.execute(used.values(used_at=now())).rowcount != 1:
        raise ApiError(403, "link_over", "this link was used before, or it works no more; ask for a new one")
    return row


def open_invitations(connection: Connection) -> Sequence[RowMapping]:
    """Invitations that nobody took yet."""
    query = select(OneTimeToken.__table__).where(OneTimeToken.kind == "invite", *_alive())
    return connection.execute(query).mappings().all()


def revoke_links(connection: Connection, *, id: str = "", created_by: str = "") -> int:
    """End one open invitation, or all links that a person made; how many."""
    query = update(OneTimeToken).where(OneTimeToken.used_at.is_(None), OneTimeToken.kind.in_(("invite", "reset")))
    which = OneTimeToken.created_by == created_by if created_by else OneTimeToken.id == id
    return connection.execute(query.where(which).values(used_at=now())).rowcount


def use_invitation_for(connection: Connection, email: str) -> str | None:
    """Take the newest open invitation that is bound to an address which is proved; its role."""
    bound = (OneTimeToken.kind == "invite", OneTimeToken.email_ci == email)
    query = select(OneTimeToken.id, OneTimeToken.role).where(*bound, *_alive()).order_by(OneTimeToken.id.desc())
    row = connection.execute(query.limit(1).with_for_update()).first()
    if row is None:
        return None
    connection.execute(update(OneTimeToken).where(OneTimeToken.id == row.id).values(used_at=now()))
    return row.role or "user"


# ---- accounts at an OpenID provider


def user_of_identity(connection: Connection, issuer: str, subject: str) -> RowMapping | None:
    """The user who is this person at the provider."""
    query = select(User.__table__).join(Identity, Identity.user_id == User.id)
    return connection.execute(query.where(Identity.issuer == issuer, Identity.subject == subject)).mappings().first()


def has_identity(connection: Connection, user_id: str, issuer: str) -> bool:
    """Whether a user is already somebody at the provider."""
    query = select(func.count()).where(Identity.user_id == user_id, Identity.issuer == issuer)
    return bool(connection.execute(query).scalar_one())


def add_identity(connection: Connection, user_id: str, issuer: str, subject: str) -> None:
    """From now on this person at the provider is this user."""
    connection.execute(insert(Identity).values(id=uuid7(), user_id=user_id, issuer=issuer, subject=subject))


# ---- settings of the service


def setting(connection: Connection, key: str, default: Any) -> Any:
    """What an admin chose."""
    found = connection.execute(select(ServiceSetting.value).where(ServiceSetting.key == key)).scalar()
    return default if found is None else found["value"]


def set_setting(connection: Connection, key: str, value: Any) -> None:
    """Choose."""
    row = {"value": {"value": value}, "updated_at": now()}
    if not connection.execute(update(ServiceSetting).where(ServiceSetting.key == key).values(**row)).rowcount:
        connection.execute(insert(ServiceSetting).values(key=key, **row))
