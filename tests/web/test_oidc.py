"""Sign-in through an OpenID provider: who gets in, who does not; nothing can be forged, replayed or led away."""

import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

pytest.importorskip("joserfc", reason="the extra `oidc` is not installed")


from tests.web.conftest import LiveServer, shoot
from tests.web.openid_provider import CLIENT, SECRET, OpenIdProvider
from wuya.database.connection import reading, writing
from wuya.database.service_tables import Identity, OneTimeToken
from wuya.inference.backends.fake import FakeEngine
from wuya.web import audit
from wuya.web.accounts import passwords, store, totp
from wuya.web.accounts.provider import Provider
from wuya.web.accounts.throttle import LoginThrottle
from wuya.web.app import create_app
from wuya.web.serve import ServeConfig
from wuya.web.service import Service
from wuya.web.settings import OidcSettings, Settings

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Reading certificates takes longer than a request to this machine."""
PASSWORD = "ravens solve puzzles"


@pytest.fixture
def domains() -> tuple[str, ...]:
    return ()


@pytest.fixture
def settings(tmp_path: Path, provider: OpenIdProvider, domains: tuple[str, ...]) -> Settings:
    oidc = OidcSettings(issuer=provider.issuer, client_id=CLIENT, client_secret=SECRET, name="Example", domains=domains)
    return Settings(workspace=tmp_path / "workspace", accounts=True, oidc=oidc)


@pytest.fixture(autouse=True)
def _fast_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    from argon2 import PasswordHasher

    monkeypatch.setattr("wuya.web.accounts.passwords._hasher", PasswordHasher(1, 8, 1))
    monkeypatch.setattr("wuya.web.accounts.passwords._of_nobody", [])


def add_user(service: Service, email: str = "bo@example.org", *, role: str = "user", linked: str = "") -> str:
    with writing(service.database) as connection:
        hashed = passwords.hash_password(PASSWORD)
        id = store.add_user(connection, email=email, name="Bo", password_hash=hashed, role=role)
        if linked:
            assert service.settings.oidc
            store.add_identity(connection, id, service.settings.oidc.issuer, linked)
    return id


def change(service: Service, id: str, **values: Any) -> None:
    with writing(service.database) as connection:
        store.change_user(connection, id, **values)


def sign_up(service: Service, mode: str) -> None:
    with writing(service.database) as connection:
        store.set_setting(connection, "sign_up", mode)


def begin(client: TestClient, target: str = "/") -> str:
    """To the provider and back; the path that the browser is sent to."""
    there = client.get("/auth/oidc/start", params={"next": target})
    assert there.status_code == 303, there.text
    back = httpx.get(there.headers["location"], verify=NO_TLS).headers["location"]
    assert back.startswith(f"{client.base_url}/auth/oidc/callback?")
    return back.removeprefix(str(client.base_url))


def sign_in(client: TestClient, target: str = "/") -> httpx.Response:
    return client.get(begin(client, target))


def refused(answer: httpx.Response, status: int, text: str, client: TestClient) -> None:
    assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert client.get("/api/me").status_code == 401 and "wuya_session" not in client.cookies


# ---- who gets in


def test_a_connected_account_signs_in_with_a_new_session_and_stays_on_this_site(
    client: TestClient, service: Service, provider: OpenIdProvider
) -> None:
    id = add_user(service, linked="1")
    client.cookies.set("wuya_session", "planted by somebody else")
    answer = sign_in(client, "/account?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/account?x=1")
    first = answer.cookies["wuya_session"]
    assert first != "planted by somebody else" and "wuya_oidc" not in client.cookies
    assert all(word in answer.headers["set-cookie"].lower() for word in ("httponly", "samesite=lax"))
    client.cookies.delete("wuya_session", domain="")
    assert client.get("/api/me").json()["id"] == id
    second = sign_in(client).cookies["wuya_session"]
    stale = TestClient(client.app, base_url=str(client.base_url), cookies={"wuya_session": first})
    assert second != first and stale.get("/api/me").status_code == 401
    for target in ("//evil.org", "https://evil.org", "/\\evil.org", "/" + "x" * 600):
        assert sign_in(client, target).headers["location"] == "/", "it never leads to another site"
    with reading(service.database) as connection:
        row = audit.rows(connection)[0]
    assert (row["action"], row["actor_id"], row["diff"]) == ("login", id, {"by": "oidc"})
    provider.person |= {"email": "elsewhere@example.net", "email_verified": False}
    assert sign_in(client).headers["location"] == "/", "it is the subject that counts, not the address"


def test_an_account_with_a_password_is_connected_by_typing_it_once(
    client: TestClient, service: Service, provider: OpenIdProvider
) -> None:
    """A provider's word alone takes no account over; nor does an account that somebody made with another's address."""
    id = add_user(service)
    answer = sign_in(client, "/keys")
    assert answer.headers["location"] == "/auth/oidc/finish" and "wuya_session" not in client.cookies
    page = client.get("/auth/oidc/finish")
    assert "bo@example.org" in page.text and client.get("/api/me").status_code == 401
    wrong = client.post("/auth/oidc/finish", data={"password": "wrong password"})
    assert wrong.status_code == 401 and client.get("/api/me").status_code == 401
    proof = client.cookies["wuya_oidc"]
    right = client.post("/auth/oidc/finish", data={"password": PASSWORD})
    assert (right.status_code, right.headers["location"]) == (303, "/keys")
    assert client.get("/api/me").json()["id"] == id
    with reading(service.database) as connection:
        assert [row["action"] for row in audit.rows(connection)][:2] == ["login", "oidc.connect"]
    client.cookies.clear()
    client.cookies.set("wuya_oidc", proof)
    assert client.post("/auth/oidc/finish", data={"password": PASSWORD}).status_code == 400, "it was spent"
    client.cookies.clear()
    assert sign_in(client).headers["location"] == "/", "from now on the provider is enough"


def test_a_second_factor_is_asked_for_whichever_way_one_comes(client: TestClient, service: Service) -> None:
    id, secret = add_user(service, linked="1"), totp.read_secret(totp.new_secret())
    assert secret
    change(service, id, totp_secret_enc=totp.seal(totp.Factor(secret), service.settings.secret))
    assert sign_in(client).headers["location"] == "/auth/oidc/finish"
    page = client.get("/auth/oidc/finish").text
    assert 'name="code"' in page and 'name="password"' not in page
    assert client.post("/auth/oidc/finish", data={"code": "000000"}).status_code == 401
    assert client.get("/api/me").status_code == 401
    code = totp.code_at(secret, int(time.time()) // totp.STEP_SECONDS)
    assert client.post("/auth/oidc/finish", data={"code": code}).headers["location"] == "/"
    assert client.get("/api/me").json()["id"] == id


def test_new_people_follow_the_rules_of_joining(client: TestClient, service: Service, provider: OpenIdProvider) -> None:
    refused(sign_in(client), 403, "sign-up is closed", client)
    sign_up(service, "invite")
    refused(sign_in(client), 403, "You need an invitation", client)
    admin = add_user(service, "ann@example.org", role="admin")
    with writing(service.database) as connection:
        for role, email in (("labeler", "Bo@Example.org"), ("admin", "other@example.org"), ("admin", "")):
            store.make_link_token(connection, "invite", role=role, email=email, created_by=admin)
    assert sign_in(client).headers["location"] == "/"
    me = client.get("/api/me").json()
    assert not me["has_password"]
    assert (me["email"], me["name"], me["role"]) == ("bo@example.org", "Bo 2", "labeler"), "the name Bo is taken"
    with reading(service.database) as connection:
        assert len(store.open_invitations(connection)) == 2, "the invitation for this address is used up"
    client.cookies.clear()
    sign_up(service, "open")
    provider.person = {"sub": "2", "email": "cy@example.org", "email_verified": True}
    assert sign_in(client).headers["location"] == "/" and client.get("/api/me").json()["role"] == "user"
    client.cookies.clear()
    provider.person = {"sub": "3"}  # the address is in userinfo, which must be about the same person
    provider.userinfo = {"sub": "2", "email": "di@example.org", "email_verified": True}
    refused(sign_in(client), 401, "does not prove who you are", client)
    provider.userinfo["sub"] = "3"
    assert sign_in(client).headers["location"] == "/"
    assert client.get("/api/me").json()["email"] == "di@example.org"


class TestDomains:
    @pytest.fixture
    def domains(self) -> tuple[str, ...]:
        return ("example.org",)

    def test_only_these_and_without_an_invitation(
        self, client: TestClient, service: Service, provider: OpenIdProvider
    ) -> None:
        sign_up(service, "invite")
        assert sign_in(client).headers["location"] == "/"
        client.cookies.clear()
        sign_up(service, "open")
        provider.person |= {"sub": "2", "email": "eve@notexample.org"}
        refused(sign_in(client), 403, "may not sign in this way", client)
        provider.person |= {"sub": "1"}
        refused(sign_in(client), 403, "may not sign in this way", client)
        provider.person |= {"email": "bo@example.org", "email_verified": False}
        refused(sign_in(client), 403, "has not verified", client)


# ---- who does not


def test_state_belongs_to_one_browser_and_works_once(
    client: TestClient, service: Service, provider: OpenIdProvider
) -> None:
    add_user(service, linked="1")
    there = begin(client)
    ticket = client.cookies["wuya_oidc"]
    other = TestClient(client.app, base_url=str(client.base_url), follow_redirects=False)
    refused(other.get(there), 400, "was not begun in this browser", other)
    begin(other)
    refused(other.get(there), 400, "was not begun in this browser", other)  # it has a ticket, of another state
    forged = TestClient(client.app, base_url=str(client.base_url), cookies={"wuya_oidc": ticket[:-1] + "?"})
    refused(forged.get(there), 400, "was not begun", forged)
    assert "/token" not in provider.asked, "nothing of this reached the provider"
    wrong = TestClient(client.app, base_url=str(client.base_url), cookies={"wuya_oidc": ticket})
    refused(wrong.get(there.replace("state=", "state=x")), 400, "was not begun", wrong)
    assert client.get(there).headers["location"] == "/"
    again = TestClient(client.app, base_url=str(client.base_url), cookies={"wuya_oidc": ticket})
    refused(again.get(there), 400, "was used before", again)
    with reading(service.database) as connection:
        spent = connection.execute(select(OneTimeToken.token_sha256).where(OneTimeToken.kind == "oidc")).scalars().all()
    assert len(spent) == 1 and spent[0] not in ticket


def test_refusals_in_words(client: TestClient, service: Service, provider: OpenIdProvider) -> None:
    id = add_user(service, linked="1")
    # a code that somebody caught on its way, played to a sign-in of their own: no such verifier
    stolen = parse_qs(urlsplit(begin(client)).query)["code"][0]
    thief = TestClient(client.app, base_url=str(client.base_url), follow_redirects=False)
    own = parse_qs(urlsplit(begin(thief)).query)["state"][0]
    answer = thief.get("/auth/oidc/callback", params={"code": stolen, "state": own})
    refused(answer, 401, "does not prove who you are", thief)
    assert provider.asked[-1] == "/token", "the provider refused it"
    # a token of another sign-in
    provider.lies = {"nonce": "another"}
    refused(sign_in(client), 401, "does not prove who you are", client)
    provider.lies = {}
    # the answer of another issuer (RFC 9207), and a person who said no
    refused(client.get(begin(client).replace("iss=http", "iss=https")), 401, "does not prove who you are", client)
    state = parse_qs(urlsplit(begin(client)).query)["state"][0]
    answer = client.get("/auth/oidc/callback", params={"error": "access_denied", "state": state})
    refused(answer, 403, "did not sign you in", client)
    # the address was given to somebody else there
    provider.person["sub"] = "2"
    refused(sign_in(client), 403, "belongs to another person", client)
    # suspended; deleted people leave no identity behind
    provider.person["sub"] = "1"
    change(service, id, status="suspended")
    refused(sign_in(client), 403, "This account can&#39;t be used", client)
    with writing(service.database) as connection:
        store.anonymise(connection, id)
        assert not connection.execute(select(Identity.id)).all()
    # not verified: for an account that is there, and for a new one where anybody may join
    add_user(service, "cy@example.org")
    sign_up(service, "open")
    for email in ("cy@example.org", "new@example.org"):
        for value in (False, None, "false", 1):
            provider.person = {"sub": "3", "email": email, "email_verified": value}
            refused(sign_in(client), 403, "has not verified your e-mail address", client)
    with reading(service.database) as connection:
        assert not connection.execute(select(Identity.id)).all()


def test_failures_are_slowed_down_as_passwords_are(
    client: TestClient, service: Service, provider: OpenIdProvider
) -> None:
    provider.document_lies = {"issuer": "https://evil.org"}
    answer = client.get("/auth/oidc/start")
    assert answer.status_code == 503 and "can&#39;t be reached now" in answer.text
    provider.reset()
    service.parts.pop(Provider)
    throttle = LoginThrottle(service.database, clock=lambda: 1e9)
    service.put(throttle)
    for n in range(50):
        throttle.enter(f"account {n}", "127.0.0.0/24")
    answer = sign_in(client)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert "/token" not in provider.asked


# ---- settings


def test_behind_a_prefix_with_https(
    tmp_path: Path, provider: OpenIdProvider, settings: Settings, database: str | Path
) -> None:
    config = ServeConfig(
        accounts=True,
        workspace=tmp_path,
        public_url="https://chat.example.org/wuya",
        oidc_issuer=provider.issuer,
        oidc_client=CLIENT,
    )
    app = create_app(config.settings({"WUYA_OIDC_SECRET": SECRET}), engine=FakeEngine(), database=database)
    service: Service = app.state.service
    add_user(service, role="admin", linked="1")
    with TestClient(app, base_url="https://chat.example.org", follow_redirects=False) as client:
        assert 'href="/wuya/auth/oidc/start?next=/keys"' in client.get("/wuya/login?next=/keys").text
        there = client.get("/wuya/auth/oidc/start?next=/keys")
        cookie = there.headers["set-cookie"]
        assert cookie.startswith("__Host-wuya-oidc=") and "Secure" in cookie and "Path=/;" in cookie
        back = httpx.get(there.headers["location"], verify=NO_TLS).headers["location"]
        assert back.startswith("https://chat.example.org/wuya/auth/oidc/callback?")
        assert client.get(back).headers["location"] == "/wuya/keys"
        assert client.get("/wuya/api/me").status_code == 200


class TestWithout:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(workspace=tmp_path / "workspace", accounts=True)

    def test_there_is_no_button_and_no_way_in(self, client: TestClient) -> None:
        assert "oidc" not in client.get("/login").text
        for path in ("/auth/oidc/start", "/auth/oidc/callback?code=x&state=y", "/auth/oidc/finish"):
            assert client.get(path).status_code == 404


@pytest.mark.slow
def test_in_a_browser(live_server: LiveServer, provider: OpenIdProvider, page: Any) -> None:
    add_user(live_server.service, role="admin")
    page.goto(live_server.url + "/login?next=/account")
    shoot(page, "oidc-login")
    page.get_by_role("link", name="Sign in with Example").click()
    page.wait_for_url("**/auth/oidc/finish")
    shoot(page, "oidc-connect")
    page.locator("input[name=password]").fill(PASSWORD)
    page.get_by_role("button", name="Connect and sign in").click()
    page.wait_for_url("**/account")
    page.get_by_text("This browser").wait_for()
