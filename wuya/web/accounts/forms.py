"""Sign-in, setup, joining and reset as plain forms, which work without JavaScript; account and admin pages."""

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from wuya.database.connection import reading
from wuya.web.accounts import flows, store
from wuya.web.accounts.auth import Viewer, require
from wuya.web.errors import ApiError
from wuya.web.pages import render, safe_next
from wuya.web.routing import Router
from wuya.web.service import service_of

router = Router(include_in_schema=False)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a posted form."""
    body = (await request.body()).decode("utf-8", "replace")
    return {key: values[0] for key, values in parse_qs(body, keep_blank_values=True, max_num_fields=20).items()}


def page(request: Request, kind: str, *, status: int = 200, error: ApiError | None = None, **values: str) -> Response:
    """One of the four forms."""
    service = service_of(request)
    flows.need_accounts(service)
    with reading(service.database) as connection:
        sign_up = store.setting(connection, "sign_up", "closed")
        fresh = not store.has_admin(connection)
    if kind == "setup" and not fresh:
        return RedirectResponse(request.scope.get("root_path", "") + "/login", 303)
    headers = {"retry-after": str(round(error.retry_after))} if error and error.retry_after else {}
    context = {"kind": kind, "error": error, "values": values, "sign_up": sign_up, "fresh": fresh}
    context["provider"] = service.settings.oidc.name if service.settings.oidc else ""
    return render(request, "account_form.html", status=status, headers=headers, **context)


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    """The sign-in form."""
    return page(request, "login", next=safe_next(next))


@router.get("/setup")
def setup_page(request: Request) -> Response:
    """The form for the first admin."""
    return page(request, "setup")


@router.get("/join")
def join_page(request: Request) -> Response:
    """The form for a new account."""
    return page(request, "join")


@router.get("/reset")
def reset_page(request: Request) -> Response:
    """The form for a new password."""
    return page(request, "reset")


@router.post("/login")
async def login(request: Request) -> Response:
    """Sign in."""
    form = await form_of(request)
    target = safe_next(form.get("next", "/"))
    return await _submit(
        request, "login", form, target, flows.sign_in, *(form.get(name, "") for name in ("email", "password", "code"))
    )


@router.post("/setup")
async def setup(request: Request) -> Response:
    """Make the first admin."""
    form = await form_of(request)
    return await _submit(request, "setup", form, "/", flows.set_up, form.get("token", "").strip(), form)


@router.post("/join")
async def join(request: Request) -> Response:
    """Make an account."""
    form = await form_of(request)
    return await _submit(request, "join", form, "/", flows.join, form.get("token", "").strip(), form)


@router.post("/reset")
async def reset(request: Request) -> Response:
    """Set a new password."""
    form = await form_of(request)
    token, password = form.get("token", "").strip(), form.get("password", "")
    return await _submit(request, "reset", form, "/", flows.reset_password, token, password)


async def _submit(request: Request, kind: str, form: dict[str, str], target: str, flow, *values) -> Response:  # type: ignore[no-untyped-def]
    """Run a flow; on success on to the target with a cookie, else the form again with what was wrong."""
    try:
        cookie = await run_in_threadpool(flow, request, *values)
    except ApiError as error:
        kept = {key: form[key][:300] for key in ("email", "name", "next", "sign_up", "token") if key in form}
        return await run_in_threadpool(page, request, kind, status=error.status, error=error, **kept)
    response = RedirectResponse(request.scope.get("root_path", "") + target, 303)
    flows.set_cookie(request, response, cookie)
    return response


@router.get("/account")
def account_page(request: Request, viewer: Annotated[Viewer, Depends(require("account"))]) -> Response:
    """One's own account."""
    return render(request, "account.html", viewer, area="account")


@router.get("/admin")
def admin_page(request: Request, viewer: Annotated[Viewer, Depends(require("admin:page"))]) -> Response:
    """People, audit, settings, health."""
    return render(request, "admin.html", viewer, area="admin")
