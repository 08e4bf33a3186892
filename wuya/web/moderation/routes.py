"""`/api/admin/moderation`: rules and the queue; `/api/messages/{id}/report`: what readers report."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import uuid7
from wuya.web import audit, consent
from wuya.web.accounts.auth import Viewer, require
from wuya.web.errors import ApiError
from wuya.web.moderation import store
from wuya.web.moderation.moderator import check_scorer, moderator_of
from wuya.web.routing import Router
from wuya.web.service import Service, service_of

router = Router(prefix="/api", tags=["moderation"])
ServiceNow = Annotated[Service, Depends(service_of)]
ModeratorOnly = Annotated[Viewer, Depends(require("moderate"))]
Reader = Annotated[Viewer, Depends(require("chat"))]
Word = Annotated[str, Field(min_length=1, max_length=200)]


class Body(BaseModel):
    """A JSON body; unknown members are refused."""

    model_config = ConfigDict(extra="forbid")


class RuleBody(Body):
    """A rule: words, or a scorer with a threshold."""

    id: Annotated[str, Field(max_length=60)] = ""
    name: Annotated[str, Field(min_length=1, max_length=80)]
    stages: Annotated[list[Literal["input", "output"]], Field(min_length=1, max_length=2)]
    action: Literal["flag", "block"]
    words: Annotated[list[Word], Field(max_length=5000)] = []
    scorer: Annotated[str, Field(max_length=500)] = ""
    threshold: float = 0.0
    below: bool = False
    enabled: bool = True


class Rules(Body):
    """All rules."""

    items: Annotated[list[RuleBody], Field(max_length=200)]


class Try(Body):
    """A text to try the rules on."""

    text: Annotated[str, Field(max_length=20_000)]
    stage: Literal["input", "output"] = "input"


class Decision(Body):
    """What a moderator decides."""

    decision: Literal["dismiss", "hide", "warn", "suspend"]
    note: Annotated[str, Field(max_length=2000)] = ""


class Report(Body):
    """Why a message should be looked at."""

    reason: Literal["harmful", "illegal", "personal", "spam", "other"] = "other"
    comment: Annotated[str, Field(max_length=2000)] = ""


@router.get("/admin/moderation/rules")
def rules(service: ServiceNow, viewer: ModeratorOnly) -> dict[str, Any]:
    """Every rule."""
    with reading(service.database) as connection:
        return {"items": store.rules(connection), "next": None}


@router.put("/admin/moderation/rules")
def set_rules(request: Request, body: Rules, service: ServiceNow, viewer: ModeratorOnly) -> dict[str, Any]:
    """Replace the rules."""
    for rule in body.items:
        if bool(rule.words) == bool(rule.scorer):
            raise ApiError(422, "invalid_value", f"rule {rule.name!r}: give words or a scorer", param="words")
        if rule.scorer:
            check_scorer(service.settings.workspace, rule.scorer)
    rows = [rule.model_dump() | {"id": rule.id or uuid7()} for rule in body.items]
    with writing(service.database) as connection:
        store.set_rules(connection, rows)
        diff = {"rules": [{"name": row["name"], "action": row["action"]} for row in rows]}
        audit.record(connection, service, "moderation.rules", viewer=viewer, request=request, diff=diff)
    moderator_of(service).reload()
    return rules(service, viewer)


@router.post("/admin/moderation/try")
def try_rules(body: Try, service: ServiceNow, viewer: ModeratorOnly) -> dict[str, Any]:
    """What the rules say about a text."""
    verdict = moderator_of(service).look(body.text, body.stage)
    if verdict is None:
        return {"fired": False}
    named = {"rule": verdict.rule.name, "action": verdict.rule.action, "found": verdict.found, "score": verdict.score}
    return {"fired": True} | named


@router.get("/admin/moderation/queue")
def queue(
    service: ServiceNow, viewer: ModeratorOnly, state: Annotated[str, Query(pattern="^(open|closed)$")] = "open"
) -> dict[str, Any]:
    """What waits for a decision, or was decided. Texts are shown only by opening an event, which is audited."""
    with reading(service.database) as connection:
        return {"items": store.queue(connection, state=state), "next": None}


@router.post("/admin/moderation/queue/{id}/open")
def open_event(request: Request, id: str, service: ServiceNow, viewer: ModeratorOnly) -> dict[str, Any]:
    """The event with the few messages that a decision needs; that somebody looked goes into the audit log."""
    with writing(service.database) as connection:
        row = store.event(connection, id)
        audit.record(
            connection, service, "moderation.look", viewer=viewer, request=request, object="event", object_id=id
        )
        return row | {"messages": store.context(connection, row)}


@router.post("/admin/moderation/queue/{id}")
def decide(request: Request, id: str, body: Decision, service: ServiceNow, viewer: ModeratorOnly) -> dict[str, Any]:
    """Dismiss, hide, warn or suspend."""
    with writing(service.database) as connection:
        row = store.decide(connection, id, body.decision, body.note, viewer.user_id)
        if row["subject"] == "message":
            consent.refresh(connection, row["subject_id"], secret=service.settings.secret)  # hidden: not for training
        diff = {"decision": body.decision}
        audit.record(
            connection, service, "moderation.decide", viewer=viewer, request=request, object="event", object_id=id,
            diff=diff,
        )  # fmt: skip
    return row


@router.post("/messages/{id}/report", status_code=202)
def report(id: str, body: Report, service: ServiceNow, viewer: Reader) -> dict[str, bool]:
    """Ask a moderator to look at a message of one's own chats. Asking twice is asking once."""
    with writing(service.database) as connection:
        if store.message_owner(connection, id) != viewer.user_id:
            raise ApiError(404, "not_found", "there is no such message")
        if not store.has_open_report(connection, id, viewer.user_id):
            named = {"subject": "message", "subject_id": id, "user_id": viewer.user_id, "reporter_id": viewer.user_id}
            store.add_event(connection, stage="report", rule=body.reason, note=body.comment, action="flag", **named)
    return {"reported": True}
