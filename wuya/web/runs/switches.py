"""Promote, try on a share of the chats (canary), roll back: what answers under an alias changes without a gap.

New weights are loaded first, the alias changes then; streams that run finish on the old weights. With several web
processes each follows what the others did.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from wuya.checkpoints.known_models import is_there
from wuya.database.connection import reading
from wuya.errors import WuyaError
from wuya.web.accounts.auth import Viewer
from wuya.web.errors import ApiError
from wuya.web.runs import registry
from wuya.web.service import Service
from wuya.web.traffic import canary_of, models_of, traffic_of

log = logging.getLogger("wuya.web.runs")
FOLLOW_SECONDS = 5.0
DRAIN_SECONDS = 10.0
"""How long answers that the canary is about to begin may keep it loaded."""
Json = dict[str, Any]


async def promote(service: Service, alias: str, version_id: str, viewer: Viewer) -> Json:
    """Let an alias answer with another version; a canary of that version has done its work."""
    version, row = await run_in_threadpool(_look, service, alias, version_id)
    before = row["active_version_id"] if row else await run_in_threadpool(_served, service, alias)
    await load(service, alias, version)
    changed = await run_in_threadpool(registry.point, service, alias, version_id, viewer, before=before)
    if row and row["canary_version_id"] == version_id:
        await _unload_canary(service, alias, version_id)
    return changed


async def roll_back(service: Service, alias: str, viewer: Viewer) -> Json:
    """End the canary if there is one; else let the alias answer with the version before."""
    row = await run_in_threadpool(_row, service, alias)
    if row is None:
        raise ApiError(404, "not_found", "there is no such alias")
    if row["canary_version_id"]:
        return await set_canary(service, alias, None, 0, viewer)
    if not row["history"]:
        raise ApiError(409, "no_history", "this alias never pointed to another version")
    version, _ = await run_in_threadpool(_look, service, alias, row["history"][-1])
    await load(service, alias, version)
    before = row["active_version_id"]
    return await run_in_threadpool(
        registry.point, service, alias, version["id"], viewer, before=before, rolled_back=True
    )


async def set_canary(service: Service, alias: str, version_id: str | None, percent: int, viewer: Viewer) -> Json:
    """Give a version a share of an alias's chats, change the share, or (0) end it.

    Args:
        version_id: None: the canary that there is.
    """
    row = await run_in_threadpool(_row, service, alias)
    running = row["canary_version_id"] if row else None
    wanted = version_id or running
    if wanted is None:
        raise ApiError(409, "no_canary", "this alias has no canary; say which version shall be one")
    if alias not in {model.alias for model in models_of(service.engine)}:
        raise ApiError(404, "not_found", "nothing answers under this alias now")
    active = row["active_version_id"] if row else await run_in_threadpool(_served, service, alias)
    if wanted == active:
        raise ApiError(409, "is_live", "this version answers all chats of the alias already", param="version_id")
    if percent:
        version, _ = await run_in_threadpool(_look, service, alias, wanted)
        if wanted != running or not _is_loaded(service, canary_of(alias), version):
            await load(service, canary_of(alias), version)
    share = registry.Canary(wanted, percent) if percent else None
    changed = await run_in_threadpool(registry.point_canary, service, alias, share, viewer, active=active)
    if not percent:
        await _unload_canary(service, alias, wanted)
    return changed


async def load(service: Service, alias: str, version: Mapping[str, Any]) -> None:
    """Load a version's weights behind an alias; an error leaves everything as it was."""
    path = str(version["path"])
    if not path or not is_there(path):
        raise ApiError(409, "files_missing", f"the files of {version['name']} are not there any more")
    try:
        await service.engine.load(alias, path)
    except WuyaError as error:
        raise ApiError(409, "load_failed", error.what) from error


async def follower(service: Service) -> Callable[[], Awaitable[None]]:
    """One round of doing here what other web processes did since the round before: load what was promoted, load and
    unload canaries."""
    seen = await run_in_threadpool(_targets, service)

    async def follow() -> None:
        nonlocal seen
        targets = await run_in_threadpool(_targets, service)
        for name in sorted(targets.keys() | seen.keys()):
            if targets.get(name) == seen.get(name):
                continue
            try:
                if name in targets and not _is_loaded(service, name, targets[name]):
                    await load(service, name, targets[name])
                elif name not in targets:
                    await service.engine.unload(name)
            except (ApiError, WuyaError) as error:
                log.warning("could not follow a change of the models", extra={"alias": name, "reason": str(error)})
        seen = targets

    return follow


async def _unload_canary(service: Service, alias: str, version_id: str) -> None:
    """Free the canary's memory once no answer waits for it."""
    name = canary_of(alias)
    for _ in range(int(DRAIN_SECONDS / 0.1)):
        if not await run_in_threadpool(_is_awaited, service, version_id):
            break
        await asyncio.sleep(0.1)
    if name in {model.alias for model in service.engine.info().models}:
        await service.engine.unload(name)


def _is_loaded(service: Service, name: str, version: Mapping[str, Any]) -> bool:
    return any(model.alias == name and model.path == version["path"] for model in service.engine.info().models)


def _is_awaited(service: Service, version_id: str) -> bool:
    with reading(service.database) as connection:
        return registry.is_awaited(connection, version_id)


def _row(service: Service, alias: str) -> Json | None:
    with reading(service.database) as connection:
        return registry.alias_row(connection, alias)


def _look(service: Service, alias: str, version_id: str) -> tuple[Mapping[str, Any], Json | None]:
    with reading(service.database) as connection:
        return registry.version(connection, version_id), registry.alias_row(connection, alias)


def _served(service: Service, alias: str) -> str | None:
    """The version that an alias without a row answers with: what the command line named."""
    model = next((model for model in models_of(service.engine) if model.alias == alias), None)
    if model is None or not Path(model.path).is_absolute():
        return None
    return traffic_of(service).version_of(model)


def _targets(service: Service) -> dict[str, Mapping[str, Any]]:
    """What the registry wants loaded: engine alias -> version."""
    with reading(service.database) as connection:
        rows = registry.aliases(connection)
        wanted = {row["alias"]: row["active_version_id"] for row in rows}
        wanted |= {canary_of(row["alias"]): row["canary_version_id"] for row in rows}
        return {name: registry.version(connection, id) for name, id in wanted.items() if id}
