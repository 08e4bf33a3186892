"""Signing in through an OpenID provider: who may, and which account it is (the protocol: `provider`).

Known by issuer and subject, never by address alone. The first time, a verified address leads to an account:
one that has a password asks for it once (whoever made the account need not own the address, and a provider's word
should not be enough to take an account over); a new one follows the rules of joining. A second factor switched on here
is asked for here.
"""

import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping
from starlette.requests import Request

from wuya.database.connection import reading, writing
from wuya.errors import WuyaError
from wuya.web import audit
from wuya.web.accounts import flows, store, tickets
from wuya.web.accounts.admin import origin
from wuya.web.accounts.auth import ip_prefix
from wuya.web.accounts.provider import NotBelieved, Person, Provider
from wuya.web.errors import ApiError
from wuya.web.operations.metrics import metrics_of
from wuya.web.service import Service, service_of

log = logging.getLogger("wuya.web.oidc")
BEGUN, PROVED = "oidc begun", "oidc proved"
"""Purposes of tickets: on the way to the provider; back from it, with a password or code still to come."""
CALLBACK = "/auth/oidc/callback"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A session, or what is still to be asked for."""

    next: str
    session: str = ""
    ticket: str = ""
    """Of purpose PROVED, for the browser to bring with the password or the code."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Whom the provider proved, as a ticket of purpose PROVED has it."""

    user: RowMapping
    connects: bool
    """This is the first time: the account is not connected yet."""

    @property
    def needs_password(self) -> bool:
        """To connect an account that has one."""
        return self.connects and self.user["password_hash"] is not None

    @property
    def needs_code(self) -> bool:
        """The second factor, whichever way the first was proved."""
        return bool(self.user["totp_secret_enc"])


def provider_of(service: Service) -> Provider:
    """The service's provider. Raises: ApiError 404 where there is none."""
    flows.need_accounts(service)
    if service.settings.oidc is None:
        raise ApiError(404, "no_oidc", "this service has no sign-in through an OpenID provider")
    if Provider not in service.parts:
        service.put(Provider(service.settings.oidc))
    return service.get(Provider)


def begin(request: Request, next: str) -> tuple[str, str]:
    """(where the browser goes, the ticket it keeps meanwhile)."""
    service = service_of(request)
    provider, key = provider_of(service), service.settings.secret
    body = {"id": tickets.new_id(), "next": next if len(next.encode()) <= 500 else "/"}
    bound = {name: tickets.derived(key, name, body["id"]) for name in ("state", "nonce", "verifier")}
    try:
        url = provider.authorization_url(redirect_uri=origin(request) + CALLBACK, **bound)
    except WuyaError as error:
        raise _unavailable(error) from error
    return url, tickets.seal(key, BEGUN, body)


def come_back(request: Request, ticket: str, query: Mapping[str, str]) -> Outcome:
    """The provider sent the browser back. Raises: ApiError in words for whoever may not enter."""
    service = service_of(request)
    provider, key, network = provider_of(service), service.settings.secret, ip_prefix(request)
    body = tickets.opened(key, BEGUN, ticket)
    if body is None or not hmac.compare_digest(
        tickets.derived(key, "state", body["id"]).encode(), query.get("state", "").encode()
    ):
        raise _over()
    throttle = flows.throttle_of(service)
    wait = throttle.enter(body["id"], network)  # a fresh ticket each time: what brakes is the network's count
    if wait > 0:
        raise ApiError(429, "too_many_logins", "too many sign-ins failed; wait a little", retry_after=wait)
    try:
        with writing(service.database) as connection:
            if not tickets.spend(connection, body):
                raise _over()
        person = _ask(request, provider, body["id"], query)
        with writing(service.database) as connection:
            proof = _known(request, connection, person)
    except ApiError:
        metrics_of(service).login_failures.inc()
        raise
    throttle.succeeded(body["id"], network)
    more = {"user": proof.user["id"], "issuer": person.issuer, "subject": person.subject}
    if proof.needs_password or proof.needs_code:
        return Outcome(body["next"], ticket=tickets.seal(key, PROVED, body | more | {"id": tickets.new_id()}))
    return _enter(request, proof, body | more)


def _ask(request: Request, provider: Provider, id: str, query: Mapping[str, str]) -> Person:
    service, settings = service_of(request), provider.settings
    if "error" in query or not query.get("code"):
        raise ApiError(403, "oidc_declined", "the provider did not sign you in")
    bound = {name: tickets.derived(service.settings.secret, name, id) for name in ("nonce", "verifier")}
    try:
        if query.get("iss", settings.issuer) != settings.issuer:  # RFC 9207: the answer of another provider
            raise NotBelieved("the answer is another issuer's")
        return provider.person(query["code"], redirect_uri=origin(request) + CALLBACK, **bound)
    except NotBelieved as error:
        log.warning("sign-in through the provider refused: %s", error)
        raise ApiError(401, "oidc_not_believed", "what the provider sent does not prove who you are") from error
    except WuyaError as error:
        raise _unavailable(error) from error


def _over() -> ApiError:
    return ApiError(400, "oidc_over", "this sign-in was not begun in this browser, was used before or took too long")


def _unavailable(error: WuyaError) -> ApiError:
    log.error("the OpenID provider can't be used: %s", error)
    return ApiError(503, "oidc_unavailable", "the provider can't be reached now; try again later", retry_after=10)


def _known(request: Request, connection: Connection, person: Person) -> Proof:
    """The account of a person, made if they may join. Raises: ApiError 403."""
    domains = service_of(request).settings.oidc.domains  # type: ignore[union-attr]  # `provider_of` has seen it
    user = store.user_of_identity(connection, person.issuer, person.subject)
    is_of_domain = person.email.rpartition("@")[2] in domains
    if (user is None or domains) and not (person.email_verified and store.EMAIL.fullmatch(person.email)):
        raise ApiError(403, "oidc_unverified", "the provider has not verified your e-mail address")
    if domains and not is_of_domain:
        raise ApiError(403, "oidc_other_domain", "people with your e-mail address may not sign in this way")
    if user is not None:
        return Proof(_active(user), connects=False)
    user = store.user_by_email(connection, person.email)
    if user is not None:
        if store.has_identity(connection, user["id"], person.issuer):
            raise ApiError(403, "oidc_other_person", "this address belongs to somebody else's account here")
        return Proof(_active(user), connects=True)
    role = _role_of_newcomer(connection, person.email, is_of_domain=is_of_domain)
    id = store.add_user(connection, email=person.email, name=person.name, password_hash=None, role=role)
    store.add_identity(connection, id, person.issuer, person.subject)
    diff = {"role": role, "by": "oidc"}
    audit.record(connection, service_of(request), "join", request=request, object="user", object_id=id, diff=diff)
    row = store.user(connection, id)
    assert row is not None
    return Proof(row, connects=False)


def _role_of_newcomer(connection: Connection, email: str, *, is_of_domain: bool) -> str:
    """The rules of joining with a password, but the address is proved: an invitation for it needs no link."""
    mode = store.setting(connection, "sign_up", "closed")
    if mode == "closed":
        raise ApiError(403, "sign_up_closed", "this server takes no new accounts now")
    role = store.use_invitation_for(connection, email)
    if role is None and mode != "open" and not is_of_domain:
        raise ApiError(403, "invitation_needed", "you need an invitation to join this server")
    return role or "user"


def _active(user: RowMapping) -> RowMapping:
    if user["status"] != "active":
        raise ApiError(403, "account_suspended", "this account can't be used; ask an admin")
    return user


def proof_of(request: Request, ticket: str) -> tuple[Proof, dict[str, str]]:
    """Whom the provider proved a moment ago, and the ticket's body. Raises: ApiError 400, 403."""
    service = service_of(request)
    provider_of(service)
    body = tickets.opened(service.settings.secret, PROVED, ticket)
    if body is None:
        raise _over()
    with reading(service.database) as connection:
        user = store.user(connection, body["user"])
        connected = store.user_of_identity(connection, body["issuer"], body["subject"])
    if user is None or (connected is not None and connected["id"] != user["id"]):
        raise _over()
    return Proof(_active(user), connects=connected is None), body


def finish(request: Request, ticket: str, password: str, code: str) -> Outcome:
    """The password or the code came. Raises: ApiError 401, 429 (ask again), 400, 403."""
    proof, body = proof_of(request, ticket)
    if proof.needs_password:
        flows.check_password(request, proof.user["email_ci"] or "", password, code)
    elif proof.needs_code:
        flows.check_code(request, proof.user["id"], code)
    with writing(service_of(request).database) as connection:
        if not tickets.spend(connection, body):
            raise _over()
    return _enter(request, proof, body)


def _enter(request: Request, proof: Proof, body: Mapping[str, str]) -> Outcome:
    service, id = service_of(request), proof.user["id"]
    if proof.connects:
        with writing(service.database) as connection:
            if store.has_identity(connection, id, body["issuer"]):
                raise _over()
            store.add_identity(connection, id, body["issuer"], body["subject"])
            diff = {"issuer": body["issuer"]}
            audit.record(connection, service, "oidc.connect", request=request, object="user", object_id=id, diff=diff)
    return Outcome(body["next"], session=flows.start(request, id, "login", {"by": "oidc"}))
