"""How runs of other machines report: `POST /api/runs` with a key of scope `runs:write`, then figures in batches."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Path
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from wuya.database.connection import writing
from wuya.web.accounts.auth import Viewer, require
from wuya.web.errors import ApiError
from wuya.web.routing import Router
from wuya.web.runs import store
from wuya.web.service import Service, service_of

router = Router(prefix="/api/runs", tags=["runs"])
ServiceNow = Annotated[Service, Depends(service_of)]
Writer = Annotated[Viewer, Depends(require("runs:write"))]
RunId = Annotated[str, Path(max_length=200)]
Step = Annotated[int, Field(ge=0, le=2**31 - 1)]
MAX_METRICS = 5_000_000


class Body(BaseModel):
    """A JSON body; unknown members are refused."""

    model_config = ConfigDict(extra="forbid")


class NewRun(Body):
    """Who reports."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^~\x00-\x1f]+$")]
    stage: Annotated[str, Field(max_length=40)] = ""
    config: dict[str, Any] = {}
    git_sha: Annotated[str, Field(max_length=64)] = ""
    seed: int | None = None
    host: Annotated[str, Field(max_length=200)] = ""


class MetricRow(Body):
    """Figures of one step."""

    step: Step
    time: FiniteFloat = 0.0
    values: Annotated[dict[Annotated[str, Field(max_length=200)], FiniteFloat], Field(max_length=200)]


class Metrics(Body):
    """A batch."""

    rows: Annotated[list[MetricRow], Field(max_length=1000)]


class SampleRow(Body):
    """An answer."""

    step: Step
    idx: Annotated[int, Field(ge=0, le=10_000)]
    prompt: Annotated[str, Field(max_length=50_000)] = ""
    output: Annotated[str, Field(max_length=50_000)] = ""
    ref_output: Annotated[str, Field(max_length=50_000)] = ""
    reward: FiniteFloat | None = None
    kl: FiniteFloat | None = None
    scores: dict[str, FiniteFloat] = {}


class Samples(Body):
    """A batch."""

    rows: Annotated[list[SampleRow], Field(max_length=200)]


class Event(Body):
    """Something to note."""

    text: Annotated[str, Field(min_length=1, max_length=2000)]
    level: Literal["info", "warning", "alert", "note"] = "info"
    step: Step | None = None


class Heartbeat(Body):
    """The run lives, or has ended."""

    status: Literal["running", "finished", "failed", "stopped"] = "running"


@router.post("", status_code=201)
def create(body: NewRun, service: ServiceNow, viewer: Writer) -> dict[str, str]:
    """Begin to report; the same name again goes on with that run."""
    with writing(service.database) as connection:
        return {"id": store.create(connection, owner=viewer.user_id, **body.model_dump())}


@router.post("/{id}/metrics", status_code=202)
def add_metrics(id: RunId, body: Metrics, service: ServiceNow, viewer: Writer) -> dict[str, int]:
    """Figures; sending a batch again changes nothing."""
    rows = [
        {"key": key, "step": row.step, "value": value, "wall": row.time}
        for row in body.rows
        for key, value in row.values.items()
    ]
    unique = {(row["key"], row["step"]): row for row in rows}
    with writing(service.database) as connection:
        store.need(connection, id, viewer.user_id)
        if store.num_metrics(connection, id) > MAX_METRICS:
            raise ApiError(409, "run_full", f"a run has at most {MAX_METRICS:,} figures")
        store.beat(connection, id)
        return {"accepted": store.add_metrics(connection, id, unique.values())}


@router.post("/{id}/samples", status_code=202)
def add_samples(id: RunId, body: Samples, service: ServiceNow, viewer: Writer) -> dict[str, int]:
    """Answers at a step."""
    unique = {(row.step, row.idx): row.model_dump() for row in body.rows}
    with writing(service.database) as connection:
        store.need(connection, id, viewer.user_id)
        store.beat(connection, id)
        return {"accepted": store.add_samples(connection, id, unique.values())}


@router.post("/{id}/events", status_code=202)
def add_event(id: RunId, body: Event, service: ServiceNow, viewer: Writer) -> dict[str, int]:
    """Something the run says, or a person notes about it."""
    with writing(service.database) as connection:
        store.need(connection, id, viewer.user_id)
        store.add_event(connection, id, body.level, body.text, body.step)
        return {"accepted": 1}


@router.post("/{id}/heartbeat", status_code=204)
def heartbeat(id: RunId, body: Heartbeat, service: ServiceNow, viewer: Writer) -> None:
    """Still alive, or ended."""
    with writing(service.database) as connection:
        store.need(connection, id, viewer.user_id)
        store.beat(connection, id, body.status)
