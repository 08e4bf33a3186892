"""Who is asking, and may they: `viewer: Annotated[Viewer, Depends(require("chat"))]`.

One place decides (`PERMISSIONS`), and a test walks every route with every role. On a laptop there is a single user,
"me", who may do everything and never signs in; the server then listens on loopback only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from starlette.requests import Request

from wuya.web.errors import ApiError
from wuya.web.service import service_of

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
}


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

    dependency.permission = permission  # type: ignore[attr-defined]  # the matrix test reads it
    return dependency


def _find_viewer(request: Request) -> Viewer | None:
    service = service_of(request)
    if not service.settings.accounts:
        return replace(service.get(Viewer))
    return None
