"""Server-rendered shells: a Jinja template gets the viewer, the language and the page's data; scripts do the rest."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi.templating import Jinja2Templates
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from wuya.web import i18n
from wuya.web.accounts.auth import Viewer, current_viewer, permissions_of
from wuya.web.errors import ApiError, local_path
from wuya.web.service import service_of

HERE = Path(__file__).parent
THEMES = ("auto", "light", "dark")
_templates = Jinja2Templates(HERE / "templates")
_templates.env.autoescape = True
_templates.env.trim_blocks = _templates.env.lstrip_blocks = True

NAVIGATION = (
    ("chat", "/chat", "chat"),
    ("label", "/label", "label"),
    ("runs", "/runs", "runs"),
    ("data", "/data", "label:lead"),
    ("keys", "/keys", "keys"),
    ("admin", "/admin", "admin:page"),
)
"""Name (also of its icon and text), path and the permission that shows it."""


def language_of(request: Request, viewer: Viewer | None = None) -> str:
    """The viewer's own choice, else the cookie's, else the browser's."""
    chosen = (viewer.locale if viewer else "") or request.cookies.get("wuya_locale", "")
    return chosen if chosen in i18n.LANGUAGES else i18n.negotiate(request.headers.get("accept-language", ""))


def render(
    request: Request,
    template: str,
    viewer: Viewer | None = None,
    *,
    data: Mapping[str, Any] | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> Response:
    """A page. `data` reaches its script as `pageData()` of dom.js; the rest of the context is for the template."""
    service = service_of(request)
    language = language_of(request, viewer)
    theme = (viewer.theme if viewer else "") or request.cookies.get("wuya_theme", "")
    base = request.scope.get("root_path", "")

    def text(key: str, **values: object) -> str:
        return i18n.translate(language, key, **values)

    boot = {
        "base": base,
        "language": language,
        "languages": i18n.LANGUAGES,
        "accounts": service.settings.accounts,
        "viewer": viewer.public() if viewer else None,
        "data": data or {},
    }
    return _templates.TemplateResponse(
        request,
        template,
        {
            "t": text,
            "base": base,
            "language": language,
            "theme": theme if theme in THEMES else "auto",
            "viewer": viewer,
            "accounts": service.settings.accounts,
            "navigation": navigation(request, viewer),
            "boot": boot,
            "icon": _icon(base),
            **context,
        },
        status_code=status,
        headers=dict(headers or {}),
    )


def navigation(request: Request, viewer: Viewer | None) -> list[tuple[str, str]]:
    """Name and path of the areas that the viewer may enter and that this service has."""
    if viewer is None:
        return []
    allowed, paths = permissions_of(viewer.role), request.app.state.page_paths
    return [(name, path) for name, path, needed in NAVIGATION if needed in allowed and path in paths]


def error_page(request: Request, error: ApiError, headers: Mapping[str, str]) -> Response:
    """What a person sees when a page can't be shown; someone who must sign in is sent there."""
    if error.status == 401 and request.method == "GET":
        base, query = request.scope.get("root_path", ""), request.url.query
        back = quote(local_path(request) + (f"?{query}" if query else ""))
        return RedirectResponse(f"{base}/login?next={back}", 303)
    viewer = current_viewer(request)
    return render(request, "error.html", viewer, status=error.status, headers=headers, error=error)


def safe_next(target: str, default: str = "/") -> str:
    """A path of this server to go to after signing in; anything else becomes the default (no open redirect)."""
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and "\\" not in target
    return target if local and target.isprintable() else default


def has_module(name: str) -> bool:
    """Whether a module exists, without importing it."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _icon(base: str) -> Any:
    def icon(name: str) -> Markup:
        link = Markup('<svg class="icon" aria-hidden="true"><use href="{}/static/icons.svg#{}"></use></svg>')
        return link.format(base, name)

    return icon
