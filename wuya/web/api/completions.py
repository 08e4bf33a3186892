"""`POST /v1/completions`: text in, its continuation out; the endpoint that evaluation harnesses read log-probs from."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from wuya.inference.backends.protocol import GenerationParams, ModelInfo, TokenLogprob
from wuya.web.api import refusals, sse
from wuya.web.api.answering import Head, Plan, answer, new_head
from wuya.web.api.desk import Caller, find_model
from wuya.web.api.jobs import Jobs
from wuya.web.api.params import completion_params
from wuya.web.api.pieces import LegacyLogprobs, Piece, pieces
from wuya.web.api.schema import CompletionRequest
from wuya.web.api.screening import Watch, screen_texts, watch_of
from wuya.web.moderation.moderator import moderator_of
from wuya.web.service import Service

KIND = "text_completion"


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as it stands before its continuation."""

    text: str = ""
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True, slots=True)
class _Whole:
    """A request with its prompts read."""

    service: Service
    body: CompletionRequest
    head: Head
    prompts: Sequence[Sequence[int]]
    texts: Sequence[str | None]
    """Of each prompt, where that is what was sent."""
    watch: Watch | None

    @property
    def num_choices(self) -> int:
        """Choices of each prompt that the engine writes."""
        return self.body.best_of or self.body.n or 1

    async def echoes(self) -> list[Echo]:
        """What stands before each continuation."""
        if not self.body.echo:
            return [Echo()] * len(self.prompts)
        engine, alias, top = self.service.engine, self.head.model.alias, self.body.logprobs
        echoes = []
        for ids, text in zip(self.prompts, self.texts, strict=True):
            shown = text if text is not None else await engine.decode(alias, ids)
            echoes.append(Echo(shown, await engine.score(alias, ids, top) if top is not None else ()))
        return echoes


async def complete(request: Request, service: Service, caller: Caller, body: CompletionRequest) -> Response:
    """Check, encode, and answer as a stream or at once."""
    model = find_model(service, caller, body.model)
    prompts, texts = await _read_prompts(service, model, body)
    head = new_head("cmpl", model)
    plan = Plan(service, caller, body, head, prompts, [_params(body, len(ids), model) for ids in prompts])
    await screen_texts(service, caller, await _readable(service, model, prompts, texts))
    whole = _Whole(service, body, head, prompts, texts, await watch_of(service, caller))
    return await answer(
        request, plan, encode=lambda jobs: encode(whole, jobs), collect=lambda jobs: collect(whole, jobs)
    )


async def _read_prompts(
    service: Service, model: ModelInfo, body: CompletionRequest
) -> tuple[list[list[int]], list[str | None]]:
    """Ids of each prompt, and its text where that is what was sent."""
    given: list[Any] = [body.prompt] if isinstance(body.prompt, str) else list(body.prompt)
    if given and isinstance(given[0], int):
        given = [given]
    texts = [prompt if isinstance(prompt, str) else None for prompt in given]
    prompts = [
        await service.engine.tokenize(model.alias, prompt) if isinstance(prompt, str) else list(prompt)
        for prompt in given
    ]
    if not all(prompts):
        raise refusals.invalid_value("a prompt needs at least one token", "prompt")
    return prompts, texts


async def _readable(
    service: Service, model: ModelInfo, prompts: Sequence[Sequence[int]], texts: Sequence[str | None]
) -> list[str]:
    """The prompts as moderation reads them; those sent as ids are decoded where there are rules."""
    has_rules = bool(await run_in_threadpool(moderator_of(service).rules))
    return [
        await service.engine.decode(model.alias, list(ids)) if text is None else text
        for ids, text in zip(prompts, texts, strict=True)
        if has_rules
    ]


def _params(body: CompletionRequest, prompt_tokens: int, model: ModelInfo) -> GenerationParams:
    ranked = (body.best_of or 1) > (body.n or 1)
    logprobs = body.logprobs if body.logprobs is not None else 0 if ranked else None
    return completion_params(body, prompt_tokens=prompt_tokens, model=model, logprobs=logprobs)


# ---- as a stream


async def encode(whole: _Whole, jobs: Jobs) -> AsyncGenerator[bytes, None]:
    """Echoes, pieces of all choices as they come, their ends, and the usage if asked for."""
    body, head = whole.body, whole.head
    before = {"usage": None} if body.wants_usage else {}
    echoes = await whole.echoes()
    tables = [LegacyLogprobs() for _ in range(len(echoes) * whole.num_choices)]

    def chunk(piece: Piece) -> bytes:
        logprobs = tables[piece.index].of(piece.logprobs) if body.logprobs is not None else None
        return sse.event(head.of(KIND, [_choice(piece.index, piece.text, logprobs, piece.finish_reason)]) | before)

    if body.echo:
        for index in range(len(tables)):
            echo = echoes[index // whole.num_choices]
            yield chunk(Piece(index, echo.text, logprobs=echo.logprobs))
    async for piece in pieces(jobs, choices_per_prompt=whole.num_choices, watch=whole.watch):
        if piece.text or (piece.logprobs and body.logprobs is not None) or piece.finish_reason:
            yield chunk(piece)
    if body.wants_usage:
        yield sse.event(head.of(KIND, []) | {"usage": jobs.usage.as_json()})


# ---- at once


async def collect(whole: _Whole, jobs: Jobs) -> dict[str, Any]:
    """The whole object; of `best_of` completions the n likeliest a token."""
    body, count = whole.body, whole.num_choices
    found = [_Continuation(echo) for echo in await whole.echoes() for _ in range(count)]
    async for piece in pieces(jobs, choices_per_prompt=count, watch=whole.watch):
        found[piece.index].add(piece)
    kept: list[_Continuation] = []
    for start in range(0, len(found), count):
        group = found[start : start + count]
        if count > (body.n or 1):
            group = sorted(group, key=_Continuation.mean_logprob, reverse=True)[: body.n or 1]
        kept += group
    choices = [choice.as_json(index, with_logprobs=body.logprobs is not None) for index, choice in enumerate(kept)]
    return whole.head.of(KIND, choices) | {"usage": jobs.usage.as_json()}


@dataclass(slots=True)
class _Continuation:
    """One choice as it fills."""

    echo: Echo
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.logprobs += piece.logprobs
        self.finish_reason = piece.finish_reason or self.finish_reason

    def mean_logprob(self) -> float:
        return sum(token.logprob for token in self.logprobs) / max(1, len(self.logprobs))

    def as_json(self, index: int, *, with_logprobs: bool) -> dict[str, Any]:
        logprobs = LegacyLogprobs().of([*self.echo.logprobs, *self.logprobs]) if with_logprobs else None
        return _choice(index, self.echo.text + self.text, logprobs, self.finish_reason)


def _choice(index: int, text: str, logprobs: Any, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
