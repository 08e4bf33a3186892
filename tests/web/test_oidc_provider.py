"""The protocol of OpenID alone: what proves nothing is not believed, and settings are checked."""

from typing import Any

import pytest

pytest.importorskip("joserfc", reason="the extra `oidc` is not installed")

from joserfc.jwk import RSAKey

from tests.web.openid_provider import CLIENT, OpenIdProvider
from wuya.errors import ConfigError, RunError
from wuya.web.accounts import tickets
from wuya.web.accounts.provider import NotBelieved, Provider
from wuya.web.serve import ServeConfig
from wuya.web.settings import OidcSettings


@pytest.fixture(scope="module")
def other_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "one"})


@pytest.mark.parametrize(
    "lies",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "https://evil.org"},
        {"iss": None},
        {"aud": "another"},
        {"aud": [CLIENT, "another"]},
        {"azp": "another"},
        {"exp": 1_700_000_000, "iat": 1_600_000_000},
        {"exp": None},
        {"iat": 10_000_000_000},
        {"sub": ""},
        {"sub": 1},
        {"header": {"alg": "none"}},
        {"header": {"alg": "HS256"}, "key": "public"},
        {"key": "another"},
        {"header": {"kid": "unknown"}, "key": "another"},
    ],
    ids=lambda lies: " ".join(f"{name}={value}" for name, value in lies.items())[:40],
)
def test_a_token_that_proves_nothing_is_not_believed(
    provider: OpenIdProvider, lies: dict[str, Any], other_key: RSAKey
) -> None:
    ours = Provider(OidcSettings(issuer=provider.issuer, client_id=CLIENT))
    assert ours.claims(provider.id_token("n"), nonce="n")["email"] == "bo@example.org"
    keys = {"public": provider.public_key_as_a_shared_secret, "another": lambda: other_key}
    provider.lies = {name: keys[value]() if name == "key" else value for name, value in lies.items()}
    with pytest.raises(NotBelieved):
        ours.claims(provider.id_token("n"), nonce="n")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e30.e30.e30", "\u00e9.\u00e9.\u00e9"])
def test_what_is_no_token_is_not_believed(provider: OpenIdProvider, token: str) -> None:
    with pytest.raises(NotBelieved):
        Provider(OidcSettings(issuer=provider.issuer, client_id=CLIENT)).claims(token, nonce="n")


def test_a_ticket_ends_and_is_for_one_purpose() -> None:
    key = b"k" * 32
    ticket = tickets.seal(key, "a", {"id": "1"})
    assert (tickets.opened(key, "a", ticket) or {})["id"] == "1"
    assert tickets.opened(key, "b", ticket) is None and tickets.opened(b"l" * 32, "a", ticket) is None
    assert tickets.opened(key, "a", tickets.seal(key, "a", {"id": "1"}, seconds=-1)) is None
    assert tickets.opened(key, "a", "") is None and tickets.opened(key, "a", "\u00e9.\u00e9") is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"oidc_issuer": "http://login.example.org", "oidc_client": "x"}, "no HTTPS address"),
        ({"oidc_issuer": "https://login.example.org"}, "needs `--oidc_client`"),
        ({"oidc_issuer": "https://login.example.org", "oidc_client": "x", "accounts": False}, "nobody signs in"),
        ({"oidc_client": "x"}, "without a provider"),
        ({"oidc_issuer": "https://x.org", "oidc_client": "x", "oidc_domains": ("a@b.org",)}, "has no domain"),
    ],
)
def test_wrong_settings_are_said_in_words(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        ServeConfig(**{"accounts": True, **more})
    assert error.value.hint


@pytest.mark.parametrize(
    "lies",
    [
        {"issuer": "https://evil.org"},
        {"token_endpoint": "http://evil.org/token"},
        {"jwks_uri": None},
        {"code_challenge_methods_supported": ["plain"]},
    ],
)
def test_a_provider_that_can_not_be_used_is_not_used(provider: OpenIdProvider, lies: dict[str, Any]) -> None:
    provider.document_lies = lies
    ours = Provider(OidcSettings(issuer=provider.issuer, client_id=CLIENT))
    with pytest.raises(ConfigError):
        ours.document()
    with pytest.raises(RunError, match="a moment ago"):
        ours.document()
    assert len(provider.asked) == 1, "a provider that failed is left alone for a moment"
