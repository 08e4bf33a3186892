"""`/api/keys`, `/api/usage` and their page: people make, change, rotate and revoke keys; admins everybody's."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wuya.database.labeling_tables import now
from wuya.web import audit
from wuya.web.accounts.auth import Viewer, require
from wuya.web.api import store
from wuya.web.api.store import KeyRecord, KeySettings
from wuya.web.errors import ApiError
from wuya.web.pages import render
from wuya.web.routing import Router
from wuya.web.service import Service, service_of
from wuya.web.traffic import models_of
from wuya.web.usage import UsageRecord, list_usage

router = Router(tags=["keys"])
At = Annotated[Service, Depends(service_of)]
Person = Annotated[Viewer, Depends(require("keys"))]
Admin = Annotated[Viewer, Depends(require("admin"))]
Everyone = Annotated[bool, Query(description="Of everybody; for admins.")]

SCOPES = {
    "chat": "keys",
    "completions": "keys",
    "embeddings": "keys",
    "moderations": "keys",
    "runs:write": "runs:write",
}
"""Scope -> the permission that its owner needs."""
MAX_KEYS = 20
"""Of one person who is no admin: budgets are by key."""
LARGEST = (1 << 31) - 1


class Limits(BaseModel):
    """How fast and how much; null: no limit but the one that an admin set for all."""

    model_config = ConfigDict(extra="forbid")

    rpm: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    tpm: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    monthly_tokens: Annotated[int, Field(ge=1, le=LARGEST)] | None = None


class KeyBody(Limits):
    """What a person chooses of a key."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    scopes: Annotated[list[str], Field(min_length=1, max_length=len(SCOPES))] = ["chat", "completions", "embeddings"]
    models: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=50)] = []
    expires_at: AwareDatetime | None = None


@router.get("/api/keys")
def list_keys(service: At, viewer: Person, everyone: Everyone = False) -> Response:
    """Keys that are not revoked, the newest first."""
    keys = store.list_keys(service.database, _whose(viewer, everyone))
    limits = store.default_limits(service.database)
    return JSONResponse({"items": [_shown(key) for key in keys], "next": None, "limits": limits})


@router.post("/api/keys", status_code=201)
def create_key(request: Request, service: At, viewer: Person, body: KeyBody) -> Response:
    """A new key. `secret` is in this answer and nowhere else, ever."""
    if not viewer.may("admin") and len(store.list_keys(service.database, viewer.user_id)) >= MAX_KEYS:
        raise ApiError(409, "too_many_keys", f"you have {MAX_KEYS} keys already; revoke one first")
    settings = _settings(service, viewer, body, expiry_may_be_past=False)
    key, secret = store.create_key(
        service.database, viewer.user_id, settings, note=_note(request, service, viewer, "key.create", settings)
    )
    return JSONResponse({"key": _shown(key), "secret": secret}, 201)


@router.patch("/api/keys/{key_id}")
def change_key(request: Request, service: At, viewer: Person, key_id: str, body: KeyBody) -> Response:
    """New settings; they hold from the next request on."""
    settings = _settings(service, viewer, body, expiry_may_be_past=True)
    note = _note(request, service, viewer, "key.change", settings)
    key = store.change_key(service.database, key_id, _owner(viewer), settings, note=note)
    return JSONResponse({"key": _shown(_found(key))})


@router.post("/api/keys/{key_id}/rotate")
def rotate_key(request: Request, service: At, viewer: Person, key_id: str) -> Response:
    """A new secret with the same settings; the old one is refused from now on. Only its owner may see one."""
    note = _note(request, service, viewer, "key.rotate")
    key, secret = _found(store.rotate_key(service.database, key_id, viewer.user_id, note=note))
    return JSONResponse({"key": _shown(key), "secret": secret})


@router.delete("/api/keys/{key_id}", status_code=204)
def revoke_key(request: Request, service: At, viewer: Person, key_id: str) -> Response:
    """Refuse a key from now on."""
    note = _note(request, service, viewer, "key.revoke")
    _found(store.revoke_key(service.database, key_id, _owner(viewer), note=note) or None)
    return Response(status_code=204)


@router.put("/api/keys/limits")
def set_limits(request: Request, service: At, viewer: Admin, body: Limits) -> Response:
    """The most that a key of somebody who is no admin may have."""
    store.set_default_limits(
        service.database, body.model_dump(), note=_note(request, service, viewer, "key.limits", body.model_dump())
    )
    return JSONResponse({"limits": body.model_dump()})


@router.get("/api/usage")
def usage(
    service: At, viewer: Person, days: Annotated[int, Query(ge=1, le=366)] = 30, everyone: Everyone = False
) -> Response:
    """Requests and tokens by day, key and model, the newest day first; the chat's own under an empty key."""
    since = now().date() - timedelta(days=days - 1)
    rows = list_usage(service.database, _whose(viewer, everyone), since=since)
    return JSONResponse({"items": [_usage(row) for row in rows], "next": None, "since": since.isoformat()})


@router.get("/keys", include_in_schema=False)
def page(request: Request, service: At, viewer: Person) -> Response:
    """Keys & usage."""
    data = {
        "scopes": [scope for scope, needed in SCOPES.items() if viewer.may(needed)],
        "models": [model.alias for model in models_of(service.engine)],
        "api_base": str(request.base_url).rstrip("/") + "/v1",
        "keys_needed": service.settings.accounts,
    }
    return render(request, "keys.html", viewer, data=data, area="keys")


def _whose(viewer: Viewer, everyone: bool) -> str | None:
    if everyone and not viewer.may("admin"):
        raise ApiError(403, "forbidden", "only admins see everybody's keys")
    return None if everyone else viewer.user_id


def _owner(viewer: Viewer) -> str | None:
    return None if viewer.may("admin") else viewer.user_id


def _found(key: Any) -> Any:
    if key is None:
        raise ApiError(404, "not_found", "there is no such key")
    return key


def _settings(service: Service, viewer: Viewer, body: KeyBody, *, expiry_may_be_past: bool) -> KeySettings:
    for scope in body.scopes:
        if scope not in SCOPES or not viewer.may(SCOPES[scope]):
            raise ApiError(422, "invalid_value", f"there is no scope `{scope[:40]}` for you", param="scopes")
    if body.expires_at is not None and body.expires_at <= now() and not expiry_may_be_past:
        raise ApiError(422, "invalid_value", "the key would be expired already", param="expires_at")
    limits = {name: getattr(body, name) for name in Limits.model_fields}
    if not viewer.may("admin"):
        for name, most in store.default_limits(service.database).items():
            if most is not None and (limits[name] or 0) > most:
                raise ApiError(422, "invalid_value", f"the most that your keys may have is {most:,}", param=name)
            limits[name] = limits[name] or most
    return KeySettings(
        name=body.name.strip() or body.name,
        scopes=tuple(dict.fromkeys(body.scopes)),
        models=tuple(dict.fromkeys(body.models)),
        expires_at=body.expires_at,
        **limits,
    )


def _note(
    request: Request,
    service: Service,
    viewer: Viewer,
    action: str,
    settings: KeySettings | dict[str, Any] | None = None,
) -> Callable[[Connection, str], None]:
    """Writes the audit log's row in the same transaction."""
    values = asdict(settings) if isinstance(settings, KeySettings) else dict(settings or {})
    values = {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in values.items()}

    def note(connection: Connection, key_id: str) -> None:
        audit.record(
            connection, service, action, viewer=viewer, request=request, object="api_key", object_id=key_id, diff=values
        )

    return note


def _shown(key: KeyRecord) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "prefix": f"sk-{key.prefix}",
        "scopes": list(key.scopes),
        "models": list(key.models),
        "rpm": key.rpm,
        "tpm": key.tpm,
        "monthly_tokens": key.monthly_tokens,
        "used_tokens": key.used_tokens,
        "created_at": key.created_at.isoformat(),
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }


def _usage(row: UsageRecord) -> dict[str, Any]:
    return asdict(row) | {"day": row.day.isoformat()}
