"""The labeler's half of the labeling API, and the pages. The lead's half: `lead.py`."""

import json
from typing import Annotated, Any

from fastapi import Depends, Header
from starlette.requests import Request
from starlette.responses import Response

from wuya.errors import WuyaError
from wuya.feedback.submission import Submission
from wuya.web import openapi
from wuya.web.accounts.auth import Viewer, require
from wuya.web.labeling import lead, sampling
from wuya.web.labeling.bodies import BeginBody, DraftBody, NextBody, PreviewBody, SkipBody, SubmitBody
from wuya.web.labeling.refusals import done
from wuya.web.labeling.store import LabelerStore
from wuya.web.markdown.nodes import render as render_markdown
from wuya.web.operations.metrics import metrics_of
from wuya.web.pages import render
from wuya.web.routing import Router
from wuya.web.service import Service, service_of
from wuya.web.traffic import models_of

router = Router()
router.include_router(lead.router)
router.include_router(sampling.router)
Json = dict[str, Any]
Labeler = Annotated[Viewer, Depends(require("label"))]


def labeler_store(service: Annotated[Service, Depends(service_of)]) -> LabelerStore:
    """The store of the service's database."""
    return LabelerStore(service.database, on_expired=metrics_of(service).lease_expired.inc)


Store = Annotated[LabelerStore, Depends(labeler_store)]
ServiceOf = Annotated[Service, Depends(service_of)]


# Pages


@router.get("/label", include_in_schema=False)
def home_page(request: Request, viewer: Labeler) -> Response:
    """L1: what waits, and how it went."""
    return render(request, "label.html", viewer, area="label", screen="home")


@router.get("/label/tasks/{id}", include_in_schema=False)
def task_page(request: Request, viewer: Labeler, id: str) -> Response:
    """L2 to L4: one task."""
    return render(request, "label.html", viewer, area="label", screen="task", data={"assignment": id})


# The labeler's API


@router.get("/api/label/projects", tags=["label"])
def label_projects(viewer: Labeler, store: Store) -> Json:
    """Projects with work, and the labeler's figures in each."""
    return {"items": store.home(viewer.user_id), "next": None}


@router.post("/api/label/projects/{id}/quiz", tags=["label"])
def begin(viewer: Labeler, store: Store, id: str, body: BeginBody) -> Json:
    """Guide read and agreed to; starts the quiz where there is one."""
    profile = {"consent": True, "languages": body.languages, "topics": body.topics}
    return {"state": done(lambda: store.begin(viewer.user_id, id, profile))}


@router.post("/api/label/next", tags=["label"], responses={204: {"description": "nothing is left"}})
def next_task(viewer: Labeler, store: Store, body: NextBody) -> Any:
    """The task in hand, or the next one of the project; 204 if there is none."""
    found = done(lambda: store.next(viewer.user_id, body.project))
    return found if found is not None else Response(status_code=204)


@router.get("/api/label/me/stats", tags=["label"])
def my_stats(viewer: Labeler, store: Store) -> Json:
    """The labeler's figures by project."""
    return {p["id"]: {"name": p["name"], **p["figures"]} for p in store.home(viewer.user_id)}


@router.get(
    "/api/label/me/export",
    tags=["label"],
    response_class=Response,
    responses=openapi.of_kinds("application/jsonl"),
)
def my_export(viewer: Labeler, store: Store) -> Response:
    """Everything the labeler submitted, as JSON Lines."""
    lines = [json.dumps(row, ensure_ascii=False) for row in store.personal_export(viewer.user_id)]
    headers = {"content-disposition": 'attachment; filename="my-labels.jsonl"'}
    return Response("".join(line + "\n" for line in lines), media_type="application/jsonl", headers=headers)


@router.post("/api/label/preview", tags=["label"])
async def preview(viewer: Labeler, service: ServiceOf, body: PreviewBody) -> Json:
    """A text as nodes to draw, or its length in tokens (null where no model is loaded)."""
    if not body.count:
        return {"nodes": render_markdown(body.text)}
    models = models_of(service.engine)
    try:
        return {"tokens": len(await service.engine.tokenize(models[0].alias, body.text)) if models else None}
    except WuyaError:
        return {"tokens": None}


@router.get("/api/assignments/{id}", tags=["label"])
def assignment(viewer: Labeler, store: Store, id: str) -> Json:
    """One of the labeler's own tasks."""
    return done(lambda: store.assignment(viewer.user_id, id))


@router.patch("/api/assignments/{id}", tags=["label"])
def save_draft(viewer: Labeler, store: Store, id: str, body: DraftBody) -> Json:
    """Keep a draft. 409 `draft_conflict` with the newer one if another tab saved since."""
    return done(lambda: store.save_draft(viewer.user_id, id, body.draft, body.draft_rev))


@router.post("/api/assignments/{id}/heartbeat", tags=["label"])
def heartbeat(viewer: Labeler, store: Store, id: str) -> Json:
    """Renew the lease. 409 `lease_lost` if somebody else has the task."""
    return done(lambda: store.heartbeat(viewer.user_id, id))


@router.post("/api/assignments/{id}/skip", tags=["label"])
def skip(viewer: Labeler, store: Store, id: str, body: SkipBody) -> Json:
    """Give the task back for good, with a reason."""
    done(lambda: store.skip(viewer.user_id, id, body.reason))
    return {"state": "skipped"}


@router.post("/api/assignments/{id}/release", tags=["label"])
def release(viewer: Labeler, store: Store, id: str) -> Json:
    """Give the task back for now; the draft is kept for a day."""
    done(lambda: store.give_back(viewer.user_id, id))
    return {"state": "expired"}


@router.post("/api/assignments/{id}/submit", tags=["label"])
def submit(
    viewer: Labeler,
    store: Store,
    service: ServiceOf,
    id: str,
    body: SubmitBody,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
) -> Json:
    """Hand in. The same again (or the same Idempotency-Key) changes nothing."""
    fields = body.model_dump(exclude={"schema_version"})
    what = Submission(**fields, key=idempotency_key)
    result = done(lambda: store.submit(viewer.user_id, id, what, schema_version=body.schema_version))
    metrics_of(service).label_submits.labels(project=result["project"]).inc()
    return result
