"""`/api/runs`, `/api/models` and the pages /runs, /runs/{id}, /models."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from wuya.files import to_json
from wuya.web import openapi
from wuya.web.accounts.auth import Viewer, require, still_may
from wuya.web.operations.metrics import metrics_of
from wuya.web.pages import render
from wuya.web.routing import Router
from wuya.web.runs import models, reporting, switches, watching
from wuya.web.runs.folders import is_number
from wuya.web.service import Service, service_of
from wuya.web.supervision import keepers_of

router = Router(tags=["runs"])
ServiceNow = Annotated[Service, Depends(service_of)]
Watcher = Annotated[Viewer, Depends(require("runs"))]
RunId = Annotated[str, Path(max_length=300)]
LOOK_SECONDS, PING_SECONDS = 1.5, 15.0


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[None]:
    """With several web processes: hear what the others promote."""
    if service.database.dialect.name == "sqlite":
        yield
        return
    follow = await switches.follower(service)
    keeper = keepers_of(service).start("models of other processes", every=switches.FOLLOW_SECONDS, work=follow)
    try:
        yield
    finally:
        await keeper.stop()


@router.get("/api/runs")
def runs(service: ServiceNow, viewer: Watcher) -> dict[str, Any]:
    """Every run, the last changed first."""
    return {"items": watching.all_runs(service), "next": None}


@router.get("/api/runs/events")
def changes(request: Request, service: ServiceNow, viewer: Watcher,
            ids: Annotated[str, Query(max_length=2000)]) -> StreamingResponse:  # fmt: skip
    """New rows of some runs (ids with commas) as an event stream: `rows` {run, rows}; Last-Event-ID is not needed."""
    chosen = [id for id in ids.split(",") if id][:6]
    starts = {id: len(watching.rows_of(service, id)) for id in chosen}
    events = _follow(request, service, starts)
    return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _follow(request: Request, service: Service, starts: dict[str, int]) -> AsyncIterator[bytes]:
    gauge = metrics_of(service).sse_clients
    gauge.inc()
    silent = checked = 0.0
    try:
        yield b": open\n\n"
        while not service.closing:
            for id, start in starts.items():
                rows = await run_in_threadpool(watching.rows_of, service, id)
                if len(rows) > start:
                    starts[id], silent = len(rows), 0.0
                    yield _event("rows", {"run": id, "rows": rows[start:]})
            await asyncio.sleep(LOOK_SECONDS)
            silent += LOOK_SECONDS
            checked += LOOK_SECONDS
            if checked >= PING_SECONDS:
                checked = 0.0
                if not await run_in_threadpool(still_may, request, "runs"):
                    return
            if silent >= PING_SECONDS:
                silent = 0.0
                yield b": ping\n\n"
        yield _event("bye", {"retry_ms": 1500})
    finally:
        gauge.dec()


@router.get("/api/runs/same-prompt")
def same_prompt(service: ServiceNow, viewer: Watcher, prompt: Annotated[str, Query(max_length=8000)]) -> dict[str, Any]:
    """Answers to one prompt across runs and steps."""
    return {"items": watching.same_prompt(service, prompt), "next": None}


@router.get("/api/runs/{id}")
def run(id: RunId, service: ServiceNow, viewer: Watcher) -> dict[str, Any]:
    """One run with config, checkpoints and events."""
    return watching.one_run(service, id)


@router.get("/api/runs/{id}/series")
def series(
    id: RunId,
    service: ServiceNow,
    viewer: Watcher,
    keys: Annotated[str, Query(max_length=4000)] = "",
    max_points: Annotated[int, Query(ge=3, le=watching.MAX_POINTS)] = 500,
) -> dict[str, Any]:
    """Points of metrics (keys with commas; none: all), thinned to `max_points` each."""
    rows = watching.rows_of(service, id)
    wanted = [key for key in keys.split(",") if key] or watching.keys_of(rows)
    return {"series": watching.series(rows, wanted[:100], max_points=max_points)}


@router.get("/api/runs/{id}/samples")
def samples(
    id: RunId,
    service: ServiceNow,
    viewer: Watcher,
    step: Annotated[int | None, Query(ge=0)] = None,
    sort: Annotated[str, Query(max_length=20)] = "order",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    bin: Annotated[int | None, Query(ge=0, le=100)] = None,
) -> dict[str, Any]:
    """Answers at a step, the last if none is named, and a histogram of them; `bin`: only those of one bar."""
    rows = watching.samples_of(service, id)
    return watching.page_of_samples(rows, step=step, sort=sort, limit=limit, bin=bin)


@router.get("/api/runs/{id}/rollouts")
def rollouts(
    id: RunId,
    service: ServiceNow,
    viewer: Watcher,
    update: Annotated[int | None, Query(ge=0, le=10**9)] = None,
    sort: Literal["order", "kl", "-kl", "score", "-score"] = "-kl",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """Dumped episodes of an update, token by token; empty where none were kept."""
    return watching.rollouts_of(service, id, update, sort=sort, limit=limit)


def _csv_text(text: str) -> str:
    """A quoted cell; one that a spreadsheet would run as a formula is text there."""
    shown = f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return '"' + shown.replace('"', '""') + '"'


@router.get("/api/runs/{id}/metrics.csv", response_class=PlainTextResponse, responses=openapi.of_kinds("text/csv"))
def as_csv(id: RunId, service: ServiceNow, viewer: Watcher) -> Response:
    """Every figure as CSV."""
    rows = watching.rows_of(service, id)
    keys = ["step", "time", *watching.keys_of(rows)]
    lines = [",".join(map(_csv_text, keys))]
    lines += [",".join(repr(row[k]) if is_number(row.get(k)) else "" for k in keys) for row in rows]
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in id)[:80]
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return PlainTextResponse("\n".join(lines) + "\n", headers=headers, media_type="text/csv; charset=utf-8")


@router.get("/runs", include_in_schema=False)
def runs_page(request: Request, viewer: Watcher) -> Response:
    """All runs."""
    return render(request, "runs.html", viewer, area="runs")


@router.get("/runs/{id}", include_in_schema=False)
def run_page(request: Request, id: RunId, service: ServiceNow, viewer: Watcher) -> Response:
    """One run, or several side by side (`?with=other,third`)."""
    watching.rows_of(service, id)
    return render(request, "run.html", viewer, area="runs", data={"id": id}, name=id.replace("~", "/"))


@router.get("/models", include_in_schema=False)
def models_page(request: Request, viewer: Watcher) -> Response:
    """The registry."""
    return render(request, "models.html", viewer, area="runs")


router.include_router(models.router)
router.include_router(reporting.router)


def _event(kind: str, data: object) -> bytes:
    """One server-sent event; JSON has no line breaks of its own."""
    return f"event: {kind}\ndata: {to_json(data)}\n\n".encode()
