"""Pure ASGI around every request: ids, headers, host names, cross-site requests, body sizes.

No BaseHTTPMiddleware: with it a handler never learns that its client has left (docs/concepts/service.md).
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wuya.web import sane_json
from wuya.web.errors import ApiError, bug, error_response, is_v1, local_path
from wuya.web.operations.metrics import metrics_of
from wuya.web.service import Service
from wuya.web.settings import FORWARDED, FORWARDED_PREFIXES, LOOPBACK_NAMES, Settings

log = logging.getLogger("wuya.web.access")

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/static"})
"""Routes whose requests are not worth a line."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
IMPORT_PATHS = ("/api/import", "/api/prompts/import")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


def cross_site(method: str, headers: Headers, *, scheme: str, trusted_origins: Iterable[str] = ()) -> str:
    """Why a request must be refused as forged by another site; "" if it may pass.

    The algorithm of Go 1.25's `http.CrossOriginProtection`: browsers say where a request comes from, programs that are
    no browsers send neither header and hold no cookies of a victim.
    """
    if method in SAFE_METHODS:
        return ""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin and origin in trusted_origins:
        return ""
    if site in ("same-origin", "none"):
        return ""
    if site is not None:
        return f"sec-fetch-site is {site}"
    if origin is None:
        return ""
    asked = urlsplit(origin)
    if asked.netloc.lower() == headers.get("host", "").lower() and asked.scheme in ("http", "https", scheme):
        return ""
    return "the origin is another site"


def is_forwarded(headers: Headers) -> bool:
    """Whether a reverse proxy handed a request on, so that it is not this machine's own."""
    return any(name in FORWARDED or name.startswith(FORWARDED_PREFIXES) for name in headers)


def host_name(headers: Headers) -> str:
    """The host that a request asks for, without its port."""
    host = headers.get("host", "")
    return host.rpartition(":")[0] if re.search(r":\d+$", host) else host


def is_own(headers: Headers) -> bool:
    """Whether a request names this machine and bears no mark of a reverse proxy."""
    return host_name(headers).lower() in LOOPBACK_NAMES and not is_forwarded(headers)


@dataclass(slots=True)
class _Seen:
    """What became of a request; 499: the client left before the answer."""

    status: int = 499
    started: bool = False
    since: float = field(default_factory=time.monotonic)


class Shield:
    """The outermost middleware of the application."""

    def __init__(self, app: ASGIApp, settings: Settings, service: Service | None = None) -> None:
        self.app = app
        self.settings = settings
        self.service = service
        self._hosts = set(settings.host_names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        prefix, path = self.settings.root_path or scope.get("root_path", ""), scope["path"]
        scope["root_path"] = prefix
        if (
            prefix and path != prefix and not path.startswith(f"{prefix}/")
        ):  # the proxy has cut it off: routes expect it
            scope["path"] = prefix + path
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        scope["request_id"] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        seen = _Seen()
        sender = self._with_headers(scope["request_id"], send, seen)
        try:
            refusal = self._refusal(request)
            if refusal is not None:
                await error_response(request, refusal)(scope, receive, sender)
            else:
                await self.app(scope, self._limited(request, receive), sender)
        except Exception as error:  # a bug: the answer has our headers too
            if seen.started:
                raise
            await error_response(request, bug(request, error))(scope, receive, sender)
        finally:
            self._note(scope, request, seen)

    def _note(self, scope: Scope, request: Request, seen: "_Seen") -> None:
        """A line in the log and a count: the route's pattern, never the path's own words or the query."""
        seconds = time.monotonic() - seen.since
        other = "/static" if "/static/" in scope["path"] else "unmatched"
        route = scope["app"].state.patterns.get(scope.get("endpoint"), other) if "app" in scope else other
        if (service := self.service) is not None:
            metrics = metrics_of(service)
            metrics.requests.labels(route, request.method if request.method in METHODS else "other", seen.status).inc()
            metrics.request_seconds.labels(route).observe(seconds)
        fields = {"request_id": scope["request_id"], "method": request.method[:10], "route": route}
        fields |= {"status": seen.status, "ms": round(seconds * 1000)}
        log.log(logging.DEBUG if route in QUIET else logging.INFO, "request", extra=fields)

    def _refusal(self, request: Request) -> ApiError | None:
        name = host_name(request.headers)
        if "*" not in self._hosts and name.lower() not in self._hosts:
            return ApiError(400, "unknown_host", f"this server does not answer for the host {name[:100]!r}")
        if not (self.settings.accounts or self.settings.open_to_everyone) and is_forwarded(request.headers):
            message = (
                "this request came through a reverse proxy, and nobody signs in here: everyone would be the admin; "
                "start the server with `--accounts --public_url https://...`, or with `--open_to_everyone`"
            )
            return ApiError(403, "proxied", message)
        path = local_path(request)
        has_cookies = "cookie" in request.headers
        by_key = request.headers.get("authorization", "").startswith("Bearer ") and not has_cookies
        if not by_key:
            reason = cross_site(request.method, request.headers, scheme=request.url.scheme)
            if reason:
                return ApiError(403, "cross_site", f"a page of another site sent this request: {reason}")
        if path.startswith("/api/") and request.method not in SAFE_METHODS and _has_body(request.headers):
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json" and not (path in IMPORT_PATHS and kind in IMPORT_TYPES):
                return ApiError(415, "unsupported_media_type", "send JSON: content-type application/json")
        length = request.headers.get("content-length", "0")
        limit = self._limit(path)
        if length.isdigit() and int(length) > limit:
            return ApiError(413, "request_too_large", f"the request has more than {limit:,} bytes")
        return None

    def _limit(self, path: str) -> int:
        return self.settings.max_import_bytes if path in IMPORT_PATHS else self.settings.max_body_bytes

    def _limited(self, request: Request, receive: Receive) -> Receive:
        """Count the body of a request that does not say its length; one that dribbles in holds no handler for long."""
        path, seen, is_whole = local_path(request), 0, False
        limit = self._limit(path)
        seconds = self.settings.body_seconds * (10 if path in IMPORT_PATHS else 1)
        late = asyncio.get_running_loop().time() + seconds
        is_json = path.startswith("/api/") and path not in IMPORT_PATHS
        body = bytearray()

        async def counted() -> Message:
            nonlocal seen, is_whole
            if is_whole:  # what comes now is that the client has left, and that may take an hour
                return await receive()
            try:
                async with asyncio.timeout_at(late):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the request was not whole after {seconds:g} s") from None
            if message["type"] == "http.request":
                is_whole = not message.get("more_body", False)
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise HTTPException(413, f"the request has more than {limit:,} bytes")
                if is_json:  # what is stored here must be readable for ever
                    body.extend(message.get("body", b""))
                    if is_whole and (wrong := sane_json.problem(bytes(body))):
                        raise HTTPException(422, wrong)
            return message

        return counted

    def _with_headers(self, request_id: str, send: Send, seen: "_Seen") -> Send:
        https = self.settings.https

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status, seen.started = int(message["status"]), True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = request_id
                headers.setdefault("cache-control", "no-store")
                if https:
                    headers.setdefault("strict-transport-security", "max-age=31536000; includeSubDomains")
            await send(message)

        return sender


class ApiCors:
    """Lets pages of the named origins call `/v1` with a key; never with cookies, and nothing else."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        headers = ["authorization", "content-type", "x-request-id"]
        methods = ["GET", "POST", "DELETE"]
        self.cors = CORSMiddleware(app, allow_origins=origins, allow_methods=methods, allow_headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inside = scope["type"] == "http" and is_v1(local_path(Request(scope)))
        await (self.cors if inside else self.app)(scope, receive, send)


IMPORT_TYPES = frozenset(
    {"application/json", "application/x-ndjson", "application/jsonl", "text/csv", "text/markdown", "text/plain"}
)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
