"""`/api/models`: what is served, versions and their lineage, promote and roll back."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from wuya.feedback.database import reading
from wuya.web.accounts.auth import Viewer, require
from wuya.web.errors import ApiError
from wuya.web.runs import registry
from wuya.web.service import Service, service_of

router = APIRouter(prefix="/api", tags=["models"])
ServiceNow = Annotated[Service, Depends(service_of)]
Watcher = Annotated[Viewer, Depends(require("runs"))]
Keeper = Annotated[Viewer, Depends(require("models"))]
Anybody = Annotated[Viewer, Depends(require("chat"))]
Alias = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


class NewVersion(BaseModel):
    """A finished run of this workspace."""

    model_config = ConfigDict(extra="forbid")
    run: Annotated[str, Field(max_length=300)]
    note: Annotated[str, Field(max_length=2000)] = ""


class Promotion(BaseModel):
    """Which version an alias shall point to."""

    model_config = ConfigDict(extra="forbid")
    version_id: Annotated[str, Field(max_length=200)]


@router.get("/models")
def served(service: ServiceNow, viewer: Anybody) -> dict[str, Any]:
    """Models one can talk to now."""
    models = service.engine.info().models
    shown = ("alias", "context_length", "has_chat", "has_tools", "created")
    return {"items": [{key: getattr(model, key) for key in shown} for model in models], "next": None}


@router.get("/registry")
def registered(service: ServiceNow, viewer: Watcher) -> dict[str, Any]:
    """Aliases, versions, and finished runs that are no versions yet."""
    with reading(service.database) as connection:
        versions, aliases = registry.versions(connection), registry.aliases(connection)
    known = {row["path"] for row in versions}
    root = service.settings.workspace / "runs"
    found = registry.found_in_runs(service)
    fresh = [row for row in found if str(root.joinpath(*row["run"].split("~")) / "model") not in known]
    live = {model.alias: model.path for model in service.engine.info().models}
    return {"aliases": aliases, "versions": versions, "found": fresh, "serving": live}


@router.post("/model-versions", status_code=201)
def register(body: NewVersion, service: ServiceNow, viewer: Keeper) -> dict[str, Any]:
    """Make a version of a run's final model, and of its ancestors."""
    return registry.register(service, body.run, viewer, note=body.note)


@router.get("/model-versions/{id}/lineage")
def lineage(id: Annotated[str, Path(max_length=200)], service: ServiceNow, viewer: Watcher) -> dict[str, Any]:
    """A version and what it was trained from, back to the base model."""
    with reading(service.database) as connection:
        registry.version(connection, id)
        return {"items": registry.lineage(connection, id), "next": None}


@router.post("/models/{alias}/promote")
async def promote(alias: Alias, body: Promotion, service: ServiceNow, viewer: Keeper) -> dict[str, Any]:
    """Let an alias answer with another version; what streams now finishes on the old one."""
    with reading(service.database) as connection:
        version = registry.version(connection, body.version_id)
    await registry.switch(service, alias, version)
    return await run_in_threadpool(registry.point, service, alias, body.version_id, viewer, rolled_back=False)


@router.post("/models/{alias}/rollback")
async def roll_back(alias: Alias, service: ServiceNow, viewer: Keeper) -> dict[str, Any]:
    """Let an alias answer with the version before."""
    with reading(service.database) as connection:
        row = next((row for row in registry.aliases(connection) if row["alias"] == alias), None)
        if row is None:
            raise ApiError(404, "not_found", "there is no such alias")
        if not row["history"]:
            raise ApiError(409, "no_history", "this alias never pointed to another version")
        version = registry.version(connection, row["history"][-1])
    await registry.switch(service, alias, version)
    return await run_in_threadpool(registry.point, service, alias, version["id"], viewer, rolled_back=True)
