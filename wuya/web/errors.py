"""Every failure in the caller's language: problem+json under /api, OpenAI's error object under /v1, a page elsewhere.

Handlers raise `ApiError(404, "not_found", "...")`; nothing else has to know about shapes. `{"detail": ...}` never
leaves this service, and a bug is "internal_error" with a request id, never a traceback.
"""

import logging
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wuya.errors import DataError, RunError, RunLocked, WuyaError
from wuya.inference.backends.protocol import ContextTooLong, EngineError, Overloaded, UnknownModel, Unsupported

log = logging.getLogger("wuya.web")


class ApiError(Exception):
    """A refusal with its HTTP status, a stable code for programs and a sentence for people.

    Args:
        param: the field at fault, if one is.
        kind: OpenAI's `type` under /v1; derived from the status if empty.
        retry_after: seconds after which it makes sense to try again.
        extra: further members of the problem object, for the page.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        kind: str = "",
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.kind = kind
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


ErrorPage = Callable[[Request, ApiError, Mapping[str, str]], Response]
"""What a browser sees; the application brings it (`app.state.error_page`), so nothing here knows of templates."""

_KINDS = {401: "invalid_request_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    400: "invalid_request",
    401: "not_signed_in",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    503: "unavailable",
}
_FOLDER = re.compile(r"`/[^`]*/(?=[^`/]+`)")
"""Where a file lies is the log's affair, its name may be told."""
_V1_CODES = {404: "model_not_found", 405: "method_not_allowed", 413: "request_too_large"}


def error_body(path: str, error: ApiError, request_id: str = "") -> dict[str, Any]:
    """The JSON of an error in the shape that the path's clients expect."""
    if is_v1(path):
        kind = error.kind or _KINDS.get(
            error.status, "server_error" if error.status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }
    if error.param:
        problem["param"] = error.param
    if request_id:
        problem["request_id"] = request_id
    return problem | error.extra


def error_response(request: Request, error: ApiError) -> Response:
    """The answer to a request that failed."""
    path = local_path(request)
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers.setdefault("retry-after", str(max(1, round(error.retry_after))))
    if not (is_v1(path) or path.startswith("/api")) and "text/html" in request.headers.get("accept", ""):
        page: ErrorPage | None = getattr(request.app.state, "error_page", None) if "app" in request.scope else None
        if page is not None:
            return page(request, error, headers)
    body = error_body(path, error, request.scope.get("request_id", ""))
    media_type = "application/json" if is_v1(path) else "application/problem+json"
    return JSONResponse(body, error.status, headers, media_type=media_type)


def as_api_error(error: WuyaError) -> ApiError:
    """One of our own errors, as HTTP says it: the engine's by name, the rest by whose fault it is."""
    text = _FOLDER.sub("`", error.what + (f" (found: {error.found})" if error.found else ""))
    if isinstance(error, Overloaded):
        return ApiError(503, error.code, text, retry_after=error.retry_after)
    if isinstance(error, EngineError):
        return ApiError(503, error.code, text, retry_after=2)
    if isinstance(error, UnknownModel):
        return ApiError(404, error.code, text, param="model")
    if isinstance(error, ContextTooLong):
        return ApiError(400, error.code, text, param="messages")
    if isinstance(error, Unsupported):
        return ApiError(400, error.code, text, param=error.param or None)
    if isinstance(error, RunLocked):
        return ApiError(503, "busy", text, retry_after=2)
    if isinstance(error, RunError):
        return ApiError(503, "unavailable", text, retry_after=5)  # a full disk, a database that restarts
    return ApiError(400, "invalid_data" if isinstance(error, DataError) else "invalid_request", text)


def bug(request: Request, error: Exception) -> ApiError:
    """Log a bug of ours, and say no more than where to find it."""
    request_id = request.scope.get("request_id", "")
    log.error("a bug", exc_info=error, extra={"request_id": request_id})
    message = f"something went wrong in wuya; the log has it under request id {request_id}"
    return ApiError(500, "internal_error", message)


def is_v1(path: str) -> bool:
    """Whether OpenAI's clients talk to this path."""
    return path == "/v1" or path.startswith("/v1/")


def local_path(request: Request) -> str:
    """The path without the prefix of a reverse proxy."""
    path, prefix = request.scope["path"], request.scope.get("root_path", "")
    return str(path[len(prefix) :] if prefix and path.startswith(prefix + "/") else path)


def add_error_handlers(app: FastAPI) -> None:
    """Cover every way a request can fail."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(request, error)

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, WuyaError)
        return error_response(request, as_api_error(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = _CODES | (_V1_CODES if is_v1(local_path(request)) else {})
        message = str(error.detail) if error.detail else HTTPStatus(error.status_code).phrase
        code = codes.get(error.status_code, "error")
        headers = dict(error.headers or {})
        return error_response(request, ApiError(error.status_code, code, message, headers=headers))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0] if error.errors() else {}
        where = [str(part) for part in first.get("loc", ())[1:] if not str(part).isdigit() or len(first["loc"]) > 2]
        param = ".".join(where) or None
        message = f"{param}: {first.get('msg')}" if param else str(first.get("msg", "the request is not valid"))
        status, code = (400, "invalid_value") if is_v1(local_path(request)) else (422, "invalid_value")
        return error_response(request, ApiError(status, code, message, param=param))

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(WuyaError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
