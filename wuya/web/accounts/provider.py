"""What an OpenID provider says: its discovery document, its keys, and who somebody is.

    provider = Provider(settings.oidc)
    url = provider.authorization_url(redirect_uri=..., state=..., nonce=..., verifier=...)   # send the browser there
    person = provider.person(code, redirect_uri=..., nonce=..., verifier=...)                # it came back with a code

OpenID Connect Core 1.0, section 3.1 (authorization code), with PKCE S256 (RFC 7636). Signatures and times are checked
by joserfc, which Authlib itself uses for ID tokens. Only asymmetric signatures count: with HS256 the "key" would be
the client's secret, or a public key that somebody passes off as one.
"""

import base64
import hashlib
import hmac
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx

from wuya.errors import ConfigError, RunError
from wuya.web.settings import LOOPBACK, OidcSettings

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
SCOPE = "openid email profile"
TIMEOUT_SECONDS = 5.0
AT_ONCE = 8
"""Sign-ins that ask the provider at the same time; when it hangs, the rest of the service does not wait with it."""
AGAIN_SECONDS = 5.0
"""A provider that did not answer is left alone for so long."""
KEEP_SECONDS = 3600.0
"""How long discovery document and keys are believed."""
KEYS_AGAIN_SECONDS = 30.0
"""An unknown key has the keys read again, but not more often."""
LEEWAY_SECONDS = 60
"""How far the provider's clock may be off."""


class NotBelieved(Exception):
    """What came back does not prove who somebody is; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who the provider says it is."""

    issuer: str
    subject: str
    email: str
    email_verified: bool
    name: str


def check_installed() -> None:
    """Raises: ConfigError if the extra is missing."""
    try:
        import joserfc  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "sign-in through OpenID Connect needs the package `joserfc`", hint="install it: `pip install 'wuya[oidc]'`"
        ) from error


class Provider:
    """One issuer. Nothing is asked before somebody signs in; safe to use from several threads."""

    def __init__(self, settings: OidcSettings) -> None:
        check_installed()
        self.settings = settings
        self._lock = threading.Lock()
        self._document: dict[str, Any] = {}
        self._keys: list[dict[str, Any]] = []
        self._document_at = self._keys_at = self._failed_at = -1e9
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where the browser asks for a code. Raises: RunError, ConfigError."""
        with self._turn():
            endpoint = str(self.document()["authorization_endpoint"])
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": SCOPE,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    def person(self, code: str, *, redirect_uri: str, nonce: str, verifier: str) -> Person:
        """Whose code it is. Raises: NotBelieved; RunError, ConfigError if the provider can't be asked."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        with self._turn():
            document = self.document()
            tokens = self._ask(
                "POST", document["token_endpoint"], **self._as_client(form | {"code_verifier": verifier}, document)
            )
            claims = self.claims(str(tokens.get("id_token", "")), nonce=nonce)
            if "email" not in claims and document.get("userinfo_endpoint"):  # where the standard puts it, Core 5.4
                headers = {"authorization": f"Bearer {tokens.get('access_token', '')}"}
                more = self._ask("GET", document["userinfo_endpoint"], headers=headers)
                if more.get("sub") != claims["sub"]:
                    raise NotBelieved("userinfo is about somebody else")
                claims = {**more, **claims}
        return Person(
            issuer=self.settings.issuer,
            subject=claims["sub"],
            email=str(claims.get("email", "")).strip().lower(),
            email_verified=claims.get("email_verified") is True or claims.get("email_verified") == "true",
            name=str(claims.get("name") or ""),
        )

    def claims(self, id_token: str, *, nonce: str) -> dict[str, Any]:
        """What an ID token says, once signature, issuer, audience, times and nonce are right. Raises: NotBelieved."""
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError, JoseError
        from joserfc.jws import JWSRegistry

        registry = JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
        client = self.settings.client_id
        rules = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self.settings.issuer},
            aud={"essential": True, "value": client},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        try:
            try:
                claims = jwt.decode(id_token, self._key_set(), registry=registry).claims
            except InvalidKeyIdError:
                claims = jwt.decode(id_token, self._key_set(again=True), registry=registry).claims
            rules.validate(claims)
        except (JoseError, ValueError) as error:
            raise NotBelieved(f"ID token: {type(error).__name__}") from error
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise NotBelieved("ID token: another nonce")
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if claims.get("azp", client if len(audiences) == 1 else None) != client:
            raise NotBelieved("ID token: another authorized party")
        if not 0 < len(claims["sub"]) <= 255:
            raise NotBelieved("ID token: no subject")
        return dict(claims)

    def document(self) -> Mapping[str, Any]:
        """The discovery document. Raises: RunError (unreachable), ConfigError (not this issuer's, or no use to us)."""
        with self._lock:
            if time.monotonic() - self._document_at > KEEP_SECONDS:
                if time.monotonic() - self._failed_at < AGAIN_SECONDS:
                    raise RunError("the provider did not answer a moment ago", hint="try again in a few seconds")
                try:
                    self._document = self._read_document()
                except (RunError, ConfigError):
                    self._failed_at = time.monotonic()
                    raise
                self._document_at = time.monotonic()
            return self._document

    def _read_document(self) -> dict[str, Any]:
        issuer = self.settings.issuer
        found = self._get(issuer.rstrip("/") + "/.well-known/openid-configuration")
        if found.get("issuer") != issuer:
            raise ConfigError(
                "the provider calls itself by another name than `--oidc_issuer`",
                found=str(found.get("issuer"))[:200],
                hint=f"if it is yours: `--oidc_issuer {str(found.get('issuer'))[:200]}`, to the last slash",
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            url = found.get(name)
            if url is None and name == "userinfo_endpoint":
                continue
            if not is_safe_url(str(url)):
                raise ConfigError(f"the provider's {name} is no HTTPS address", found=str(url)[:200])
        if "S256" not in found.get("code_challenge_methods_supported", ["S256"]):
            raise ConfigError("the provider does not know PKCE with S256", hint="switch it on for this client there")
        return found

    def _key_set(self, *, again: bool = False) -> Any:
        """The provider's public keys: those for signatures; a shared secret is never one."""
        from joserfc.errors import JoseError
        from joserfc.jwk import JWKRegistry, KeySet

        uri = str(self.document()["jwks_uri"])
        with self._lock:
            if time.monotonic() - self._keys_at > (KEYS_AGAIN_SECONDS if again else KEEP_SECONDS):
                self._keys = [key for key in self._get(uri).get("keys", []) if isinstance(key, dict)]
                self._keys_at = time.monotonic()
            found = []
            for key in self._keys:
                if key.get("kty") not in ("RSA", "EC", "OKP") or key.get("use", "sig") != "sig":
                    continue
                try:
                    found.append(JWKRegistry.import_key(key))
                except (JoseError, ValueError):
                    continue  # of a kind that we can't read
        return KeySet(found)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            raise RunError("too many people sign in through the provider at this moment", hint="try again")
        try:
            yield
        finally:
            self._turns.release()

    def _as_client(self, form: dict[str, str], document: Mapping[str, Any]) -> dict[str, Any]:
        """The form with what proves that we are the client: HTTP Basic unless the provider only takes the form."""
        id, secret = self.settings.client_id, self.settings.client_secret
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if secret and "client_secret_basic" in methods:
            return {"data": form, "auth": (quote(id, safe=""), quote(secret, safe=""))}  # RFC 6749, section 2.3.1
        return {"data": form | {"client_id": id} | ({"client_secret": secret} if secret else {})}

    def _get(self, url: str) -> dict[str, Any]:
        try:
            return self._ask("GET", url)
        except NotBelieved as error:
            raise RunError(f"can't read `{url}`", found=str(error), hint="is `--oidc_issuer` right?") from error

    def _ask(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        headers = {"accept": "application/json"} | more.pop("headers", {})
        try:
            answer = httpx.request(method, url, headers=headers, timeout=TIMEOUT_SECONDS, verify=_trusted(), **more)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            where = urlsplit(url).netloc
            hint = "is it there, and `--oidc_issuer` right?"
            raise RunError(f"can't reach the provider at {where}", found=type(error).__name__, hint=hint) from error
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.status_code != 200 or not isinstance(found, dict):
            reason = str(found.get("error", ""))[:60] if isinstance(found, dict) else "no JSON object"
            raise NotBelieved(f"HTTP {answer.status_code} {reason}")
        return found


@cache
def _trusted() -> ssl.SSLContext:
    """Certificates, read once: that takes longer than a request."""
    return httpx.create_ssl_context()


def is_safe_url(url: str) -> bool:
    """Whether tokens may travel there: HTTPS, or this machine (to try it out)."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))
