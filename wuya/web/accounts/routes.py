"""`/api/auth`, `/api/me`: signing in, one's own profile, sessions and password. Forms: `forms`; admins: `admin`."""

from typing import Annotated, Any, Literal

from fastapi import Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wuya.database.connection import reading, writing
from wuya.web import audit, i18n
from wuya.web.accounts import admin, flows, forms, oidc_pages, store, totp
from wuya.web.accounts.auth import Viewer, current_viewer, require
from wuya.web.errors import ApiError
from wuya.web.pages import THEMES
from wuya.web.routing import Router
from wuya.web.service import Service, service_of

router = Router(prefix="/api", tags=["accounts"])
ServiceNow = Annotated[Service, Depends(service_of)]
Me = Annotated[Viewer, Depends(require("account"))]
Text = Annotated[str, Field(max_length=300)]


class Body(BaseModel):
    """A JSON body; unknown members are refused, so a typing mistake is seen."""

    model_config = ConfigDict(extra="forbid")


class Credentials(Body):
    """Address and password."""

    email: Text
    password: Text


class Login(Credentials):
    """With the six digits, where a second factor is on."""

    code: Text = ""


class NewFactor(Body):
    """The secret that was offered and what the app shows for it; the password, and a code of a factor it replaces."""

    secret: Text
    code: Text
    password: Text = ""
    old_code: Text = ""


class OldFactor(Body):
    """A code of the factor that is to go, and the password where the account has one."""

    code: Text = ""
    password: Text = ""


class SetUp(Credentials):
    """The first admin."""

    token: Text
    name: Text = ""
    sign_up: Literal["closed", "invite", "open"] = "closed"
    ask_data_use: bool = False


class Join(Credentials):
    """A new account."""

    token: Text = ""
    name: Text = ""


class Reset(Body):
    """A new password from a link."""

    token: Text
    password: Text


class PasswordChange(Body):
    """A new password for the old one."""

    old: Text
    new: Text


class Profile(Body):
    """What a person may change of the own account; what is left out stays."""

    name: Text | None = None
    locale: Text | None = None
    theme: Text | None = None
    data_use: bool | None = None
    prefs: dict[str, Any] | None = None


def signed_in(request: Request, cookie: str) -> Response:
    """204 with the session's cookie."""
    response = Response(status_code=204)
    flows.set_cookie(request, response, cookie)
    return response


@router.post("/auth/login", status_code=204)
def login(request: Request, body: Login) -> Response:
    """Sign in; `code_needed` asks for the second factor."""
    return signed_in(request, flows.sign_in(request, body.email, body.password, body.code))


@router.post("/auth/logout", status_code=204)
def logout(request: Request, service: ServiceNow) -> Response:
    """Sign out this browser."""
    with writing(service.database) as connection:
        flows.end_current(request, connection)
    response = Response(status_code=204)
    flows.clear_cookie(request, response)
    return response


@router.post("/auth/setup", status_code=204)
def setup(request: Request, body: SetUp) -> Response:
    """Make the first admin with the secret of the setup link."""
    return signed_in(request, flows.set_up(request, body.token, body.model_dump()))


@router.post("/auth/join", status_code=204)
def join(request: Request, body: Join) -> Response:
    """Make an account, with an invitation's secret unless sign-up is open."""
    return signed_in(request, flows.join(request, body.token, body.model_dump()))


@router.post("/auth/totp/begin")
def begin_totp(service: ServiceNow, viewer: Me) -> dict[str, str]:
    """A secret for an authenticator app; nothing changes before `enable`."""
    flows.need_accounts(service)
    secret = totp.new_secret()
    return {"secret": secret, "uri": totp.uri(secret, viewer.name)}


@router.post("/auth/totp/enable", status_code=204)
def enable_totp(request: Request, body: NewFactor, viewer: Me) -> None:
    """Switch the second factor on."""
    flows.enable_totp(request, viewer, body.secret, body.code, password=body.password, old_code=body.old_code)


@router.post("/auth/totp/disable", status_code=204)
def disable_totp(request: Request, body: OldFactor, viewer: Me) -> None:
    """Switch the second factor off."""
    flows.disable_totp(request, viewer, body.password, body.code)


@router.post("/auth/password/reset", status_code=204)
def reset(request: Request, body: Reset) -> Response:
    """Set a new password with the secret of a reset link."""
    return signed_in(request, flows.reset_password(request, body.token, body.password))


@router.get("/me")
def me(request: Request, viewer: Me) -> dict[str, Any]:
    """Who I am and what I may do."""
    service = service_of(request)
    with reading(service.database) as connection:
        row = store.user(connection, viewer.user_id)
        offered = store.setting(connection, "ask_data_use", True)
    assert row is not None
    more = {
        "email": row["email_ci"],
        "prefs": row["prefs"],
        "created_at": row["created_at"],
        "totp": bool(row["totp_secret_enc"]),
        "has_password": row["password_hash"] is not None,
    }
    return viewer.public() | more | {"data_use_offered": offered}


@router.patch("/me")
def change_me(request: Request, body: Profile, viewer: Me) -> dict[str, Any]:
    """Change my name, language, theme, preferences, and whether new chats may be used for training."""
    values = {key: value for key, value in body.model_dump().items() if value is not None}
    if values.get("locale") and values["locale"] not in i18n.LANGUAGES:
        raise ApiError(422, "invalid_value", f"languages: {', '.join(i18n.LANGUAGES)}", param="locale")
    if values.get("theme") and values["theme"] not in THEMES:
        raise ApiError(422, "invalid_value", f"themes: {', '.join(THEMES)}", param="theme")
    if len(str(values.get("prefs", ""))) > 20_000:
        raise ApiError(422, "invalid_value", "too many preferences", param="prefs")
    with writing(service_of(request).database) as connection:
        if "name" in values:
            name = store.clean_name(values.pop("name"))
            if not name:
                raise ApiError(422, "invalid_value", "a name has at least one character", param="name")
            if name != viewer.name:
                values["display_name"] = store.free_name(connection, name)
        if values:
            store.change_user(connection, viewer.user_id, **values)
    request.scope.pop("viewer", None)
    changed = current_viewer(request)
    assert changed is not None
    return me(request, changed)


@router.post("/me/password", status_code=204)
def change_password(request: Request, body: PasswordChange, viewer: Me) -> None:
    """Change my password; my other browsers are signed out."""
    flows.change_password(request, viewer, body.old, body.new)


@router.get("/me/sessions")
def my_sessions(service: ServiceNow, viewer: Me) -> dict[str, Any]:
    """The browsers I am signed in with."""
    with reading(service.database) as connection:
        rows = store.sessions(connection, viewer.user_id)
    shown = ("id", "created_at", "last_used_at", "ip_prefix", "ua")
    items = [{key: row[key] for key in shown} | {"current": row["id"] == viewer.session_id} for row in rows]
    return {"items": items, "next": None}


@router.delete("/me/sessions/{id}", status_code=204)
def end_session(id: str, service: ServiceNow, viewer: Me) -> None:
    """Sign out one of my browsers; `all` means all but this one."""
    with writing(service.database) as connection:
        which = {"but": viewer.session_id} if id == "all" else {"session_id": id}
        if not store.end_sessions(connection, viewer.user_id, **which) and id != "all":
            raise ApiError(404, "not_found", "there is no such session")


@router.delete("/me")
def delete_me(request: Request, viewer: Me) -> Response:
    """Delete my account: what names me is cleared, my chats are purged after 30 days, labels stay without a name."""
    service = service_of(request)
    flows.need_accounts(service)
    with writing(service.database) as connection:
        admin.keep_an_admin(connection, viewer.user_id)
        store.anonymise(connection, viewer.user_id)
        audit.record(connection, service, "user.delete", viewer=viewer, request=request, object_id=viewer.user_id)
    response = JSONResponse({"deleted": True})
    flows.clear_cookie(request, response)
    return response


router.include_router(admin.router)
pages_router = forms.router
routers = (router, pages_router, oidc_pages.router)
