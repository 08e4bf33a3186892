"""Who is asking, and may they: `viewer: Annotated[Viewer, Depends(require("chat"))]`.

One place decides (`PERMISSIONS`), and a test walks every route with every role. On a laptop there is a single user,
"me", who may do everything and never signs in; the server then listens on loopback only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from sqlalchemy import RowMapping
from starlette.requests import Request

from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import now
from wuya.web.accounts import store
from wuya.web.errors import ApiError
from wuya.web.service import Service, service_of

Role = Literal["admin", "lead", "moderator", "labeler", "user"]
ROLES: tuple[Role, ...] = ("admin", "lead", "moderator", "labeler", "user")
ME = "me"
"""Name of the single user."""

PERMISSIONS: dict[str, frozenset[str]] = {
    "account": frozenset(ROLES),  # one's own profile and sessions
    "chat": frozenset(ROLES),
    "keys": frozenset(ROLES),  # one's own API keys
    "label": frozenset({"admin", "lead", "labeler"}),
    "label:lead": frozenset({"admin", "lead"}),
    "runs": frozenset({"admin", "lead"}),
    "runs:write": frozenset({"admin", "lead"}),
    "models": frozenset({"admin", "lead"}),
    "moderate": frozenset({"admin", "moderator"}),
    "admin": frozenset({"admin"}),
    "admin:page": frozenset({"admin", "moderator"}),
}
KEY_PERMISSIONS = frozenset({"runs:write"})
"""What an API key may do under /api; under /v1 its scopes count."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """The person (or the key of a person) behind a request."""

    user_id: str
    role: str
    locale: str = ""
    name: str = ""
    theme: str = ""
    data_use: bool = False
    """Whether new chats of this person may be used for training unless the chat says otherwise."""
    session_id: str = ""
    scopes: frozenset[str] | None = None
    """None: everything the role may do. A key names what it may do."""

    def may(self, permission: str) -> bool:
        """Whether the role, and the key if there is one, allow it."""
        return self.role in PERMISSIONS[permission] and (self.scopes is None or permission in self.scopes)

    def public(self) -> dict[str, Any]:
        """What the page may know."""
        return {
            "id": self.user_id,
            "name": self.name,
            "role": self.role,
            "locale": self.locale,
            "theme": self.theme,
            "data_use": self.data_use,
            "permissions": sorted(p for p in PERMISSIONS if self.may(p)),
        }


def permissions_of(role: str) -> frozenset[str]:
    """All that a role may do."""
    return frozenset(name for name, roles in PERMISSIONS.items() if role in roles)


def current_viewer(request: Request) -> Viewer | None:
    """Whoever is signed in, None if nobody is. Looked up once a request."""
    if "viewer" not in request.scope:
        request.scope["viewer"] = _find_viewer(request)
    viewer = request.scope["viewer"]
    assert viewer is None or isinstance(viewer, Viewer)
    return viewer


def still_may(request: Request, permission: str) -> bool:
    """Whether whoever opened a stream is still signed in and allowed: a suspended person's streams end too."""
    viewer = _find_viewer(request)
    return viewer is not None and viewer.may(permission)


def require(permission: str) -> Callable[[Request], Viewer]:
    """A dependency that gives the viewer, or refuses with 401 (nobody) or 403 (somebody else's work)."""
    assert permission in PERMISSIONS, permission

    def dependency(request: Request) -> Viewer:
        viewer = current_viewer(request)
        if viewer is None:
            raise ApiError(401, "not_signed_in", "sign in first")
        if not viewer.may(permission):
            raise ApiError(403, "forbidden", f"your role, {viewer.role}, does not include this")
        return viewer

    return dependency


def ip_prefix(request: Request) -> str:
    """The network a request came from (/24 or /48): enough to notice a stranger, not enough to follow a person."""
    try:
        address = ip_address(request.client.host if request.client else "")
    except ValueError:
        return ""
    return str(ip_network(f"{address}/{24 if address.version == 4 else 48}", strict=False))


def cookie_name(service: Service) -> str:
    """The session's cookie; with HTTPS the browser itself refuses it from other hosts and paths."""
    return "__Host-wuya" if service.settings.https else "wuya_session"


def viewer_of_row(row: RowMapping, **more: Any) -> Viewer:
    """A viewer from the columns of a user."""
    names = {"user_id": row["id"], "name": row["display_name"]}
    return Viewer(**names, **{key: row[key] for key in ("role", "locale", "theme", "data_use")}, **more)


def _find_viewer(request: Request) -> Viewer | None:
    service = service_of(request)
    bearer = request.headers.get("authorization", "")
    if bearer.startswith("Bearer sk-"):
        return _viewer_of_key(service, bearer.removeprefix("Bearer "))
    if not service.settings.accounts:
        with reading(service.database) as connection:
            row = store.user(connection, service.get(Viewer).user_id)
        return viewer_of_row(row) if row else None
    token = request.cookies.get(cookie_name(service), "")
    if not token:
        return None
    with reading(service.database) as connection:
        row = store.session_user(connection, token)
    if row is None:
        return None
    if row["last_used_at"] < now() - store.TOUCH:
        with writing(service.database) as connection:
            store.touch_session(connection, row["session_id"], row["id"])
    return viewer_of_row(row, session_id=row["session_id"])


def _viewer_of_key(service: Service, secret: str) -> Viewer | None:
    """Keys work under /api only where a program has something to say: the runs of other machines."""
    with reading(service.database) as connection:
        row = store.key_user(connection, secret)
    return viewer_of_row(row, scopes=KEY_PERMISSIONS & frozenset(row["scopes"])) if row else None
