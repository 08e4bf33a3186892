"""`/openapi.json`: what FastAPI finds, with refusals as they are: RFC 9457 under /api, OpenAI's object under /v1.

FastAPI documents its own 422 body, which never leaves this service: `errors.py` gives every refusal another shape.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "Why a request was refused: RFC 9457, with a stable `code` for programs.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "param": {"type": "string"},
        "request_id": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail", "code"],
}
REFUSAL = {
    "description": "Refused",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
OF_FASTAPI = ("HTTPValidationError", "ValidationError")


def of_kinds(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with a file."""
    schemas: dict[str, dict[str, Any]] = {
        kind: {} if kind.endswith("json") else {"type": "string"} for kind in media_types
    }
    return {200: {"content": {kind: {"schema": schema} for kind, schema in schemas.items()}}}


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, servers=app.servers
        )
        for path, operations in found["paths"].items():
            if path.startswith("/v1"):
                continue
            for operation in operations.values():
                responses = operation["responses"]
                if _is_fastapis(responses.get("422", {})):
                    del responses["422"]
                responses.setdefault("default", REFUSAL)
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for name in OF_FASTAPI:
            schemas.pop(name, None)
        schemas["Problem"] = PROBLEM
        app.openapi_schema = found
    return app.openapi_schema


def _is_fastapis(response: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith("/HTTPValidationError")
