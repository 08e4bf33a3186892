"""From a message to answers being written: parameters, the prompt that fits the context, rows, jobs.

Everything that can be refused is refused before anything is written: an unknown model, a prompt that is too long, too
many answers at once.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, update

from wuya.database.base import uuid7
from wuya.database.connection import reading
from wuya.database.service_tables import ChatMessage
from wuya.inference.backends.protocol import (
    ContextTooLong,
    GenerationParams,
    GenerationRequest,
    ServingEngine,
    UnknownModel,
)
from wuya.web import consent
from wuya.web.chat import ledger, messages, opinions, store, views
from wuya.web.chat.job import Job
from wuya.web.chat.jobs import GenerationHub
from wuya.web.chat.schema import PARAMS, Generate, Params
from wuya.web.errors import ApiError
from wuya.web.moderation.moderator import moderator_of
from wuya.web.service import Service
from wuya.web.traffic import Route, models_of, traffic_of
from wuya.web.tree import tree_of

LEAST_ANSWER = 16
"""Tokens: if not even so many fit behind the prompt, the prompt is too long."""
Text = dict[str, str]


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """Token ids of a chat that leave room for the answer."""

    ids: tuple[int, ...]
    max_tokens: int
    dropped: tuple[str, ...]
    """Ids of the oldest messages, which did not fit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Answers to be written: the message they answer, and how."""

    conversation: RowMapping
    path: tuple[Text, ...]
    """Up to the message that is answered; {id, role, content}."""
    requests: tuple[GenerationRequest, ...]
    routes: tuple[Route, ...]
    """Which version writes each of them."""
    is_comparison: bool = False
    continued: str = ""
    """The id of the message to go on with, instead of writing new ones."""
    text: str = ""
    tokens: int = 0


def default_model(service: Service) -> str:
    """The alias new chats use. Raises: ApiError 503 if no model is loaded."""
    models = [model.alias for model in models_of(service.engine)]
    if service.settings.default_model in models:
        return service.settings.default_model
    if not models:
        raise ApiError(503, "no_model", "no model is loaded yet", retry_after=5)
    return models[0]


def known_model(service: Service, alias: str) -> str:
    """The alias, if people may ask for it. Raises: UnknownModel."""
    aliases = [model.alias for model in models_of(service.engine)]
    if alias not in aliases:
        raise UnknownModel(alias, aliases)
    return alias


def context_length(engine: ServingEngine, model: str) -> int:
    """Tokens a model can hold. Raises: UnknownModel."""
    models = {found.alias: found for found in engine.info().models}
    if model not in models:
        raise UnknownModel(model, list(models))
    return models[model].context_length


async def fit(engine: ServingEngine, model: str, texts: Sequence[Text], wanted: int) -> FittedPrompt:
    """Leave out the oldest turns until prompt and answer fit. Raises: UnknownModel, ContextTooLong."""
    context = context_length(engine, model)
    reserved = min(wanted, max(LEAST_ANSWER, context // 2))
    system = [text for text in texts[:1] if text["role"] == "system"]
    turns = list(texts[len(system) :])
    dropped: list[str] = []
    while True:
        ids = await engine.encode_chat(model, [_turn(text) for text in (*system, *turns)])
        room = context - len(ids)
        if room >= reserved or (len(turns) == 1 and room >= LEAST_ANSWER):
            return FittedPrompt(tuple(ids), min(wanted, room), tuple(dropped))
        if len(turns) <= 1:
            raise ContextTooLong(prompt_tokens=len(ids), max_tokens=LEAST_ANSWER, context_length=context)
        excess, count = reserved - room, 0
        while len(turns) > 1 and (count == 0 or excess > 0):  # characters guess how many turns must go
            excess -= max(1, len(turns[0]["content"]) // 6)
            dropped.append(turns.pop(0)["id"])
            count += 1
        while len(turns) > 1 and turns[0]["role"] == "assistant":  # an answer without its question helps nobody
            dropped.append(turns.pop(0)["id"])


async def plan(
    service: Service,
    hub: GenerationHub,
    user_id: str,
    conversation: RowMapping,
    path: Sequence[Text],
    options: Generate,
) -> Plan:
    """What to write below the last message of `path`. Raises before anything happens."""
    compare = options.compare or options.models is not None
    aliases = options.models or [options.model or conversation["model_alias"] or default_model(service)]
    aliases = aliases * 2 if compare and len(aliases) == 1 else aliases if compare else aliases * options.n
    if compare:  # ids and siblings keep the order of writing, which must not tell whose answer is whose
        secrets.SystemRandom().shuffle(aliases)
    hub.admit(user_id, len(aliases))
    params = params_of(conversation["params"], options.params)
    texts = _with_system(conversation["system_prompt"], path)
    await asyncio.to_thread(_screen, service, texts)
    known = {alias: await traffic_of(service).route(alias, conversation["id"]) for alias in dict.fromkeys(aliases)}
    routes = tuple(known[alias] for alias in aliases)
    fitted = {route: await fit(service.engine, route.engine_alias, texts, params.max_tokens) for route in set(routes)}
    requests = []
    for index, route in enumerate(routes):
        seed = params.seed + index if params.seed is not None else secrets.randbits(31)
        own = replace(params, seed=seed, max_tokens=fitted[route].max_tokens)
        ids = fitted[route].ids
        requests.append(
            GenerationRequest(job=uuid7(), model=route.engine_alias, prompt_ids=ids, params=own, user=user_id)
        )
    return Plan(conversation, tuple(path), tuple(requests), routes, is_comparison=compare)


async def plan_continuation(
    service: Service, hub: GenerationHub, user_id: str, conversation: RowMapping, path: Sequence[Text], row: RowMapping
) -> Plan:
    """How to go on with an answer that was cut; `path` ends with it."""
    if row["role"] != "assistant" or row["status"] == "streaming":
        raise ApiError(409, "not_continuable", "only an answer that has ended can be continued")
    hub.admit(user_id, 1)
    alias = row["model_alias"] or conversation["model_alias"] or default_model(service)
    params = params_of(conversation["params"], Params())
    texts = _with_system(conversation["system_prompt"], path)
    await asyncio.to_thread(_screen, service, texts)
    route = await traffic_of(service).route(alias, conversation["id"])
    fitted = await fit(service.engine, route.engine_alias, texts, params.max_tokens)
    own = replace(params, seed=params.seed if params.seed is not None else secrets.randbits(31),
                  max_tokens=fitted.max_tokens)  # fmt: skip
    request = GenerationRequest(job=uuid7(), model=route.engine_alias, prompt_ids=fitted.ids, params=own, user=user_id)
    return Plan(conversation, tuple(path), (request,), (route,), continued=row["id"], text=row["content"],
                tokens=row["completion_tokens"] or 0)  # fmt: skip


def carry_out(connection: Connection, plan: Plan, user_id: str, parent_id: str, *, secret: bytes) -> tuple[
    list[Job], str | None
]:  # fmt: skip
    """Write the rows of a plan: answers that are empty still, their generations, the comparison. Jobs to start."""
    ledger.admit(connection, user_id, len(plan.requests))
    conversation_id = plan.conversation["id"]
    jobs, rows = [], []
    for request, route in zip(plan.requests, plan.routes, strict=True):
        if plan.continued:
            id = plan.continued
            values = {"status": "streaming", "generation_id": request.job, "finish_reason": None, "error_code": None}
            connection.execute(update(ChatMessage).where(ChatMessage.id == id).values(**values))
        else:
            id = messages.add(
                connection, conversation_id, parent_id, "assistant", "", status="streaming",
                model_alias=route.alias, model_version_id=route.version_id, generation_id=request.job,
            )  # fmt: skip
        rows.append(_generation_row(request, route, conversation_id, id, user_id, base_tokens=plan.tokens))
        question = next((text["content"] for text in reversed(plan.path) if text["role"] == "user"), "")
        job = Job(request, conversation_id, id, user_id, question, text=plan.text, tokens=plan.tokens)
        job.is_blind = plan.is_comparison
        jobs.append(job)
    ledger.begin(connection, rows)
    comparison = None
    shown = jobs[0].message_id
    if plan.is_comparison:
        sides = (jobs[0].message_id, jobs[1].message_id)
        comparison = opinions.begin_comparison(connection, conversation_id, parent_id, sides)
        shown = opinions.find_comparison(connection, comparison)["left"]
    store.touch(connection, conversation_id, active_leaf_id=shown)
    if plan.conversation["data_use"]:
        consent.publish(connection, conversation_id, secret=secret)
    return jobs, comparison


def started(connection: Connection, message_ids: Sequence[str], comparison: str | None, user_id: str, id: str) -> dict[
    str, Any
]:  # fmt: skip
    """What a page needs after answers began: messages, generations, comparison, conversation."""
    tree = tree_of(connection, id)
    shown = views.messages(connection, message_ids, tree, user_id)
    jobs = [ledger.generation(connection, m["generation_id"], user_id) for m in shown if m["generation_id"]]
    row = store.owned(connection, id, user_id)
    return {
        "messages": shown,
        "generations": [views.generation(job) for job in jobs],
        "comparison": opinions.find_comparison(connection, comparison) if comparison else None,
        "conversation": views.conversations(connection, [row])[0],
    }


async def count_tokens(service: Service, user_id: str, body: Any) -> dict[str, Any]:
    """Tokens of a text, or of the whole prompt it would be the end of, and which turns would not fit."""
    if body.conversation_id is None:
        model = known_model(service, body.model or default_model(service))
        ids = await service.engine.tokenize(model, body.text)
        length = context_length(service.engine, model)
        return {"tokens": len(ids), "context_length": length, "reserved": 0, "dropped": [], "truncated": False}

    def load() -> tuple[RowMapping, list[Text]]:
        with reading(service.database) as connection:
            row = store.owned(connection, body.conversation_id, user_id)
            tree = tree_of(connection, row["id"])
            leaf = body.leaf_id or row["active_leaf_id"]
            return row, messages.texts(connection, tree.path(leaf if leaf in tree else tree.last_leaf()))

    conversation, path = await asyncio.to_thread(load)
    alias = body.model or conversation["model_alias"] or default_model(service)
    model = (await traffic_of(service).route(alias, body.conversation_id)).engine_alias
    texts = _with_system(conversation["system_prompt"], path)
    if body.text.strip() or not path or path[-1]["role"] != "user":  # what is asked next ends with a question
        texts.append({"id": "", "role": "user", "content": body.text})
    wanted = params_of(conversation["params"], Params()).max_tokens
    ids = await service.engine.encode_chat(model, [_turn(text) for text in texts])
    length = context_length(service.engine, model)
    reserved = min(wanted, max(LEAST_ANSWER, length // 2))
    answer = {"tokens": len(ids), "context_length": length, "reserved": reserved, "dropped": [], "truncated": False}
    try:
        fitted = await fit(service.engine, model, texts, wanted)
    except ContextTooLong:
        return answer | {"truncated": True, "dropped": [text["id"] for text in texts if text["id"]]}
    return answer | {"dropped": list(fitted.dropped), "truncated": bool(fitted.dropped)}


def params_of(stored: dict[str, Any], once: Params) -> GenerationParams:
    """Defaults, the chat's own, this once: the later wins."""
    values = {name: spec["default"] for name, spec in PARAMS.items()} | stored | once.given()
    values["stop"] = tuple(values["stop"])
    return GenerationParams(**values)


def _with_system(system: str, path: Sequence[Text]) -> list[Text]:
    first = [{"id": "", "role": "system", "content": system}] if system.strip() else []
    return [*first, *path]


def _screen(service: Service, texts: Sequence[Text]) -> None:
    """Refuse a chat with a blocked text that people brought in: system prompts, imports and copies are not screened
    when they are stored, and rules change. Answers of our own models fall under the rules for outputs."""
    words = moderator_of(service).word_rules()
    for text in texts:
        verdict = words.check(text["content"], "input") if text.get("author") != "model" else None
        if verdict is not None and verdict.rule.action == "block":
            message = "this chat has a text that breaks a rule of this server"
            raise ApiError(400, "content_policy_violation", message, param="messages")


def _turn(text: Text) -> Text:
    return {"role": text["role"], "content": text["content"]}


def _generation_row(
    request: GenerationRequest, route: Route, conversation_id: str, message_id: str, user_id: str, *, base_tokens: int
) -> dict[str, Any]:
    names = ("temperature", "top_p", "top_k", "min_p", "max_tokens", "presence_penalty", "frequency_penalty",
             "repetition_penalty")  # fmt: skip
    params: dict[str, Any] = {name: getattr(request.params, name) for name in names}
    params |= {"stop": list(request.params.stop)} | ({"base_tokens": base_tokens} if base_tokens else {})
    return {
        "id": request.job,
        "conversation_id": conversation_id,
        "message_id": message_id,
        "user_id": user_id,
        "model_alias": route.alias,
        "model_version_id": route.version_id,
        "params": params,
        "seed": request.params.seed,
        "state": "queued",
    }
