"""Every way `/v1` says no: status, type, code and headers as OpenAI's clients expect them (docs/guides/api.md).

A route of this area answers with these even where FastAPI would have its own words (`V1Route`).
"""

import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from wuya.errors import RunError, WuyaError
from wuya.inference.backends.protocol import (
    ContextTooLong,
    EngineError,
    Failed,
    InvalidParameter,
    InvalidSchema,
    Overloaded,
    UnknownModel,
    Unsupported,
)
from wuya.web.errors import ApiError, error_body

CLIENT_LEFT = 499
"""What the access log says of a request whose client went away; nobody receives it."""

log = logging.getLogger("wuya.web.api")


def invalid_value(message: str, param: str | None = None) -> ApiError:
    """A value of the wrong type, out of range, or at odds with another."""
    return ApiError(400, "invalid_value", message, param=param)


def unsupported(message: str, param: str | None) -> ApiError:
    """A feature of OpenAI's that is not here."""
    return ApiError(400, "unsupported_parameter", message, param=param)


def context_too_long(prompt_tokens: int, wanted: int, context_length: int, *, param: str) -> ApiError:
    """Prompt and completion do not fit together."""
    message = (
        f"this model's context is {context_length:,} tokens; the request has {prompt_tokens:,} in its {param}"
        f" and asks for {wanted:,} more"
    )
    return ApiError(400, "context_length_exceeded", message, param=param)


def bad_key(message: str) -> ApiError:
    """No key, an unknown one, or one that is no longer good."""
    return ApiError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})


def not_allowed(message: str, param: str | None = None) -> ApiError:
    """The key lacks the scope or the model."""
    return ApiError(403, "model_not_allowed", message, param=param)


def no_such_model(alias: str, known: Sequence[str]) -> ApiError:
    """The alias means nothing here."""
    message = f"there is no model `{alias}`; this server has: {', '.join(known) or 'none yet'}"
    return ApiError(404, "model_not_found", message, param="model")


def rate_limited(message: str, *, retry_after: float, headers: dict[str, str]) -> ApiError:
    """Too many requests or tokens in this minute; the client waits and tries again."""
    return ApiError(429, "rate_limit_exceeded", message, retry_after=retry_after, headers=headers)


def quota_spent(message: str) -> ApiError:
    """The month's tokens are used up: trying again is no use, and the header says so."""
    return ApiError(429, "insufficient_quota", message, kind="insufficient_quota", headers={"x-should-retry": "false"})


def blocked(message: str = "the input was refused by this server's content rules") -> ApiError:
    """Moderation said no before anything was generated."""
    return ApiError(400, "content_policy_violation", message, param="messages")


def overloaded(message: str, *, retry_after: float = 2.0) -> ApiError:
    """The queue is full or the engine is not there."""
    return ApiError(503, "overloaded", message, kind="server_error", retry_after=retry_after)


def internal_error(request_id: str = "") -> ApiError:
    """A bug; the log has the rest."""
    where = f"; the log has it under request id {request_id}" if request_id else ""
    return ApiError(500, "internal_error", f"something went wrong in wuya{where}", kind="server_error")


def of_engine(error: WuyaError, *, param: str = "messages") -> ApiError:
    """What an engine refused, said as HTTP."""
    if isinstance(error, UnknownModel):
        return no_such_model(error.alias, [error.found] if error.found else [])
    if isinstance(error, ContextTooLong):
        return context_too_long(error.prompt_tokens, error.max_tokens, error.context_length, param=param)
    if isinstance(error, Unsupported):
        return unsupported(error.what, error.param or None)
    if isinstance(error, InvalidParameter):
        return invalid_value(error.what + (f" (found: {error.found})" if error.found else ""), error.param)
    if isinstance(error, InvalidSchema):
        return invalid_value(error.what + (f" (found: {error.found})" if error.found else ""), "response_format")
    if isinstance(error, Overloaded):
        return overloaded(error.what, retry_after=error.retry_after)
    if isinstance(error, EngineError):
        return overloaded(error.what)
    return invalid_value(error.what + (f" (found: {error.found})" if error.found else ""))


def of_failure(event: Failed, *, streaming: bool) -> ApiError:
    """A job that ended without a result. A stream names the cause; before the first byte it is a status."""
    if event.code in ("invalid_schema", "invalid_value"):
        return invalid_value(event.message, "response_format" if event.code == "invalid_schema" else "logit_bias")
    if event.code == "engine_lost" or event.retryable:
        message = "the engine stopped in the middle of this request; it is being started again"
        return ApiError(503, event.code, message, kind="server_error") if streaming else overloaded(message)
    log.error("a generation failed", extra={"code": event.code})
    return internal_error()


def error_object(error: ApiError) -> dict[str, Any]:
    """The JSON of an error, as it also stands in the middle of a stream."""
    return error_body("/v1", error)


def of_validation(errors: Sequence[Any]) -> ApiError:
    """The most telling of pydantic's findings: the deepest one, for a union reports every branch."""
    if not errors:
        return invalid_value("the request is not valid")
    first = max(errors, key=lambda e: (e["type"] in ("unsupported_parameter", "invalid_value"), len(_path(e["loc"]))))
    path = list(_path(first["loc"]))
    own = (first.get("ctx") or {}).get("param")
    if own:
        path.append(own)
    if first["type"] == "json_invalid":
        return invalid_value(f"the body is not JSON: {(first.get('ctx') or {}).get('error', '')}".rstrip(": "))
    param = _spelled(path) or None
    if first["type"] == "unsupported_parameter":
        return unsupported(first["msg"], param or "")
    message = str(first["msg"])
    return invalid_value(f"{param}: {message[:1].lower()}{message[1:]}" if param else message, param)


def _path(location: Sequence[Any]) -> tuple[Any, ...]:
    """A pydantic location without the source and the names of union branches."""
    parts = location[1:] if location and location[0] in ("body", "query", "path", "header") else location
    branch = re.compile(
        r"str|int|float|bool|list\[.*|dict\[.*|literal\[.*|function-.*|constrained-.*|nullable.*|[A-Z]\w*"
    )
    return tuple(part for part in parts if isinstance(part, int) or not branch.fullmatch(str(part)))


def _spelled(path: Sequence[Any]) -> str:
    """messages[0].content"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return re.sub(r"[^\x20-\x7e]", "?", text.removeprefix("."))[:200]


class V1Route(APIRoute):
    """A route whose failures speak OpenAI's language."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with our words for what it refuses."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise of_validation(error.errors()) from None
            except HTTPException as error:
                if error.status_code != 400:
                    raise
                raise invalid_value("the body can't be read as JSON") from None
            except ClientDisconnect:
                return Response(status_code=CLIENT_LEFT)
            except WuyaError as error:
                if isinstance(error, RunError) and not isinstance(error, EngineError):
                    raise  # the database's, say: errors.py knows
                raise of_engine(error) from error
            except ApiError:
                raise
            except Exception as error:
                request_id = request.scope.get("request_id", "")
                log.error("a bug", exc_info=error, extra={"request_id": request_id})
                raise internal_error(request_id) from None

        return handler
