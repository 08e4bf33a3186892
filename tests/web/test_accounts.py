"""Accounts: one setup link, sessions that rotate, roles, invitations, resets, suspension."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from wuya.database.connection import open_engine, reading, writing
from wuya.database.service_tables import AuditRow, ChatMessage, Conversation, RateBucket, Share
from wuya.feedback.store import FeedbackStore
from wuya.web import audit
from wuya.web.accounts import flows, store, totp
from wuya.web.accounts.throttle import FREE, LoginThrottle
from wuya.web.service import Service

PASSWORD = "ravens solve puzzles"


@pytest.fixture
def accounts() -> bool:
    return True


@pytest.fixture(autouse=True)
def _fast_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB and three passes are for guessers, not for tests."""
    from argon2 import PasswordHasher

    monkeypatch.setattr("wuya.web.accounts.passwords._hasher", PasswordHasher(1, 8, 1))
    monkeypatch.setattr("wuya.web.accounts.passwords._of_nobody", [])


def set_up(client: TestClient, service: Service, **more: Any) -> None:
    """The first admin, signed in."""
    token = flows.setup_link(service, "").partition("#")[2]
    body = {"token": token, "email": "Ann@Example.org", "password": PASSWORD, "name": "Ann", "sign_up": "invite"} | more
    assert client.post("/api/auth/setup", json=body).status_code == 204


def join(client: TestClient, email: str, role: str = "user") -> TestClient:
    """A browser of somebody invited; `client` is an admin's."""
    link = client.post("/api/admin/users/invite", json={"role": role}).json()["link"]
    other = TestClient(client.app, base_url=str(client.base_url), follow_redirects=False)
    body = {"token": link.partition("#")[2], "email": email, "password": PASSWORD, "name": email.partition("@")[0]}
    assert other.post("/api/auth/join", json=body).status_code == 204
    return other


def test_the_setup_link_works_once(client: TestClient, service: Service) -> None:
    link = flows.setup_link(service, "http://host")
    assert link.startswith("http://host/setup#")
    body = {"token": link.partition("#")[2], "email": "a@b.org", "password": PASSWORD}
    assert client.post("/api/auth/setup", json=body | {"token": "x" * 43}).status_code == 403
    assert client.post("/api/auth/setup", json=body | {"password": "short"}).json()["code"] == "weak_password"
    assert client.post("/api/auth/setup", json=body).status_code == 204
    assert client.get("/api/me").json()["role"] == "admin"
    assert client.post("/api/auth/setup", json=body).json()["code"] == "link_over"
    assert flows.setup_link(service, "http://host") == ""


def test_nothing_is_open_without_a_session(client: TestClient) -> None:
    assert client.get("/api/me").json()["code"] == "not_signed_in"
    answer = client.get("/account", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/account")


def test_forms_work_without_scripts(client: TestClient, service: Service) -> None:
    token = flows.setup_link(service, "").partition("#")[2]
    form = {"token": token, "email": "a@b.org", "name": "A", "password": PASSWORD, "sign_up": "open"}
    assert client.post("/setup", data=form).headers["location"] == "/"
    assert client.post("/api/auth/logout").status_code == 204
    wrong = client.post("/login", data={"email": "a@b.org", "password": "wrong"})
    assert wrong.status_code == 401 and "The address or the password is wrong" in wrong.text
    right = client.post("/login", data={"email": "A@B.org", "password": PASSWORD, "next": "/account?x=1"})
    assert (right.status_code, right.headers["location"]) == (303, "/account?x=1")
    assert client.get("/account").status_code == 200


@pytest.mark.parametrize("target", ["//evil.org", "https://evil.org", "/\\evil.org", "evil", "/a\r\nx"])
def test_signing_in_never_leads_to_another_site(client: TestClient, service: Service, target: str) -> None:
    set_up(client, service)
    answer = client.post("/login", data={"email": "ann@example.org", "password": PASSWORD, "next": target})
    assert answer.headers["location"] == "/"


def test_the_session_changes_at_sign_in_and_the_old_one_is_dead(client: TestClient, service: Service) -> None:
    set_up(client, service)
    old = client.cookies["wuya_session"]
    client.post("/api/auth/login", json={"email": "ann@example.org", "password": PASSWORD})
    assert client.cookies["wuya_session"] != old
    client.cookies.set("wuya_session", old, domain="127.0.0.1", path="/")
    fixed = TestClient(client.app, base_url=str(client.base_url), cookies={"wuya_session": old})
    assert fixed.get("/api/me").status_code == 401


def test_cookies_are_closed_to_scripts_and_other_sites(client: TestClient, service: Service) -> None:
    set_up(client, service)
    answer = client.post("/api/auth/login", json={"email": "ann@example.org", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie
    with reading(service.database) as connection:
        kept = [row["token_sha256"] for row in store.sessions(connection, client.get("/api/me").json()["id"])]
    assert client.cookies["wuya_session"] not in kept, "the database holds hashes only"


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def test_guessing_is_slowed_down(client: TestClient, service: Service) -> None:
    set_up(client, service)
    clock = Clock()
    service.put(LoginThrottle(service.database, clock=clock))
    body = {"email": "ann@example.org", "password": "wrong password"}
    codes = [client.post("/api/auth/login", json=body).json()["code"] for _ in range(7)]
    assert codes == ["wrong_password"] * 5 + ["too_many_logins"] * 2
    right = body | {"password": PASSWORD}
    blocked = client.post("/api/auth/login", json=right)
    assert blocked.status_code == 429 and int(blocked.headers["retry-after"]) >= 1
    other = client.post("/api/auth/login", json={"email": "nobody@example.org", "password": "x" * 12})
    assert other.json()["detail"] == "the address or the password is wrong", "the same words for nobody"
    clock.now += 1
    assert client.post("/api/auth/login", json=right).status_code == 204


def test_several_processes_brake_together(database: str | Path) -> None:
    """Each has its own throttle; a hundred tries sent at the same moment are not a hundred tries."""
    engines = [open_engine(database) for _ in range(2)]
    clock = Clock()
    throttles = [LoginThrottle(engine, clock=clock) for engine in engines]
    waits = []
    threads = [
        threading.Thread(target=lambda n=n: waits.append(throttles[n % 2].enter("ann", "192.0.2"))) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(waits) == [0.0] * FREE + [1.0] * 15
    clock.now += 1
    assert throttles[0].enter("ann", "192.0.2") == 0 and throttles[1].enter("ann", "192.0.2") == 2
    throttles[0].succeeded("ann", "192.0.2")
    assert throttles[1].enter("ann", "192.0.2") == 0, "forgotten by all"
    throttles[1].undecided("ann", "192.0.2")
    others = [throttles[n % 2].enter(f"user {n}", "192.0.2") for n in range(60)]
    assert [wait > 0 for wait in others] == [False] * 45 + [True] * 15, "a network has fifty in all"
    assert throttles[0].enter("ann", "198.51.100") == 0
    for engine in engines:
        with reading(engine) as connection:
            assert not any("ann" in name for name in connection.execute(select(RateBucket.name)).scalars())
        engine.dispose()


def test_roles_come_from_invitations_and_changing_them_signs_out(client: TestClient, service: Service) -> None:
    set_up(client, service)
    labeler = join(client, "bo@example.org", "labeler")
    me = labeler.get("/api/me").json()
    assert me["role"] == "labeler" and labeler.get("/api/admin/users").status_code == 403
    changed = client.patch(f"/api/admin/users/{me['id']}", json={"role": "lead"})
    assert changed.json()["role"] == "lead"
    assert labeler.get("/api/me").status_code == 401, "signed out: the session belonged to another role"


def test_an_invitation_for_an_address_is_for_that_address(client: TestClient, service: Service) -> None:
    set_up(client, service)
    link = client.post("/api/admin/users/invite", json={"email": "Bo@x.org"}).json()["link"]
    other = TestClient(client.app, base_url=str(client.base_url))
    body = {"token": link.partition("#")[2], "email": "eve@x.org", "password": PASSWORD}
    assert other.post("/api/auth/join", json=body).json()["code"] == "other_address"
    assert other.post("/api/auth/join", json=body | {"email": "bo@x.org"}).status_code == 204
    assert other.post("/api/auth/join", json=body | {"email": "bo@x.org"}).json()["code"] == "link_over"


def test_suspended_people_are_out_at_once(client: TestClient, service: Service) -> None:
    set_up(client, service)
    user = join(client, "bo@example.org")
    id = user.get("/api/me").json()["id"]
    assert client.patch(f"/api/admin/users/{id}", json={"status": "suspended"}).status_code == 200
    assert user.get("/api/me").status_code == 401
    body = {"email": "bo@example.org", "password": PASSWORD}
    assert user.post("/api/auth/login", json=body).json()["code"] == "wrong_password"


def test_a_reset_link_sets_a_password_once_and_signs_others_out(client: TestClient, service: Service) -> None:
    set_up(client, service)
    user = join(client, "bo@example.org")
    id = user.get("/api/me").json()["id"]
    token = client.post(f"/api/admin/users/{id}/reset").json()["link"].partition("#")[2]
    fresh = TestClient(client.app, base_url=str(client.base_url))
    body = {"token": token, "password": "a new pass phrase"}
    assert fresh.post("/api/auth/password/reset", json=body).status_code == 204
    assert fresh.post("/api/auth/password/reset", json=body).json()["code"] == "link_over"
    assert user.get("/api/me").status_code == 401 and fresh.get("/api/me").status_code == 200


def test_the_last_admin_stays(client: TestClient, service: Service) -> None:
    set_up(client, service)
    id = client.get("/api/me").json()["id"]
    assert client.patch(f"/api/admin/users/{id}", json={"role": "user"}).json()["code"] == "last_admin"
    assert client.delete("/api/me").json()["code"] == "last_admin"


def test_deleting_an_account_clears_the_names(client: TestClient, service: Service) -> None:
    set_up(client, service)
    user = join(client, "bo@example.org")
    id = user.get("/api/me").json()["id"]
    assert user.delete("/api/me").json() == {"deleted": True}
    with reading(service.database) as connection:
        row = store.user(connection, id)
    assert row is not None and row["status"] == "deleted"
    assert not {"bo", "bo@example.org"} & {row["display_name"], row["email_ci"]}


def test_sign_up_is_closed_unless_it_is_opened(client: TestClient, service: Service) -> None:
    set_up(client, service, sign_up="closed")
    assert client.post("/api/admin/users/invite", json={}).json()["code"] == "sign_up_closed"
    other = TestClient(client.app, base_url=str(client.base_url))
    body = {"email": "eve@x.org", "password": PASSWORD}
    assert other.post("/api/auth/join", json=body).json()["code"] == "sign_up_closed"
    client.patch("/api/admin/settings", json={"sign_up": "invite"})
    assert other.post("/api/auth/join", json=body).json()["code"] == "invitation_needed"
    client.patch("/api/admin/settings", json={"sign_up": "open"})
    assert other.post("/api/auth/join", json=body).status_code == 204
    assert other.get("/api/me").json()["role"] == "user"


@pytest.mark.parametrize("asked", [True, False])
def test_nothing_reaches_training_where_people_are_not_asked(client: TestClient, service: Service, asked: bool) -> None:
    set_up(client, service, ask_data_use=asked)
    assert client.get("/api/me").json()["data_use_offered"] is asked
    me = client.get("/api/me").json()["id"]
    with writing(service.database) as connection:
        connection.execute(Conversation.__table__.insert().values(id="c", user_id=me, data_use=True))
        for id, parent, role in (("q", None, "user"), ("a", "q", "assistant")):
            row = {"id": id, "conversation_id": "c", "parent_id": parent, "role": role, "content": "some words"}
            connection.execute(ChatMessage.__table__.insert().values(**row))
    assert client.put("/api/messages/a/feedback", json={"value": 1}).status_code == 200
    with FeedbackStore(service.database.url.render_as_string(hide_password=False)) as feedback:
        assert len(list(feedback.feedback())) == asked


def test_links_for_everybody_can_be_switched_off(client: TestClient, service: Service) -> None:
    set_up(client, service)
    me = client.get("/api/me").json()["id"]
    with writing(service.database) as connection:
        connection.execute(Conversation.__table__.insert().values(id="c", user_id=me))
        frozen = {"title": "t", "messages": []}
        row = {"id": "s", "conversation_id": "c", "leaf_id": "m", "snapshot": frozen, "visibility": "link"}
        connection.execute(Share.__table__.insert().values(**row))
    stranger = TestClient(client.app, base_url=str(client.base_url))
    assert stranger.get("/api/shares/s").status_code == 200
    client.patch("/api/admin/settings", json={"public_shares": False})
    assert stranger.get("/api/shares/s").status_code == 401
    assert client.get("/api/shares/s").status_code == 200
    client.patch("/api/admin/settings", json={"sharing": False})
    assert client.get("/api/shares/s").status_code == 404 and client.get("/s/s").status_code == 404
    assert client.post("/api/conversations/c/share", json={}).json()["code"] == "sharing_off"
    assert client.get("/api/chat/config").json()["sharing"] is False


def test_a_second_factor(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(client, service)
    user = join(client, "bo@example.org")
    clock = [1_700_000_000.0]
    monkeypatch.setattr("wuya.web.accounts.totp.time.time", lambda: clock[0])
    offered = user.post("/api/auth/totp/begin").json()
    assert offered["uri"].startswith("otpauth://totp/wuya:bo?secret=") and not user.get("/api/me").json()["totp"]
    secret = totp.read_secret(offered["secret"])
    assert secret is not None

    def code() -> str:
        return totp.code_at(secret, int(clock[0]) // 30)

    wrong = {"secret": offered["secret"], "code": "000000" if code() != "000000" else "000001"}
    assert user.post("/api/auth/totp/enable", json=wrong).json()["code"] == "wrong_code"
    right = wrong | {"code": code(), "password": PASSWORD}
    assert user.post("/api/auth/totp/enable", json=right).status_code == 204
    me = user.get("/api/me").json()
    assert me["totp"] and me["has_password"]
    with reading(service.database) as connection:
        kept = store.user_by_email(connection, "bo@example.org")["totp_secret_enc"]  # type: ignore[index]
    assert offered["secret"] not in kept and secret.hex() not in kept
    body = {"email": "bo@example.org", "password": PASSWORD}
    stranger = TestClient(client.app, base_url=str(client.base_url), follow_redirects=False)
    assert stranger.post("/api/auth/login", json=body).json()["code"] == "code_needed"
    used = stranger.post("/api/auth/login", json=body | {"code": code()})
    assert used.json()["code"] == "wrong_code", "it was used to switch the factor on"
    clock[0] += 30
    form = stranger.post("/login", data=body, headers={"accept": "text/html"})
    assert form.status_code == 401 and 'name="code"' in form.text, "also without scripts"
    assert stranger.post("/login", data=body | {"code": code()}).headers["location"] == "/"
    clock[0] += 30
    assert user.post("/api/auth/totp/disable", json={"password": "wrong"}).json()["code"] == "wrong_password"
    link = client.post(f"/api/admin/users/{user.get('/api/me').json()['id']}/reset").json()["link"]
    reset = {"token": link.partition("#")[2], "password": "another long password"}
    assert stranger.post("/api/auth/password/reset", json=reset).status_code == 204, "the phone is lost"
    assert not stranger.get("/api/me").json()["totp"]


def test_codes_are_those_of_rfc_6238_and_sealed_secrets_are_whole_or_nothing() -> None:
    secret = b"12345678901234567890"
    for at, code in ((59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")):
        assert totp.code_at(secret, at // 30) == code
        factor = totp.accepted(totp.Factor(secret), code, at=at)
        assert factor is not None and totp.accepted(factor, code, at=at) is None, "once"
        assert totp.accepted(totp.Factor(secret), code, at=at + 90) is None, "too late"
    sealed = totp.seal(totp.Factor(secret, 7), b"key")
    assert totp.unseal(sealed, b"key") == totp.Factor(secret, 7)
    assert (
        totp.unseal(sealed, b"other") is None and totp.unseal(sealed.replace('"step": 7', '"step": 6'), b"key") is None
    )
    assert totp.unseal("", b"key") is None and totp.read_secret("no secret!") is None


def test_the_audit_log_shows_what_was_done_and_that_it_was_changed(client: TestClient, service: Service) -> None:
    set_up(client, service)
    join(client, "bo@example.org")
    found = client.get("/api/admin/audit").json()
    assert found["intact"] and {"setup", "login", "user.invite", "join"} <= {row["action"] for row in found["items"]}
    with writing(service.database) as connection:
        connection.execute(AuditRow.__table__.update().where(AuditRow.seq == 2).values(action="nothing"))
    with reading(service.database) as connection:
        assert audit.verify(connection, service.settings.secret)[1] == 2
    assert client.get("/api/admin/audit").json()["intact"] is False


def test_setting_up_in_a_browser(live_server: Any, page: Any) -> None:
    page.goto(flows.setup_link(live_server.service, live_server.url))
    assert "#" not in page.url, "the secret leaves the address bar"
    page.get_by_label("Name").fill("Ann")
    page.get_by_label("E-mail address").fill("ann@example.org")
    page.locator("input[name=password]").fill(PASSWORD)
    page.get_by_role("button", name="Make the admin account").click()
    page.wait_for_url(lambda url: "/setup" not in url)
    page.goto(live_server.url + "/account")
    page.get_by_text("This browser").wait_for()
    page.get_by_role("button", name="Account", exact=True).click()
    page.get_by_role("menuitem", name="Sign out").click()
    page.wait_for_url("**/login")
