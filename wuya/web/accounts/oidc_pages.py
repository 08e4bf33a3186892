"""`/auth/oidc`: to the provider, back from it, and the page that asks for what the provider can't prove.

A link begins it, no form: the content security policy lets no form lead to another site. The ticket's cookie is
SameSite=Lax, for the browser comes back by a link of the provider's site.
"""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from wuya.web.accounts import flows, oidc, tickets
from wuya.web.accounts.forms import form_of, page
from wuya.web.errors import ApiError
from wuya.web.pages import render, safe_next
from wuya.web.routing import Router
from wuya.web.service import Service, service_of

router = Router(include_in_schema=False)
FINISH = "/auth/oidc/finish"


def cookie_of(service: Service) -> str:
    """The ticket's cookie."""
    return "__Host-wuya-oidc" if service.settings.https else "wuya_oidc"


@router.get("/auth/oidc/start")
def start(request: Request, next: str = "/") -> Response:
    """To the provider."""
    target = safe_next(next)
    try:
        url, ticket = oidc.begin(request, target)
    except ApiError as error:
        return _refused(request, error, target)
    response = RedirectResponse(url, 303)
    _keep(request, response, ticket)
    return response


@router.get(oidc.CALLBACK)
def callback(request: Request) -> Response:
    """Back from the provider."""
    query = {key: value[:4000] for key, value in request.query_params.items()}
    try:
        outcome = oidc.come_back(request, _ticket(request), query)
    except ApiError as error:
        return _refused(request, error)
    return _on(request, outcome)


@router.get(FINISH)
def finish_page(request: Request) -> Response:
    """Asks for the account's password, to connect it, or for the second factor."""
    return _finish_page(request)


@router.post(FINISH)
async def finish(request: Request) -> Response:
    """The password, or the six digits."""
    form = await form_of(request)
    try:
        given = (form.get("password", ""), form.get("code", ""))
        outcome = await run_in_threadpool(oidc.finish, request, _ticket(request), *given)
    except ApiError as error:
        return await run_in_threadpool(_finish_page, request, error)
    return _on(request, outcome)


def _finish_page(request: Request, error: ApiError | None = None) -> Response:
    try:
        proof, _ = oidc.proof_of(request, _ticket(request))
    except ApiError as refusal:
        return _refused(request, refusal)
    headers = {"retry-after": str(round(error.retry_after))} if error and error.retry_after else {}
    name = oidc.provider_of(service_of(request)).settings.name
    status = error.status if error else 200
    return render(request, "oidc_form.html", status=status, headers=headers, proof=proof, error=error, name=name)


def _on(request: Request, outcome: oidc.Outcome) -> Response:
    """Into the service, or to what is still to be asked for."""
    target = safe_next(outcome.next) if outcome.session else FINISH
    response = RedirectResponse(request.scope.get("root_path", "") + target, 303)
    _keep(request, response, outcome.ticket)
    if outcome.session:
        flows.set_cookie(request, response, outcome.session)
    return response


def _refused(request: Request, error: ApiError, next: str = "/") -> Response:
    """The sign-in page with what was wrong; the ticket is gone."""
    if error.status == 404:
        raise error
    response = page(request, "login", status=error.status, error=error, next=next)
    _keep(request, response, "")
    return response


def _ticket(request: Request) -> str:
    return request.cookies.get(cookie_of(service_of(request)), "")


def _keep(request: Request, response: Response, ticket: str) -> None:
    """Give the browser a ticket, or take it away."""
    service = service_of(request)
    https = service.settings.https
    path = "/" if https else service.settings.root_path or "/"
    age = tickets.LIFE_SECONDS if ticket else 0
    name = cookie_of(service)
    response.set_cookie(name, ticket, max_age=age, path=path, secure=https, httponly=True, samesite="lax")
