"""`/api/admin/users`, settings and audit: what admins do with people."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, RowMapping
from starlette.requests import Request

from wuya.database.connection import reading, writing
from wuya.web import audit
from wuya.web.accounts import flows, store
from wuya.web.accounts.auth import Viewer, require
from wuya.web.errors import ApiError
from wuya.web.routing import Router
from wuya.web.service import Service, service_of

router = Router(prefix="/admin", tags=["admin"])
ServiceNow = Annotated[Service, Depends(service_of)]
Admin = Annotated[Viewer, Depends(require("admin"))]
RoleName = Literal["admin", "lead", "moderator", "labeler", "user"]
SETTINGS: dict[str, tuple[type, Any]] = {
    "sign_up": (str, "closed"),
    "ask_data_use": (bool, True),
    "sharing": (bool, True),
    "public_shares": (bool, True),
}
"""Key, type and default of what an admin chooses for the whole service."""


class UserChange(BaseModel):
    """What is left out stays."""

    model_config = ConfigDict(extra="forbid")
    role: RoleName | None = None
    status: Literal["active", "suspended"] | None = None


class Invitation(BaseModel):
    """For anybody who has the link, or only for one address."""

    model_config = ConfigDict(extra="forbid")
    role: RoleName = "user"
    email: Annotated[str, Field(max_length=250)] = ""


def public(row: RowMapping) -> dict[str, Any]:
    """A user as admins see them."""
    shown = ("id", "email_ci", "display_name", "role", "status", "created_at", "last_seen_at")
    return {key: row[key] for key in shown}


@router.get("/users")
def users(service: ServiceNow, viewer: Admin, q: Annotated[str, Query(max_length=100)] = "") -> dict[str, Any]:
    """People and open invitations."""
    with reading(service.database) as connection:
        found = [public(row) for row in store.users(connection, search=q)]
        invitations = [
            {key: row[key] for key in ("id", "role", "email_ci", "expires_at")}
            for row in store.open_invitations(connection)
        ]
    return {"items": found, "next": None, "invitations": invitations}


@router.post("/users/invite", status_code=201)
def invite(request: Request, body: Invitation, viewer: Admin) -> dict[str, Any]:
    """Make an invitation; its link is shown once."""
    service = service_of(request)
    flows.need_accounts(service)
    with writing(service.database) as connection:
        if store.setting(connection, "sign_up", "closed") == "closed":
            raise ApiError(409, "sign_up_closed", "sign-up is closed; open it in the settings first")
        token, expires = store.make_link_token(
            connection, "invite", role=body.role, email=body.email, created_by=viewer.user_id
        )
        diff = {"role": body.role}
        audit.record(connection, service, "user.invite", viewer=viewer, request=request, diff=diff)
    return {"link": f"{origin(request)}/join#{token}", "expires_at": expires}


@router.delete("/users/invite/{id}", status_code=204)
def revoke_invitation(request: Request, id: str, viewer: Admin) -> None:
    """Take an open invitation back; its link stops working."""
    service = service_of(request)
    flows.need_accounts(service)
    with writing(service.database) as connection:
        if not store.revoke_links(connection, id=id):
            raise ApiError(404, "not_found", "there is no such invitation")
        audit.record(
            connection, service, "user.uninvite", viewer=viewer, request=request, object="invitation", object_id=id
        )


@router.post("/users/{id}/reset", status_code=201)
def reset_link(request: Request, id: str, viewer: Admin) -> dict[str, Any]:
    """Make a link with which a person sets a new password; it is shown once."""
    service = service_of(request)
    flows.need_accounts(service)
    with writing(service.database) as connection:
        existing(connection, id)
        token, expires = store.make_link_token(connection, "reset", user_id=id, created_by=viewer.user_id)
        audit.record(
            connection, service, "user.reset_link", viewer=viewer, request=request, object="user", object_id=id
        )
    return {"link": f"{origin(request)}/reset#{token}", "expires_at": expires}


@router.patch("/users/{id}")
def change_user(request: Request, id: str, body: UserChange, viewer: Admin) -> dict[str, Any]:
    """Change a role, suspend or let back in. Either signs the person out everywhere."""
    service = service_of(request)
    flows.need_accounts(service)
    with writing(service.database) as connection:
        before = existing(connection, id)
        values = {key: value for key, value in body.model_dump().items() if value and value != before[key]}
        if values.get("role", "admin") != "admin" or values.get("status") == "suspended":
            keep_an_admin(connection, id)
        if values:
            store.change_user(connection, id, **values)
            store.end_sessions(connection, id)
            store.revoke_links(connection, created_by=id)  # also if the old rights come back
            diff = {key: [before[key], value] for key, value in values.items()}
            audit.record(
                connection,
                service,
                "user.change",
                viewer=viewer,
                request=request,
                object="user",
                object_id=id,
                diff=diff,
            )
        return public(existing(connection, id))


@router.delete("/users/{id}", status_code=204)
def delete_user(request: Request, id: str, viewer: Admin) -> None:
    """Delete a person: names are cleared, chats purged after 30 days, labels stay without a name."""
    service = service_of(request)
    flows.need_accounts(service)
    with writing(service.database) as connection:
        existing(connection, id)
        keep_an_admin(connection, id)
        store.anonymise(connection, id)
        audit.record(connection, service, "user.delete", viewer=viewer, request=request, object="user", object_id=id)


@router.get("/settings")
def settings(service: ServiceNow, viewer: Admin) -> dict[str, Any]:
    """What is chosen for the whole service."""
    with reading(service.database) as connection:
        return {key: store.setting(connection, key, default) for key, (_, default) in SETTINGS.items()}


@router.patch("/settings")
def change_settings(request: Request, body: dict[str, Any], viewer: Admin) -> dict[str, Any]:
    """Choose."""
    service = service_of(request)
    for key, value in body.items():
        if key not in SETTINGS or not isinstance(value, SETTINGS[key][0]):
            raise ApiError(422, "invalid_value", f"settings: {', '.join(SETTINGS)}", param=key[:60])
        if key == "sign_up" and value not in flows.SIGN_UP_MODES:
            raise ApiError(422, "invalid_value", f"sign-up is one of {', '.join(flows.SIGN_UP_MODES)}", param=key)
    with writing(service.database) as connection:
        for key, value in body.items():
            store.set_setting(connection, key, value)
        audit.record(connection, service, "settings.change", viewer=viewer, request=request, diff=body)
    return settings(service, viewer)


@router.get("/audit")
def audit_log(
    service: ServiceNow,
    viewer: Admin,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    action: Annotated[str, Query(max_length=60)] = "",
) -> dict[str, Any]:
    """Who did what, newest first; `intact` says whether the chain of hashes holds."""
    with reading(service.database) as connection:
        items = audit.rows(connection, before=before, action=action)
        _, broken = audit.verify(connection, service.settings.secret)
        ids = {item["actor_id"] for item in items if item["actor_id"]}
        names = {row["id"]: row["display_name"] for id in ids if (row := store.user(connection, id))}
    for item in items:
        item["actor"] = names.get(item["actor_id"], "")
    return {"items": items, "next": items[-1]["seq"] if len(items) == 100 else None, "intact": broken is None}


def existing(connection: Connection, id: str) -> RowMapping:
    """A user who is not deleted, or 404."""
    row = store.user(connection, id)
    if row is None or row["status"] == "deleted" or row["is_simulated"]:
        raise ApiError(404, "not_found", "there is no such user")
    return row


def keep_an_admin(connection: Connection, id: str) -> None:
    """Refuse what would leave nobody in charge."""
    if not store.lock_admins(connection) - {id}:
        row = store.user(connection, id)
        if row is not None and row["role"] == "admin":
            raise ApiError(409, "last_admin", "this is the last admin; make somebody else one first")


def origin(request: Request) -> str:
    """Scheme, host and prefix as the browser knows them."""
    return service_of(request).settings.public_url or str(request.base_url).rstrip("/")
