"""What chat and legacy completions share: accept, then stream or collect, and end everything when the client leaves."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wuya.inference.backends.protocol import GenerationParams, GenerationRequest, ModelInfo
from wuya.web.api import refusals, sse
from wuya.web.api.desk import Caller, Desk
from wuya.web.api.jobs import Jobs, open_jobs, unless_client_leaves
from wuya.web.api.schema import Body, SamplingBody, ignored
from wuya.web.errors import ApiError
from wuya.web.operations.metrics import metrics_of
from wuya.web.service import Service


@dataclass(frozen=True, slots=True)
class Head:
    """What every event of one answer repeats."""

    id: str
    created: int
    model: ModelInfo

    def of(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """An object of OpenAI's with these choices."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.alias,
            "system_fingerprint": self.model.fingerprint,
            "choices": list(choices),
        }


def new_head(prefix: str, model: ModelInfo) -> Head:
    """Id and time of a new answer."""
    return Head(f"{prefix}-{secrets.token_hex(16)}", int(time.time()), model)


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request, ready for the engine."""

    service: Service
    caller: Caller
    body: SamplingBody
    head: Head
    prompts: Sequence[Sequence[int]]
    params: Sequence[GenerationParams]

    def requests(self) -> list[GenerationRequest]:
        """The engine's job for each prompt."""
        return [
            GenerationRequest(
                job=f"{self.head.id}-{number}",
                model=self.head.model.alias,
                prompt_ids=tuple(prompt),
                params=params,
                user=self.caller.key.id if self.caller.key else self.caller.user_id,
            )
            for number, (prompt, params) in enumerate(zip(self.prompts, self.params, strict=True))
        ]


async def answer(
    request: Request,
    plan: Plan,
    *,
    encode: Callable[[Jobs], AsyncGenerator[bytes, None]],
    collect: Callable[[Jobs], Coroutine[Any, Any, dict[str, Any]]],
) -> Response:
    """Stream with `encode` or answer at once with `collect`; both read the same jobs."""
    async with AsyncExitStack() as stack:
        jobs, headers = await unless_client_leaves(request, _accept(plan, stack))
        headers |= ignored_header(plan.body)
        if plan.body.stream:
            return sse.EventStream(sse.guarded(encode(jobs)), headers, on_close=stack.pop_all().aclose)
        try:
            body = await unless_client_leaves(request, collect(jobs))
        except ApiError as error:
            raise _before_the_first_byte(error) from None
    return JSONResponse(body, headers=headers)


async def _accept(plan: Plan, stack: AsyncExitStack) -> tuple[Jobs, dict[str, str]]:
    most = sum(params.max_tokens * params.n for params in plan.params)
    desk = plan.service.get(Desk)
    ticket = await desk.admit(plan.caller, plan.head.model, prompt_tokens=sum(map(len, plan.prompts)), max_tokens=most)
    stack.callback(ticket.close)
    names = {request.job for request in plan.requests()}
    desk.live |= names
    stack.callback(desk.live.difference_update, names)
    jobs = await stack.enter_async_context(open_jobs(plan.service.engine, plan.requests(), metrics_of(plan.service)))
    ticket.usage = jobs.usage
    return jobs, dict(ticket.headers)


def _before_the_first_byte(error: ApiError) -> ApiError:
    """A lost engine is a status here, and one that the client may try again."""
    return refusals.overloaded(error.message) if error.status == 503 else error


def ignored_header(body: Body) -> dict[str, str]:
    """Names of the fields that had no effect, if there are any."""
    names = [name for name in ignored(body) if name.isascii() and name.replace("_", "").replace("-", "").isalnum()]
    return {"x-ignored-params": ", ".join(names)[:1000]} if names else {}
