"""Answers for ranking from the service's own models: a lead asks for K answers to each of some approved prompts.

One job a project, in the background and behind chats (they are served first). Each prompt's answers are queued as soon
as they are written, so a stopped server loses a handful at most; asking again goes on with prompts that have no task.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends
from pydantic import Field
from sqlalchemy import select

from wuya.data.messages import plain_messages, plain_tools
from wuya.database.base import uuid7
from wuya.database.connection import reading, writing
from wuya.database.labeling_tables import ModelVersion
from wuya.errors import RunError, WuyaError
from wuya.feedback import projects
from wuya.feedback.projects import NewTask
from wuya.inference.backends.protocol import (
    Delta,
    Done,
    Event,
    Failed,
    GenerationParams,
    GenerationRequest,
    ModelInfo,
)
from wuya.records import Candidate, Prompt
from wuya.web.accounts.auth import Viewer, require
from wuya.web.errors import ApiError
from wuya.web.labeling.bodies import Body
from wuya.web.labeling.refusals import done
from wuya.web.routing import Router
from wuya.web.service import Service, service_of
from wuya.web.traffic import models_of, traffic_of

router = Router()
Lead = Annotated[Viewer, Depends(require("label:lead"))]
ServiceOf = Annotated[Service, Depends(service_of)]
PROMPTS_AT_ONCE = 4
BEHIND_CHATS = 10
"""Priority in the engine's queue; chats have 0."""


class SampleBody(Body):
    """Which models answer how many prompts, how often."""

    models: list[Annotated[str, Field(max_length=200)]] = Field(min_length=1, max_length=9)
    k: Annotated[int, Field(ge=2, le=9)] = 4
    prompts: Annotated[int, Field(ge=1, le=100_000)] = 100
    split: Literal["train", "val", "test"] = "train"
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    round: Annotated[int, Field(ge=0, le=1_000_000)] = 0


@dataclass(slots=True)
class SamplingJob:
    """How far a project's sampling is."""

    state: Literal["none", "running", "done", "stopped", "failed"] = "none"
    total: int = 0
    """Prompts."""
    asked: int = 0
    """Prompts whose answers are there."""
    added: int = 0
    """Tasks queued."""
    too_alike: int = 0
    """Prompts left out: too few of their answers differ."""
    error: str = ""


class Sampler:
    """The service's sampling jobs, the latest of each project."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.jobs: dict[str, SamplingJob] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        service.on_shutdown.append(self.stop_all)

    def start(self, project: str, body: SampleBody, prompts: Sequence[Prompt], *, fewest: int) -> SamplingJob:
        """Begin; a prompt with fewer than `fewest` different answers is left out.

        Raises: ApiError while the project has a job, or for a model that is not there.
        """
        if self.jobs.get(project, SamplingJob()).state == "running":
            raise ApiError(409, "already_sampling", "answers are being sampled for this project")
        known = {model.alias: model for model in models_of(self._service.engine)}
        if missing := [alias for alias in body.models if alias not in known]:
            raise ApiError(422, "invalid_value", f"there is no model {missing[0]!r}", param="models")
        job = self.jobs[project] = SamplingJob("running", total=len(prompts))
        work = self._run(job, project, body, [known[alias] for alias in body.models], prompts, fewest)
        self._tasks[project] = asyncio.create_task(work)
        return job

    def stop(self, project: str) -> None:
        """End a project's job; what is queued stays."""
        if task := self._tasks.pop(project, None):
            task.cancel()

    async def stop_all(self) -> None:
        """The server goes down."""
        for project in list(self._tasks):
            self.stop(project)

    async def _run(
        self,
        job: SamplingJob,
        project: str,
        body: SampleBody,
        models: Sequence[ModelInfo],
        prompts: Sequence[Prompt],
        fewest: int,
    ) -> None:
        try:
            for start in range(0, len(prompts), PROMPTS_AT_ONCE):
                part = prompts[start : start + PROMPTS_AT_ONCE]
                answers = await asyncio.gather(*(self._answers(prompt, body, models) for prompt in part))
                tasks = [NewTask((p, found)) for p, found in zip(part, answers, strict=True) if len(found) >= fewest]
                job.added += await asyncio.to_thread(self._queue, project, tasks, body.round)
                job.asked += len(part)
                job.too_alike += len(part) - len(tasks)
            job.state = "done"
        except asyncio.CancelledError:
            job.state = "stopped"
            raise
        except WuyaError as error:
            job.state, job.error = "failed", str(error)

    async def _answers(self, prompt: Prompt, body: SampleBody, models: Sequence[ModelInfo]) -> tuple[Candidate, ...]:
        """K answers, shared out among the models; equal ones once."""
        shares = [body.k // len(models) + (place < body.k % len(models)) for place in range(len(models))]
        found: dict[str, Candidate] = {}
        for model, count in zip(models, shares, strict=True):
            if count:
                for candidate in await self._of_model(prompt, body, model, count):
                    found.setdefault(candidate.text, candidate)
        return tuple(found.values())

    async def _of_model(self, prompt: Prompt, body: SampleBody, model: ModelInfo, count: int) -> list[Candidate]:
        engine, version = self._service.engine, traffic_of(self._service).version_of
        messages, tools = plain_messages(prompt.messages), plain_tools(prompt.tools) or None
        ids = await engine.encode_chat(model.alias, messages, tools=tools)
        params = GenerationParams(max_tokens=body.max_tokens, temperature=body.temperature, n=count)
        request = GenerationRequest(
            job=f"sample-{uuid7()}", model=model.alias, prompt_ids=tuple(ids), params=params, priority=BEHIND_CHATS
        )
        texts, whole = [""] * count, [False] * count
        events: AsyncGenerator[Event, None] = engine.submit(request)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Delta):
                    texts[event.index] += event.text
                elif isinstance(event, Done):
                    whole[event.index] = event.finish_reason == "stop"
                elif isinstance(event, Failed):
                    raise RunError(f"`{model.alias}` could not answer", found=event.message)
        name = await asyncio.to_thread(self._name_of, await asyncio.to_thread(version, model))
        return [
            Candidate(text.strip(), model=name, finished=ended, temperature=body.temperature)
            for text, ended in zip(texts, whole, strict=True)
            if text.strip()
        ]

    def _name_of(self, version: str) -> str:
        with reading(self._service.database) as connection:
            return str(connection.execute(select(ModelVersion.name).where(ModelVersion.id == version)).scalar_one())

    def _queue(self, project: str, tasks: Sequence[NewTask], round: int) -> int:
        with writing(self._service.database) as connection:
            row = projects.project_row(connection, project)
            return projects.add_tasks(connection, row, tasks, round=round).added


def sampler_of(service: Service) -> Sampler:
    """The service's sampler."""
    if Sampler not in service.parts:
        service.put(Sampler(service))
    return service.get(Sampler)


def _free_prompts(service: Service, project: str, body: SampleBody) -> tuple[list[Prompt], int]:
    """Approved prompts without a task in the project, and the fewest answers it ranks."""
    with reading(service.database) as connection:
        row = projects.project_row(connection, project)
        if row["type"] not in ("ranking", "pairwise"):
            raise ApiError(422, "invalid_value", "only rankings and comparisons need answers", param="project")
        if not row["k_min"] <= body.k <= row["k_max"]:
            bounds = f"{row['k_min']} to {row['k_max']}"
            raise ApiError(422, "invalid_value", f"this project ranks {bounds} answers", param="k")
        found = projects.tasks_from_prompts(connection, row, split=body.split, limit=body.prompts)
        return [task.answers[0] for task in found], int(row["k_min"])


@router.post("/api/admin/projects/{id}/sample", tags=["lead"], status_code=202)
async def sample(viewer: Lead, service: ServiceOf, id: str, body: SampleBody) -> dict[str, Any]:
    """Have models answer approved prompts that have no task in the project, and queue the answers for ranking."""
    prompts, fewest = await asyncio.to_thread(lambda: done(lambda: _free_prompts(service, id, body)))
    sampler_of(service).start(id, body, prompts, fewest=fewest)
    return _shown(service, id)


@router.get("/api/admin/projects/{id}/sample", tags=["lead"])
def sampling(viewer: Lead, service: ServiceOf, id: str) -> dict[str, Any]:
    """How far the project's sampling is (`none`: not asked for since the server started), and who can answer."""
    return _shown(service, id)


@router.delete("/api/admin/projects/{id}/sample", tags=["lead"])
async def stop_sampling(viewer: Lead, service: ServiceOf, id: str) -> dict[str, Any]:
    """Stop it; what is queued stays."""
    sampler = sampler_of(service)
    sampler.stop(id)
    await asyncio.sleep(0)
    return _shown(service, id)


def _shown(service: Service, project: str) -> dict[str, Any]:
    job = sampler_of(service).jobs.get(project, SamplingJob())
    return asdict(job) | {"models": [model.alias for model in models_of(service.engine)]}
