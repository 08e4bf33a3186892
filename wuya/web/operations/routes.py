"""`/healthz`, `/readyz`, `/metrics`, and what the admin's system page shows."""

import hmac
import shutil
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import wuya
from wuya.database.connection import writing
from wuya.web import audit
from wuya.web.accounts.auth import Viewer, require
from wuya.web.errors import ApiError
from wuya.web.operations.backup import backup, default_name
from wuya.web.operations.metrics import metrics_of
from wuya.web.operations.write_probe import can_write
from wuya.web.routing import Router
from wuya.web.security import is_own
from wuya.web.service import Service, service_of
from wuya.web.settings import LOOPBACK
from wuya.web.supervision import keepers_of

router = Router(tags=["operations"])
ServiceNow = Annotated[Service, Depends(service_of)]
Admin = Annotated[Viewer, Depends(require("admin"))]


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The web process lives. Async: it needs none of the threads that slow requests may hold."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(service: ServiceNow) -> Response:
    """Requests can be answered: the database can be written and the engine is ready. 503 if not, with the reason.

    `failing` names background tasks whose last round failed; requests are answered meanwhile.
    """
    problems = []
    if not can_write(service):
        problems.append("database")
    if not service.engine.info().ready:
        problems.append("engine")
    if service.closing:
        problems.append("shutting down")
    body = {"status": "not ready" if problems else "ready", "problems": problems}
    body["failing"] = keepers_of(service).failing()
    return JSONResponse(body, 503 if problems else 200, {"retry-after": "2"} if problems else None)


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request, service: ServiceNow) -> Response:
    """Prometheus metrics, for this machine or with the token."""
    token = service.settings.metrics_token
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and hmac.compare_digest(given.encode(), token.encode()):
        pass
    elif token or not _is_local(request):
        raise ApiError(404, "not_found", "Not Found")
    return PlainTextResponse(metrics_of(service).text(), media_type="text/plain; version=0.0.4")


def _is_local(request: Request) -> bool:
    """Whether a request began on this machine; a reverse proxy on it has this machine's address too."""
    host = request.client.host if request.client else ""
    return host in (*LOOPBACK, "") and is_own(request.headers)


@router.get("/api/admin/system")
def system(service: ServiceNow, viewer: Admin) -> dict[str, Any]:
    """Versions, models, engine, database, disk."""
    info = service.engine.info()
    database = service.database.url
    size = None
    if database.get_backend_name() == "sqlite" and database.database and Path(database.database).is_file():
        size = Path(database.database).stat().st_size
    place = service.settings.workspace
    while not place.exists():
        place = place.parent
    disk = shutil.disk_usage(place)
    return {
        "version": wuya.__version__,
        "engine": {
            "ready": info.ready,
            "slots_used": info.slots_used,
            "slots_total": info.slots_total,
            "queue_length": info.queue_length,
            "kv_cache_ratio": info.kv_cache_ratio,
        },
        "models": [
            {"alias": m.alias, "context_length": m.context_length, "fingerprint": m.fingerprint} for m in info.models
        ],
        "database": {"kind": database.get_backend_name(), "bytes": size},
        "disk": {"free": disk.free, "total": disk.total},
    }


@router.post("/api/admin/system/backup", status_code=201)
def make_backup(request: Request, service: ServiceNow, viewer: Admin) -> dict[str, str]:
    """Copy the database into the workspace's backups/."""
    path = backup(service.database, default_name(service.settings.workspace))
    with writing(service.database) as connection:
        audit.record(connection, service, "backup", viewer=viewer, request=request, diff={"file": path.name})
    return {"file": path.name}
