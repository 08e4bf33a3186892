"""The lead's half of the labeling API: projects, prompts, tasks, review, agreement, exports; and its pages."""

import csv
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from wuya.data.fields import parse_candidate, prompt_messages, refuse_calls
from wuya.data.messages import messages_key, parse_tools
from wuya.data.values import BadRowError, id_of, text_field
from wuya.errors import DataError
from wuya.feedback.progress import Filter
from wuya.feedback.projects import NewTask
from wuya.feedback.prompt_filter import PersonalData
from wuya.feedback.reading import Selection
from wuya.feedback.screening import PromptState
from wuya.records import Prompt
from wuya.web import openapi
from wuya.web.accounts.auth import Viewer, require
from wuya.web.errors import ApiError
from wuya.web.labeling.bodies import (
    AdjudicateBody,
    ExportBody,
    GoldBody,
    ProjectBody,
    PromptsBody,
    ReviewBody,
    StandingBody,
    TasksBody,
)
from wuya.web.labeling.lead_store import LeadStore, parse_lines
from wuya.web.labeling.refusals import done
from wuya.web.labeling.store import Json
from wuya.web.pages import render
from wuya.web.routing import Router
from wuya.web.service import Service, service_of

router = Router()
Lead = Annotated[Viewer, Depends(require("label:lead"))]
MAX_ROWS = 200_000


def lead_store(service: Annotated[Service, Depends(service_of)]) -> LeadStore:
    """The store of the service's database."""
    return LeadStore(service.database)


Store = Annotated[LeadStore, Depends(lead_store)]
ServiceOf = Annotated[Service, Depends(service_of)]


# Pages


@router.get("/label/review", include_in_schema=False)
def review_page(request: Request, viewer: Lead) -> Response:
    """L6: review and agreement."""
    return render(request, "label.html", viewer, area="label", screen="review")


@router.get("/data", include_in_schema=False)
def data_page(request: Request, viewer: Lead) -> Response:
    """D3: data and labels."""
    return render(request, "label.html", viewer, area="data", screen="data")


# Projects, prompts, tasks


@router.get("/api/admin/projects", tags=["lead"])
def projects(viewer: Lead, store: Store) -> Json:
    """All labeling projects."""
    return {"items": store.projects(), "next": None}


@router.post("/api/admin/projects", tags=["lead"], status_code=201)
def add_project(viewer: Lead, store: Store, body: ProjectBody) -> Json:
    """A new project, with InstructGPT's questions unless others are given."""
    if not body.name:
        raise ApiError(422, "invalid_value", "a project needs a name", param="name")
    values = body.model_dump(exclude_none=True, exclude={"name", "type"})
    return {"id": done(lambda: store.add_project(body.name or "", body.type or "ranking", values))}


@router.patch("/api/admin/projects/{id}", tags=["lead"])
def change_project(viewer: Lead, store: Store, id: str, body: ProjectBody) -> Json:
    """Change settings; a new guide or new questions get a new version."""
    done(lambda: store.change_project(id, body.model_dump(exclude_none=True, exclude={"type"})))
    return {"id": id}


@router.post("/api/prompts/import", tags=["lead"])
async def import_prompts(
    request: Request,
    viewer: Lead,
    store: Store,
    personal: PersonalData = "redact",
    lang: Annotated[str, Query(max_length=20)] = "",
    source: Annotated[str, Query(max_length=120)] = "import",
    screen: bool = False,
) -> Json:
    """Prompts as JSON Lines or CSV: `prompt` (text or messages), perhaps `id`, `author`, `source`.

    With `screen` they wait until a lead approves them.
    """
    body = await request.body()
    kind = request.headers.get("content-type", "")

    def work() -> Json:
        rows, bad = _rows(body, kind), []
        prompts = []
        for number, row in enumerate(rows, start=1):
            try:
                if isinstance(row, BadRowError):
                    raise row
                prompts.append(_prompt(row, source))
            except (BadRowError, DataError) as reason:
                bad.append({"line": number, "reason": str(reason)})
        report = store.import_prompts(prompts, personal=personal, lang=lang, screen=screen)
        return report | {"bad": len(bad), "bad_rows": bad[:20]}

    return await run_in_threadpool(lambda: done(work))


@router.get("/api/admin/prompts", tags=["lead"])
def prompts(
    viewer: Lead, store: Store, state: PromptState = "new", after: Annotated[str, Query(max_length=200)] = ""
) -> Json:
    """Prompts that wait for a decision, or those approved or rejected."""
    return store.prompts(state, after=after)


@router.post("/api/admin/prompts", tags=["lead"])
def decide_prompts(viewer: Lead, store: Store, body: PromptsBody) -> Json:
    """Approve or reject prompts, or put them back. A rejected prompt's tasks end, unless somebody has begun."""
    return {"changed": done(lambda: store.decide_prompts(body.ids, body.state))}


def _rows(body: bytes, kind: str) -> list[dict[str, Any] | BadRowError]:
    try:
        rows = parse_lines(body, kind)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ApiError(400, "invalid_data", f"can't read the file: {error}") from error
    if len(rows) > MAX_ROWS:
        raise ApiError(413, "request_too_large", f"more than {MAX_ROWS:,} rows")
    return rows


def _prompt(row: Mapping[str, Any], source: str) -> Prompt:
    value = next((row[key] for key in ("prompt", "messages", "text", "question") if row.get(key)), None)
    if value is None:
        raise BadRowError("has no `prompt`")
    messages = prompt_messages(value)
    tools = parse_tools(row.get("tools"))
    key = id_of(row)
    key = key if 0 < len(key) <= 200 else messages_key(messages, tools)
    where = text_field(row, "source", default=source), text_field(row, "author", default="")
    return Prompt(key, messages, *where, tools)


@router.post("/api/tasks/bulk", tags=["lead"])
def add_tasks(viewer: Lead, store: Store, body: TasksBody) -> Json:
    """Queue tasks: prompts with answers, or approved prompts. A row with `gold` becomes a test task."""
    if body.from_prompts:
        return done(lambda: store.tasks_from_prompts(body.project, count=body.from_prompts, split=body.split))
    return done(lambda: store.add_tasks(body.project, _tasks(body), round=body.round, priority=body.priority))


def _tasks(body: TasksBody) -> Sequence[NewTask]:
    found = []
    for number, task in enumerate(body.tasks, start=1):
        try:
            prompt = _prompt(task.model_dump(exclude_none=True, include={"prompt", "id", "source", "author"}), "")
            candidates = tuple(parse_candidate(value) for value in task.candidates)
            refuse_calls(candidates, "answers that people rank are texts")
        except (BadRowError, DataError) as reason:
            raise DataError(f"task {number} can't be used", found=str(reason)) from reason
        found.append(NewTask((prompt, candidates), task.gold.model_dump() if task.gold else None))
    return found


# Review


@router.get("/api/admin/tasks", tags=["lead"])
def tasks(viewer: Lead, store: Store, project: str, show: Filter = "all", after: str = "") -> Json:
    """A project's tasks with everybody's work."""
    return done(lambda: store.tasks(project, show=show, after=after))


@router.get("/api/admin/tasks/{id}", tags=["lead"])
def task(viewer: Lead, store: Store, id: str) -> Json:
    """One task: prompt, answers, work, reviews. Models stay hidden: the lead may have to decide it."""
    return done(lambda: store.task(id))


@router.post("/api/tasks/{id}/adjudicate", tags=["lead"])
def adjudicate(viewer: Lead, store: Store, id: str, body: AdjudicateBody) -> Json:
    """Decide a task: this ranking becomes final."""
    return {"id": done(lambda: store.adjudicate(id, viewer.user_id, body.ranks, body.labels, body.comment))}


@router.post("/api/tasks/{id}/gold", tags=["lead"])
def make_gold(viewer: Lead, store: Store, id: str, body: GoldBody) -> Json:
    """Make a test task of it."""
    done(lambda: store.make_gold(id, body.ranks, body.labels, body.prompt))
    return {"id": id}


@router.post("/api/tasks/{id}/{action}", tags=["lead"])
def set_task_state(viewer: Lead, store: Store, id: str, action: Literal["pause", "resume", "cancel"]) -> Json:
    """Take a task out of the queue, put it back, or end it."""
    return {"state": done(lambda: store.set_task_state(id, action))}


@router.post("/api/assignments/{id}/review", tags=["lead"])
def review(viewer: Lead, store: Store, id: str, body: ReviewBody) -> Json:
    """Accept, send back with a note, or reject."""
    return {"state": done(lambda: store.review(id, viewer.user_id, body.decision, body.note))}


@router.get("/api/agreement", tags=["lead"])
def agreement(viewer: Lead, store: Store, project: str) -> Json:
    """How far labelers agree, who stands out, who passes the tests."""
    return done(lambda: store.agreement(project))


@router.post("/api/admin/projects/{id}/labelers/{user}", tags=["lead"])
def set_standing(viewer: Lead, store: Store, id: str, user: str, body: StandingBody) -> Json:
    """Let a labeler go on, stop one, or send one to the quiz again."""
    done(lambda: store.set_standing(id, user, body.state))
    return {"state": body.state}


# Data and exports


@router.get("/api/data", tags=["lead"])
def data(viewer: Lead, store: Store) -> Json:
    """From prompts to exports, with what they look like."""
    return store.funnel()


@router.get("/api/exports", tags=["lead"])
def exports(viewer: Lead, store: Store) -> Json:
    """Frozen files, newest first."""
    return {"items": store.exports(), "next": None}


@router.post("/api/exports", tags=["lead"], status_code=201)
def add_export(viewer: Lead, store: Store, service: ServiceOf, body: ExportBody) -> Json:
    """Freeze what the store holds now. The same content is the same export."""
    selection = Selection(project=body.project, rounds=tuple(body.rounds), labelers=tuple(body.labelers))
    folder = service.settings.workspace / "exports"
    snapshot = done(lambda: store.export(body.kind, folder, selection))
    return next(row for row in store.exports() if row["sha256"] == snapshot.sha256 and row["kind"] == snapshot.kind)


@router.get(
    "/api/exports/{id}/download",
    tags=["lead"],
    response_class=FileResponse,
    responses=openapi.of_kinds("application/json", "application/jsonl"),
)
def download(viewer: Lead, store: Store, id: str, part: Literal["rows", "manifest"] = "rows") -> Response:
    """The file, byte for byte as it was frozen, or its manifest."""
    path, _ = done(lambda: store.export_path(id))
    path = path.with_suffix(".manifest.json") if part == "manifest" else path
    media = "application/json" if part == "manifest" else "application/jsonl"
    return FileResponse(path, media_type=media, filename=path.name)


@router.get("/api/exports/{id}/diff", tags=["lead"])
def diff(viewer: Lead, store: Store, id: str, other: str) -> Json:
    """Rows added and removed since another export."""
    return done(lambda: store.diff(id, other))
