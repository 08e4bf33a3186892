"""`/api/models`: what is served, versions and their lineage, promote and roll back."""

from typing import Annotated, Any

from fastapi import Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from wuya.database.connection import reading
from wuya.web.accounts.auth import Viewer, require
from wuya.web.routing import Router
from wuya.web.runs import registry, switches
from wuya.web.service import Service, service_of
from wuya.web.traffic import models_of

router = Router(prefix="/api", tags=["models"])
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


class Canary(BaseModel):
    """Which version shall answer how much."""

    model_config = ConfigDict(extra="forbid")
    version_id: Annotated[str, Field(max_length=200)] | None = None
    """None: the canary that there is."""
    percent: Annotated[int, Field(ge=0, le=100)]
    """Of the chats; 0 ends it."""


@router.get("/models")
def served(service: ServiceNow, viewer: Anybody) -> dict[str, Any]:
    """Models one can talk to now."""
    models = models_of(service.engine)
    shown = ("alias", "context_length", "has_chat", "has_tools", "created")
    return {"items": [{key: getattr(model, key) for key in shown} for model in models], "next": None}


@router.get("/registry")
def registered(service: ServiceNow, viewer: Watcher) -> dict[str, Any]:
    """Aliases, versions, and finished runs that are no versions yet."""
    with reading(service.database) as connection:
        versions, aliases = registry.versions(connection), registry.aliases(connection)
        named = {row[key] for row in aliases for key in ("active_version_id", "canary_version_id")} - {None}
        opinions = registry.opinions(connection, named)
    known = {row["path"] for row in versions}
    root = service.settings.workspace / "runs"
    found = registry.found_in_runs(service)
    place = {row["run"]: root.joinpath(*row["run"].split("~")) / "model" for row in found}
    fresh = [row for row in found if not {str(place[row["run"]]), str(place[row["run"]].resolve())} & known]
    live = {model.alias: model.path for model in service.engine.info().models}  # canaries too: `ppo@canary`
    answering = registry.answering(live, versions)
    for row in versions:  # chatted with and so registered, but promoted by nobody
        if row["id"] in {found["version_id"] for found in answering.values()}:
            row["state"] = "live"
    return {
        "aliases": aliases, "versions": versions, "found": fresh, "serving": live, "answering": answering,
        "opinions": opinions,
    }  # fmt: skip


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
    return await switches.promote(service, alias, body.version_id, viewer)


@router.post("/models/{alias}/canary")
async def canary(alias: Alias, body: Canary, service: ServiceNow, viewer: Keeper) -> dict[str, Any]:
    """Give a version a share of an alias's chats, change the share, or end it with 0."""
    return await switches.set_canary(service, alias, body.version_id, body.percent, viewer)


@router.post("/models/{alias}/rollback")
async def roll_back(alias: Alias, service: ServiceNow, viewer: Keeper) -> dict[str, Any]:
    """End the alias's canary; without one, let it answer with the version before."""
    return await switches.roll_back(service, alias, viewer)
