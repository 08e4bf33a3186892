"""Signing in and out, setting up, joining, resetting: what both the forms and `/api/auth` call."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping
from starlette.requests import Request
from starlette.responses import Response

from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import now
from wuya.web import audit
from wuya.web.accounts import passwords, store, totp
from wuya.web.accounts.auth import Viewer, cookie_name, ip_prefix, viewer_of_row
from wuya.web.accounts.throttle import AddressBrake, LoginThrottle
from wuya.web.errors import ApiError
from wuya.web.operations.metrics import metrics_of
from wuya.web.service import Service, service_of

SIGN_UP_MODES = ("closed", "invite", "open")
FRESH = timedelta(minutes=10)
"""How long ago a session may have begun to stand for a password that an account does not have."""


def throttle_of(service: Service) -> LoginThrottle:
    """The service's throttle."""
    if LoginThrottle not in service.parts:
        service.put(LoginThrottle(service.database))
    return service.get(LoginThrottle)


def brake(request: Request) -> None:
    """Slow a network down before its request costs a hash or a write. Raises: ApiError 429."""
    service = service_of(request)
    if AddressBrake not in service.parts:
        service.put(AddressBrake())
    wait = service.get(AddressBrake).wait(ip_prefix(request))
    if wait > 0:
        raise ApiError(429, "too_many_requests", "too many requests from your network; wait a little", retry_after=wait)


def need_accounts(service: Service) -> None:
    """Refuse where there is a single user."""
    if not service.settings.accounts:
        raise ApiError(404, "no_accounts", "this service has a single user; start it with --accounts for more")


def sign_in(request: Request, email: str, password: str, code: str = "") -> str:
    """Check a password and, where there is one, the second factor; the new session's cookie."""
    return start(request, check_password(request, email, password, code), "login")


def check_password(request: Request, email: str, password: str, code: str) -> str:
    """Whose password, and second factor where there is one, it is.

    The same words and time for a wrong address and a wrong password.
    """
    service = service_of(request)
    need_accounts(service)
    brake(request)
    throttle, network = throttle_of(service), ip_prefix(request)
    email = email.strip().lower()[:250]
    with reading(service.database) as connection:
        row = store.user_by_email(connection, email)
        known = row is not None and store.signed_in_from(connection, row["id"], network)
    wait = throttle.enter(email, network, known=known)
    if wait > 0:
        raise ApiError(429, "too_many_logins", "too many wrong passwords; wait a little", retry_after=wait)
    right = passwords.matches(row["password_hash"] if row else None, password)
    if not right or row is None or row["status"] != "active":
        metrics_of(service).login_failures.inc()
        raise ApiError(401, "wrong_password", "the address or the password is wrong")
    if row["totp_secret_enc"] and not code:
        throttle.undecided(email, network, known=known)
        raise ApiError(401, "code_needed", "type the six digits that your authenticator app shows", param="code")
    if row["totp_secret_enc"] and not _use_code(service, row["id"], code):
        metrics_of(service).login_failures.inc()
        raise ApiError(401, "wrong_code", "the six digits are wrong, or were used before", param="code")
    throttle.succeeded(email, network, known=known)
    return str(row["id"])


def check_code(request: Request, user_id: str, code: str, *, status: int = 401) -> None:
    """Check a second factor alone: the first one was proved elsewhere. Raises: ApiError `status`, 429."""
    if not _guessed(request, user_id, code):
        metrics_of(service_of(request)).login_failures.inc()
        raise ApiError(status, "wrong_code", "the six digits are wrong, or were used before", param="code")


def _guessed(request: Request, user_id: str, code: str) -> bool:
    """Whether a code is right. Each wrong one counts: six digits fall to a million tries. Raises: ApiError 429."""
    service = service_of(request)
    throttle, network = throttle_of(service), ip_prefix(request)
    wait = throttle.enter(f"code {user_id}", network)
    if wait > 0:
        raise ApiError(429, "too_many_logins", "too many wrong codes; wait a little", retry_after=wait)
    if not _use_code(service, user_id, code):
        return False
    throttle.succeeded(f"code {user_id}", network)
    return True


def _use_code(service: Service, user_id: str, code: str) -> bool:
    """Whether a code is right; then it never is again."""
    with writing(service.database) as connection:
        row = store.user(connection, user_id, lock=True)
        factor = totp.unseal(row["totp_secret_enc"] or "", service.settings.secret) if row else None
        used = totp.accepted(factor, code) if factor else None
        if used is not None:
            store.change_user(connection, user_id, totp_secret_enc=totp.seal(used, service.settings.secret))
        return used is not None


def enable_totp(request: Request, viewer: Viewer, secret: str, code: str, *, password: str, old_code: str) -> None:
    """Switch the second factor on, or replace it, once the person's app shows the right digits.

    A browser that was left open is not enough: it takes the password (without one, a session that began minutes ago)
    and, to replace a factor, a code of the one it replaces.
    """
    service = service_of(request)
    need_accounts(service)
    known = totp.read_secret(secret)
    used = totp.accepted(totp.Factor(known), code) if known else None
    if used is None:
        raise ApiError(422, "wrong_code", "the six digits are wrong; is the phone's clock right?", param="code")
    row = _step_up(request, viewer, password)
    if row["totp_secret_enc"] and not _guessed(request, viewer.user_id, old_code):
        message = "type a code of the authenticator that is set up now, or ask an admin for a reset link"
        raise ApiError(403, "wrong_old_code", message, param="old_code")
    with writing(service.database) as connection:
        store.change_user(connection, viewer.user_id, totp_secret_enc=totp.seal(used, service.settings.secret))
        store.end_sessions(connection, viewer.user_id, but=viewer.session_id)
        audit.record(connection, service, "totp.enable", viewer=viewer, request=request)


def _step_up(request: Request, viewer: Viewer, password: str) -> RowMapping:
    """The user's row, after the password or, for accounts without one, a sign-in of the last ten minutes."""
    service = service_of(request)
    with reading(service.database) as connection:
        row = store.user(connection, viewer.user_id)
        began = store.session_began(connection, viewer.session_id)
    if row is not None and row["password_hash"] is None:
        if began is None or began < now() - FRESH:
            raise ApiError(403, "sign_in_again", "sign out and in again, then try once more", param="password")
        return row
    return _confirm_password(request, viewer, password)


def disable_totp(request: Request, viewer: Viewer, password: str, code: str) -> None:
    """Switch the second factor off; this takes what replacing it takes, or a thief would switch it off and on again."""
    service = service_of(request)
    need_accounts(service)
    row = _step_up(request, viewer, password)
    if row["totp_secret_enc"]:
        check_code(request, viewer.user_id, code, status=403)
    with writing(service.database) as connection:
        store.change_user(connection, viewer.user_id, totp_secret_enc=None)
        audit.record(connection, service, "totp.disable", viewer=viewer, request=request)


def _confirm_password(request: Request, viewer: Viewer, password: str) -> RowMapping:
    """The user's row, if this is the password. Raises: ApiError 403, 429."""
    service = service_of(request)
    throttle, network = throttle_of(service), ip_prefix(request)
    wait = throttle.enter(viewer.user_id, network)
    if wait > 0:
        raise ApiError(429, "too_many_logins", "too many wrong passwords; wait a little", retry_after=wait)
    with reading(service.database) as connection:
        row = store.user(connection, viewer.user_id)
    if row is None or not passwords.matches(row["password_hash"], password):
        raise ApiError(403, "wrong_password", "the password is wrong", param="old")
    throttle.succeeded(viewer.user_id, network)
    return row


def start(request: Request, user_id: str, action: str, diff: Mapping[str, Any] | None = None) -> str:
    """Sign a person in: a new session, the one before is ended; its cookie. `action` is for the audit log."""
    service = service_of(request)
    with writing(service.database) as connection:
        end_current(request, connection)
        row = store.user(connection, user_id)
        assert row is not None
        audit.record(connection, service, action, viewer=viewer_of_row(row), request=request, diff=diff)
        ua = request.headers.get("user-agent", "")
        return store.start_session(connection, user_id, ip_prefix=ip_prefix(request), ua=ua)


def end_current(request: Request, connection: Any) -> None:
    """Sign out the session that the request came with: a cookie from before a login never outlives it."""
    token = request.cookies.get(cookie_name(service_of(request)), "")
    row = store.session_user(connection, token) if token else None
    if row:
        store.end_sessions(connection, row["id"], session_id=row["session_id"])


def set_cookie(request: Request, response: Response, token: str) -> None:
    """Give the browser its session."""
    service = service_of(request)
    age = int(store.ABSOLUTE.total_seconds())
    https = service.settings.https
    path = "/" if https else service.settings.root_path or "/"
    name = cookie_name(service)
    response.set_cookie(name, token, max_age=age, path=path, secure=https, httponly=True, samesite="lax")


def clear_cookie(request: Request, response: Response) -> None:
    """Take it away."""
    service = service_of(request)
    path = "/" if service.settings.https else service.settings.root_path or "/"
    response.delete_cookie(
        cookie_name(service), path=path, secure=service.settings.https, httponly=True, samesite="lax"
    )


def set_up(request: Request, token: str, form: Mapping[str, Any]) -> str:
    """Make the first admin from the setup link; the cookie."""
    service = service_of(request)
    need_accounts(service)
    brake(request)
    email, password = str(form.get("email", "")), str(form.get("password", ""))
    passwords.check_new(password, email=email)
    with reading(service.database) as connection:  # before the hash, which costs 64 MiB: anyone may send this
        _check_set_up(connection, token)
    mode = str(form.get("sign_up", "closed"))
    if mode not in SIGN_UP_MODES:
        raise ApiError(422, "invalid_value", f"sign-up is one of {', '.join(SIGN_UP_MODES)}", param="sign_up")
    hashed = passwords.hash_password(password)
    with writing(service.database) as connection:
        _check_set_up(connection, token)
        store.use_link_token(connection, "setup", token)
        named = {"email": email, "name": str(form.get("name", "")), "role": "admin"}
        id = store.add_user(connection, password_hash=hashed, **named)
        store.set_setting(connection, "sign_up", mode)
        store.set_setting(connection, "ask_data_use", bool(form.get("ask_data_use")))
        audit.record(connection, service, "setup", request=request, object="user", object_id=id)
    return start(request, id, "login")


def _check_set_up(connection: Connection, token: str) -> None:
    if store.has_admin(connection):
        raise ApiError(403, "link_over", "this server has been set up already; sign in")
    store.link_token(connection, "setup", token)


def join(request: Request, token: str, form: Mapping[str, Any]) -> str:
    """Make an account from an invitation, or without one where sign-up is open; the cookie."""
    service = service_of(request)
    need_accounts(service)
    brake(request)
    email, password = str(form.get("email", "")).strip(), str(form.get("password", ""))
    passwords.check_new(password, email=email)
    with reading(service.database) as connection:  # before the hash, which costs 64 MiB: anyone may send this
        _role_of_invitation(connection, token, email)
    hashed = passwords.hash_password(password)
    with writing(service.database) as connection:
        role = _role_of_invitation(connection, token, email)
        if token:
            store.use_link_token(connection, "invite", token)
        named = {"email": email, "name": str(form.get("name", "")), "role": role}
        id = store.add_user(connection, password_hash=hashed, **named)
        audit.record(connection, service, "join", request=request, object="user", object_id=id, diff={"role": role})
    return start(request, id, "login")


def _role_of_invitation(connection: Connection, token: str, email: str) -> str:
    """The role that whoever brings this token gets. Raises: ApiError 403 for those who may not join."""
    mode = store.setting(connection, "sign_up", "closed")
    if mode == "closed":
        raise ApiError(403, "sign_up_closed", "this server takes no new accounts now")
    if not token:
        if mode != "open":
            raise ApiError(403, "invitation_needed", "you need an invitation to join this server")
        return "user"
    link = store.link_token(connection, "invite", token)
    if link["email_ci"] and link["email_ci"] != email.lower():
        raise ApiError(403, "other_address", "this invitation is for another address", param="email")
    return link["role"] or "user"


def reset_password(request: Request, token: str, password: str) -> str:
    """Set a new password from a reset link; every other browser is signed out. The cookie."""
    service = service_of(request)
    need_accounts(service)
    brake(request)
    passwords.check_new(password)
    with reading(service.database) as connection:  # before the hash, which costs 64 MiB: anyone may send this
        store.link_token(connection, "reset", token)
    hashed = passwords.hash_password(password)
    with writing(service.database) as connection:
        link = store.use_link_token(connection, "reset", token)
        row = store.user(connection, link["user_id"])
        if row is None or row["status"] not in ("active", "invited"):
            raise ApiError(403, "link_over", "this account can't be used")
        factor_off = {"totp_secret_enc": None}  # an admin made the link for somebody who lost the phone, perhaps
        store.change_user(connection, row["id"], password_hash=hashed, status="active", **factor_off)
        store.end_sessions(connection, row["id"])
        audit.record(connection, service, "password.reset", request=request, object="user", object_id=row["id"])
    return start(request, row["id"], "login")


def change_password(request: Request, viewer: Viewer, old: str, new: str) -> None:
    """Change one's own password; other browsers are signed out."""
    service = service_of(request)
    need_accounts(service)
    row = _confirm_password(request, viewer, old)
    passwords.check_new(new, email=row["email_ci"] or "")
    hashed = passwords.hash_password(new)
    with writing(service.database) as connection:
        store.change_user(connection, viewer.user_id, password_hash=hashed)
        store.end_sessions(connection, viewer.user_id, but=viewer.session_id)
        audit.record(connection, service, "password.change", viewer=viewer, request=request)


def setup_link(service: Service, origin: str) -> str:
    """The link for the first admin, "" if there is one. Its secret is in the fragment, which no log ever sees."""
    with writing(service.database) as connection:
        if store.has_admin(connection):
            return ""
        token, _ = store.make_link_token(connection, "setup")
    return f"{origin}/setup#{token}"
