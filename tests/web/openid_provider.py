"""A small OpenID provider on loopback that signs real tokens, checks PKCE, and lies where a test tells it to.

    provider.person = {"sub": "1", "email": "ann@example.org", "email_verified": True}
    provider.lies = {"iss": "https://evil.org"}         # claims of the ID token, or `header`, `key`, `none`

Not ours to import: it uses none of wuya's code.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT, SECRET = "wuya", "a secret with : and %"


class OpenIdProvider:
    """Runs until `close`."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.reset()

    def reset(self) -> None:
        self.person: dict[str, Any] = {"sub": "1", "email": "bo@example.org", "email_verified": True, "name": "Bo"}
        self.lies: dict[str, Any] = {}
        self.document_lies: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def document(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/keys",
            "code_challenge_methods_supported": ["plain", "S256"],
        } | self.document_lies

    def authorize(self, query: dict[str, str]) -> str:
        assert query["response_type"] == "code" and query["client_id"] == CLIENT and "openid" in query["scope"]
        assert query["code_challenge_method"] == "S256" and query["nonce"] != query["state"]
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state'], 'iss': self.issuer})}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        id, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if (unquote(id), unquote(secret)) != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        query = self.codes.pop(form["code"], None)  # a code works once
        digest = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if query is None or digest.rstrip(b"=").decode() != query["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        if form["redirect_uri"] != query["redirect_uri"] or form["grant_type"] != "authorization_code":
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": "bearer of " + self.person["sub"], "id_token": self.id_token(query["nonce"])}

    def id_token(self, nonce: str) -> str:
        lies = dict(self.lies)
        header = {"alg": "RS256", "kid": "one"} | lies.pop("header", {})
        key = lies.pop("key", self.key)
        times = {"iat": int(time.time()), "exp": int(time.time()) + 300}
        claims = {"iss": self.issuer, "aud": CLIENT, "nonce": nonce} | times | self.person | lies
        claims = {name: value for name, value in claims.items() if value is not None}
        if header["alg"] == "none":
            parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims))
            return b".".join([*parts, b""]).decode()
        return jwt.encode(header, claims, key, algorithms=[header["alg"]])

    def public_key_as_a_shared_secret(self) -> OctKey:
        """What a forger has: the public key's PEM, used as the key of HS256."""
        return OctKey.import_key(base64.b64encode(self.key.as_pem(private=False)))

    def _handler(provider) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self, status: int, body: Any, headers: tuple[str, str] = ("cache-control", "no-store")) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header(*headers)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                provider.asked.append(url.path)
                if url.path == "/.well-known/openid-configuration":
                    self.answer(200, provider.document())
                elif url.path == "/keys":
                    unreadable = [{"kty": "RSA", "use": "enc", "kid": "two"}, {"kty": "new", "kid": "three"}]
                    self.answer(200, {"keys": [*unreadable, provider.key.as_dict(private=False)]})
                elif url.path == "/userinfo" and "bearer of" in self.headers["authorization"]:
                    self.answer(200, provider.userinfo)
                elif url.path == "/authorize":
                    query = {name: values[0] for name, values in parse_qs(url.query).items()}
                    self.answer(303, {}, ("location", provider.authorize(query)))
                else:
                    self.answer(404, {})

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                self.answer(*provider.token(form, self.headers.get("authorization", "")))

        return Handler
