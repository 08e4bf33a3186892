"""The application: `create_app(settings, engine=..., database=...)` puts settings, engine, database and areas together.

An area is a folder with `routes.py`: a `router` (or several `routers`), and perhaps `lifespan(service)`, an async
context manager around the time the service runs. Any of them can be deleted without touching another.
"""

import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

import wuya
from wuya.database.connection import open_engine, writing
from wuya.inference.backends.protocol import ServingEngine
from wuya.web import openapi, pages
from wuya.web.accounts.auth import ME, Viewer, current_viewer
from wuya.web.accounts.store import ensure_single_user
from wuya.web.errors import add_error_handlers
from wuya.web.routing import routes_of
from wuya.web.sane_json import SaneJSONResponse
from wuya.web.security import ApiCors, Shield
from wuya.web.service import Service
from wuya.web.settings import Settings

AREAS = ("accounts", "chat", "api", "labeling", "runs", "moderation", "operations")
"""Folders of web/, in the order of their routes."""


def create_app(settings: Settings, *, engine: ServingEngine, database: str | Path) -> FastAPI:
    """An application that serves `engine`'s models and keeps everything in `database` (a URL, or an SQLite file)."""
    service = Service(settings, engine, open_engine(database))
    modules = [
        importlib.import_module(f"wuya.web.{area}.routes")
        for area in AREAS
        if pages.has_module(f"wuya.web.{area}.routes")
    ]

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(service.database.dispose)
            await engine.start()
            stack.push_async_callback(engine.close)
            for module in modules:
                if hasattr(module, "lifespan"):
                    await stack.enter_async_context(module.lifespan(service))
            yield

    app = FastAPI(
        title="wuya",
        version=wuya.__version__,
        description="The service of wuya: `/v1` speaks OpenAI's protocol, `/api` is what the pages use.",
        lifespan=lifespan,
        default_response_class=SaneJSONResponse,
        docs_url=None,  # Swagger's and ReDoc's pages load scripts of other hosts
        redoc_url=None,
    )
    app.state.service = service
    app.state.error_page = pages.error_page
    app.openapi = partial(openapi.document, app)  # type: ignore[method-assign]  # FastAPI's way to have one's own
    if not settings.accounts:
        service.put(_single_user(service))
    add_error_handlers(app)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.add_api_route("/", _home, include_in_schema=False)
    for module in modules:
        for router in getattr(module, "routers", None) or (module.router,):
            app.include_router(router)
    app.state.patterns = {route.route.endpoint: route.path for route in routes_of(app)}
    app.state.page_paths = {route.path for route in routes_of(app) if "GET" in route.methods}
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)
    app.add_middleware(Shield, settings=settings, service=service)
    if settings.cors_origins:
        app.add_middleware(ApiCors, origins=settings.cors_origins)
    return app


def _single_user(service: Service) -> Viewer:
    with writing(service.database) as connection:
        return Viewer(ensure_single_user(connection, ME), "admin", name=ME)


def _home(request: Request) -> Response:
    """The first page that this viewer may see."""
    viewer = current_viewer(request)
    base = request.scope.get("root_path", "")
    first = next((path for _, path in pages.navigation(request, viewer)), "/login" if viewer is None else "")
    return RedirectResponse(base + first, 303) if first else pages.render(request, "empty.html", viewer)
