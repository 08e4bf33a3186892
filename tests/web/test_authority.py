"""Authority ends with whoever gave it; credentials change only for those who prove the old; checks precede work."""

import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from tests.web.test_accounts import PASSWORD, join, set_up
from wuya.database.connection import writing
from wuya.database.labeling_tables import User, now
from wuya.database.service_tables import ChatMessage, Conversation, Session, Share
from wuya.web.accounts import passwords, totp
from wuya.web.accounts.throttle import AddressBrake, LoginThrottle
from wuya.web.errors import ApiError
from wuya.web.service import Service


@pytest.fixture
def accounts() -> bool:
    return True


def second_admin(client: TestClient, service: Service) -> TestClient:
    set_up(client, service)
    other = join(client, "bo@example.org")
    client.patch(f"/api/admin/users/{other.get('/api/me').json()['id']}", json={"role": "admin"})
    assert other.post("/api/auth/login", json={"email": "bo@example.org", "password": PASSWORD}).status_code == 204
    return other


def stranger(client: TestClient) -> TestClient:
    return TestClient(client.app, base_url=str(client.base_url), raise_server_exceptions=False)


class TestLinks:
    def test_a_suspended_admins_links_die_and_stay_dead(self, client: TestClient, service: Service) -> None:
        bo = second_admin(client, service)
        ids = {name: who.get("/api/me").json()["id"] for name, who in (("ann", client), ("bo", bo))}
        invitation = bo.post("/api/admin/users/invite", json={"role": "admin"}).json()["link"].partition("#")[2]
        reset = bo.post(f"/api/admin/users/{ids['ann']}/reset").json()["link"].partition("#")[2]
        client.patch(f"/api/admin/users/{ids['bo']}", json={"status": "suspended"})
        assert client.get("/api/admin/users").json()["invitations"] == []
        for _ in range(2):
            eve = stranger(client)
            body = {"token": invitation, "email": "eve@example.org", "password": PASSWORD}
            assert eve.post("/api/auth/join", json=body).json()["code"] == "link_over"
            taken = eve.post("/api/auth/password/reset", json={"token": reset, "password": "another long password"})
            assert taken.json()["code"] == "link_over"
            client.patch(f"/api/admin/users/{ids['bo']}", json={"status": "active"})  # brings no links back

    def test_a_demoted_admins_link_is_checked_when_it_is_used(self, client: TestClient, service: Service) -> None:
        """Also where the role was changed behind our back, in the database itself."""
        bo = second_admin(client, service)
        token = bo.post("/api/admin/users/invite", json={"role": "lead"}).json()["link"].partition("#")[2]
        with writing(service.database) as connection:
            connection.execute(update(User).where(User.email_ci == "bo@example.org").values(role="user"))
        body = {"token": token, "email": "eve@example.org", "password": PASSWORD}
        assert stranger(client).post("/api/auth/join", json=body).json()["code"] == "link_over"

    def test_an_invitation_can_be_taken_back(self, client: TestClient, service: Service) -> None:
        set_up(client, service)
        token = client.post("/api/admin/users/invite", json={}).json()["link"].partition("#")[2]
        [invitation] = client.get("/api/admin/users").json()["invitations"]
        assert client.delete(f"/api/admin/users/invite/{invitation['id']}").status_code == 204
        assert client.delete(f"/api/admin/users/invite/{invitation['id']}").status_code == 404
        body = {"token": token, "email": "eve@example.org", "password": PASSWORD}
        assert stranger(client).post("/api/auth/join", json=body).json()["code"] == "link_over"


class TestSecondFactor:
    def new_factor(self, who: TestClient) -> tuple[dict[str, str], bytes]:
        offered = who.post("/api/auth/totp/begin").json()["secret"]
        secret = totp.read_secret(offered)
        assert secret is not None
        return {"secret": offered, "code": totp.code_at(secret, int(time.time()) // 30)}, secret

    def test_an_open_browser_can_neither_set_nor_replace_it(
        self, client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_up(client, service)
        clock = [1_700_000_000.0]
        monkeypatch.setattr("wuya.web.accounts.totp.time.time", lambda: clock[0])
        factor, secret = self.new_factor(client)
        assert client.post("/api/auth/totp/enable", json=factor).json()["code"] == "wrong_password"
        mine = factor | {"password": PASSWORD}
        assert client.post("/api/auth/totp/enable", json=mine).status_code == 204
        clock[0] += 60
        other, _ = self.new_factor(client)
        stolen = other | {"password": PASSWORD}
        assert client.post("/api/auth/totp/enable", json=stolen).json()["code"] == "wrong_old_code"
        old = totp.code_at(secret, int(clock[0]) // 30)
        assert client.post("/api/auth/totp/enable", json=stolen | {"old_code": old}).status_code == 204

    def test_switching_it_off_takes_what_replacing_it_takes(
        self, client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_up(client, service)
        clock = [1_700_000_000.0]
        monkeypatch.setattr("wuya.web.accounts.totp.time.time", lambda: clock[0])
        factor, secret = self.new_factor(client)
        assert client.post("/api/auth/totp/enable", json=factor | {"password": PASSWORD}).status_code == 204
        clock[0] += 60
        code = totp.code_at(secret, int(clock[0]) // 30)
        for proof, refused in (({"password": PASSWORD}, "wrong_code"), ({"code": code}, "wrong_password")):
            assert client.post("/api/auth/totp/disable", json=proof).json()["code"] == refused
        assert client.get("/api/me").json()["totp"]
        both = {"password": PASSWORD, "code": code}
        assert client.post("/api/auth/totp/disable", json=both).status_code == 204
        assert not client.get("/api/me").json()["totp"]

    @pytest.mark.parametrize("how", ["enable", "disable"])
    def test_codes_are_not_guessed_by_somebody_with_the_password(
        self, client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        set_up(client, service)
        service.put(LoginThrottle(service.database, clock=lambda: 1000.0))
        monkeypatch.setattr("wuya.web.accounts.totp.time.time", lambda: 1_700_000_000.0)
        factor, _ = self.new_factor(client)
        assert client.post("/api/auth/totp/enable", json=factor | {"password": PASSWORD}).status_code == 204
        other, _ = self.new_factor(client)
        guess = {"password": PASSWORD}
        guess |= other | {"old_code": "000000"} if how == "enable" else {"code": "000000"}
        codes = [client.post(f"/api/auth/totp/{how}", json=guess).status_code for _ in range(8)]
        assert codes[:4] == [403] * 4 and codes[-1] == 429

    def test_without_a_password_only_a_fresh_session_may(self, client: TestClient, service: Service) -> None:
        """People who came through an OpenID provider have no password to type."""
        set_up(client, service)
        with writing(service.database) as connection:
            connection.execute(update(User).where(User.role == "admin").values(password_hash=None))
            connection.execute(update(Session).values(created_at=now() - timedelta(minutes=11)))
        factor, _ = self.new_factor(client)
        assert client.post("/api/auth/totp/enable", json=factor).json()["code"] == "sign_in_again"
        with writing(service.database) as connection:
            connection.execute(update(Session).values(created_at=now()))
        assert client.post("/api/auth/totp/enable", json=factor).status_code == 204


class TestChecksComeBeforeWork:
    @pytest.fixture(autouse=True)
    def no_hash(self, client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        set_up(client, service, sign_up="closed")

        def hashed(_password: str) -> str:
            raise AssertionError("64 MiB of work for a stranger")

        monkeypatch.setattr(passwords, "hash_password", hashed)

    @pytest.mark.parametrize("sign_up", ["closed", "invite"])
    def test_strangers_cause_no_hash(self, client: TestClient, sign_up: str) -> None:
        client.patch("/api/admin/settings", json={"sign_up": sign_up})
        eve = stranger(client)
        new = {"email": "eve@example.org", "password": PASSWORD}
        assert eve.post("/api/auth/join", json=new).status_code == 403
        assert eve.post("/api/auth/join", json=new | {"token": "made up"}).status_code == 403
        assert eve.post("/api/auth/password/reset", json={"token": "x", "password": PASSWORD}).status_code == 403
        assert eve.post("/api/auth/setup", json=new | {"token": "made up"}).status_code == 403
        form = {"token": "made up", "email": "eve@example.org", "password": PASSWORD}
        for path in ("/join", "/reset", "/setup"):
            assert eve.post(path, data=form, follow_redirects=False).status_code in (303, 403), path

    def test_a_network_that_floods_is_told_to_wait(self, client: TestClient) -> None:
        eve, body = stranger(client), {"token": "x", "password": PASSWORD}
        codes = [eve.post("/api/auth/password/reset", json=body) for _ in range(int(AddressBrake.BURST) + 5)]
        assert codes[-1].status_code == 429 and int(codes[-1].headers["retry-after"]) >= 1


def test_the_ninth_in_line_is_turned_away_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes wait on threads that all other requests need."""
    gate, hashing = threading.Event(), []

    class Slow:
        def hash(self, _password: str) -> str:
            hashing.append(1)
            gate.wait(10)
            return "hash"

    monkeypatch.setattr(passwords, "_hasher", Slow())
    threads = [threading.Thread(target=passwords.hash_password, args=("x",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    refused = None
    while refused is None and time.monotonic() < deadline:
        try:
            if passwords._waiting._value == 0:  # all eight places are taken
                passwords.hash_password("ninth")
        except ApiError as error:
            refused = error
    gate.set()
    for thread in threads:
        thread.join()
    assert getattr(refused, "status", None) == 503 and len(hashing) == 8


class TestBrakes:
    def test_many_networks_with_one_guess_each_are_braked(self, service: Service) -> None:
        throttle = LoginThrottle(service.database, clock=lambda: 1000.0)
        waits = [throttle.enter("ann@example.org", f"10.0.{i}.0/24", known=False) for i in range(25)]
        assert not any(waits[:20]) and all(wait > 0 for wait in waits[20:])
        assert throttle.enter("ann@example.org", "192.168.1.0/24", known=True) == 0, "she signed in from there before"

    def test_a_clock_set_back_never_bars_for_longer_than_the_limit(self, service: Service) -> None:
        clock = [1_000_000.0]
        throttle = LoginThrottle(service.database, clock=lambda: clock[0])
        for _ in range(6):
            throttle.enter("ann@example.org", "10.0.0.0/24")
        clock[0] -= 86_400
        assert throttle.enter("ann@example.org", "10.0.0.0/24") <= 900

    def test_memory_of_networks_is_bounded(self) -> None:
        brake = AddressBrake(clock=lambda: 0.0)
        brake.MOST_NETWORKS = 100  # type: ignore[misc]
        for number in range(1000):
            assert brake.wait(f"network {number}") == 0
        assert len(brake._buckets) == 100


class TestShares:
    @pytest.fixture
    def share(self, client: TestClient, service: Service) -> str:
        set_up(client, service)
        me = client.get("/api/me").json()["id"]
        with writing(service.database) as connection:
            connection.execute(Conversation.__table__.insert().values(id="c", user_id=me))
            for id, parent, role, text in (("q", None, "user", "question"), ("a", "q", "assistant", "bad words")):
                row = {"id": id, "conversation_id": "c", "parent_id": parent, "role": role, "content": text}
                connection.execute(ChatMessage.__table__.insert().values(**row))
        made = client.post("/api/conversations/c/share", json={"leaf_id": "a", "visibility": "link"})
        return str(made.json()["id"])

    def test_what_a_moderator_hides_leaves_shares_that_exist(
        self, client: TestClient, service: Service, share: str
    ) -> None:
        assert "bad words" in stranger(client).get(f"/api/shares/{share}").text
        with writing(service.database) as connection:
            connection.execute(update(ChatMessage).where(ChatMessage.id == "a").values(hidden_by_moderation=True))
        for path in (f"/api/shares/{share}", f"/s/{share}"):
            assert "bad words" not in stranger(client).get(path).text, path
        assert "bad words" not in client.post(f"/api/shares/{share}/fork").text

    def test_a_suspended_persons_shares_are_closed(self, client: TestClient, service: Service, share: str) -> None:
        with writing(service.database) as connection:
            connection.execute(update(User).where(User.role == "admin").values(status="suspended"))
        assert stranger(client).get(f"/api/shares/{share}").status_code == 404

    def test_a_programs_key_is_nobody_who_signed_in(self, client: TestClient, service: Service, share: str) -> None:
        with writing(service.database) as connection:
            connection.execute(update(Share).values(visibility="users"))
        made = client.post("/api/keys", json={"name": "ci", "scopes": ["runs:write"]})
        secret = made.json()["secret"]
        eve = stranger(client)
        assert eve.get(f"/api/shares/{share}", headers={"authorization": f"Bearer {secret}"}).status_code == 401
        assert eve.get(f"/s/{share}", headers={"authorization": f"Bearer {secret}"}).status_code == 401
        assert client.get(f"/api/shares/{share}").status_code == 200
